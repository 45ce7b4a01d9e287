"""Style is a test: arrows, sizes, words, and names that need two ends."""

import ast
import re
import statistics
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

# -- what belongs where --------------------------------------------------------

LAYERS = {
    "rings.layout": 0,
    "rings.errors": 0,
    "rings._core": 1,
    "rings.memory": 2,
    "rings.channel": 2,
    "rings.xen_style": 2.5,
    "rings.spsc": 2.5,
    "rings.mpmc": 2.5,
    "rings.named": 2.5,
    "rings.records": 2.5,
    "rings.protocol": 3,
    "rings.connect": 3.5,
    "rings.frontend": 4,
    "rings": 4.5,
    "rings.machine": 5,
    "rings.doctor": 5.2,
    "rings.cli": 5.4,
    "daemons._engine": 3,
    "daemons._engine_build": 9,
    "daemons.backend": 4,
    "daemons.devices": 4.2,
    "daemons.engine": 4.4,
    "daemons.server": 4.6,
    "daemons": 4.8,
    "daemons.spawn": 4.7,
    "daemons.__main__": 5,
}
COMPILED = {"rings._core", "daemons._engine"}
# Third-party packages, each with the only files that may import it, and whether
# even there it must wait until it is needed.
EDGES = {
    "cffi": {"daemons/_engine_build.py"},
    "numpy": {"rings/records.py"},
    "posix_ipc": {"rings/named.py"},
}
IMPORTED_BY_NOBODY_AT_TOP = {"rings.records", "rings.named", "daemons._engine_build"}
MAX_FILE = 300
MAX_FUNCTION = 40
MAX_MEDIAN_FUNCTION = 10
MAX_PARAMETERS = 5  # positional ones
MAX_C_LINE = 100

# Words that mean something else elsewhere; see the glossary in HACKING.md.
NOT_OUR_WORDS = {"head", "tail", "kick", "token", "epoch", "handler"}
# The kernel's words for the kernel's rings, and Python's macros.
THEIR_WORDS = re.compile(r"(sq|cq)_?\w*|Py\w*|PY\w*|IORING_\w*")


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def c_files() -> list[Path]:
    found = [ROOT.glob(f"{top}/csrc/*.[ch]") for top in ("rings", "daemons")]
    return sorted(path for paths in found for path in paths)


SOURCES = python_files("rings", "daemons")
SHIPPED = SOURCES + python_files("bench", "examples")
C_SOURCES = c_files()


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


# -- imports -------------------------------------------------------------------


class Import(NamedTuple):
    module: str
    at_top: bool
    line: int


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(path: Path) -> Iterator[Import]:
    """Every import that can run, with names of submodules resolved."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]

    def walk(node: ast.AST, at_top: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if is_type_checking(child):
                continue
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, at_top, child.lineno)
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else []
                whole = ".".join([*base, *filter(None, [child.module])])
                for alias in child.names:
                    name = f"{whole}.{alias.name}"
                    yield Import(name if is_ours(name) else whole, at_top, child.lineno)
            inner = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from walk(child, at_top and not inner)

    yield from walk(tree(path), True)


def is_ours(name: str) -> bool:
    base = ROOT.joinpath(*name.split("."))
    compiled = name in ("rings._core", "daemons._engine")
    return (
        base.with_suffix(".py").exists() or (base / "__init__.py").exists() or compiled
    )


def top_package(name: str) -> str:
    return name.split(".")[0]


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_imports_point_downwards(path):
    name = module_name(path)
    assert name in LAYERS, f"give {name} its layer here and in HACKING.md"
    for imported in imports(path):
        if top_package(imported.module) not in ("rings", "daemons"):
            continue
        if imported.module == "rings" and name.startswith("daemons"):
            continue
        if name == "daemons.spawn" and imported.module == "daemons":
            continue
        assert LAYERS[imported.module] < LAYERS[name], (
            f"{relative(path)}:{imported.line} imports {imported.module}, not below it"
        )


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_daemons_and_rings_do_not_cross(path):
    inside_rings = module_name(path).startswith("rings")
    for imported in imports(path):
        if inside_rings and imported.at_top:
            assert top_package(imported.module) != "daemons", imported
        if not inside_rings:
            assert imported.module != "rings.frontend", imported


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_third_party_packages_stay_at_their_edge(path):
    ours = {"rings", "daemons", *sys.stdlib_module_names}
    for imported in imports(path):
        package = top_package(imported.module)
        if package in ours:
            continue
        allowed = EDGES.get(package, set())
        assert relative(path) in allowed, (
            f"{relative(path)}:{imported.line} imports {package}: allowed in {allowed}"
        )


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_edges_are_imported_lazily(path):
    for imported in imports(path):
        if imported.at_top:
            assert imported.module not in IMPORTED_BY_NOBODY_AT_TOP, imported


def test_every_module_is_reached():
    """Each file is imported by another, or is a door: a command or a build step."""
    doors = {"rings", "daemons", "rings.cli", "daemons.__main__"}
    doors |= {"daemons._engine_build"}  # named in setup.py
    everywhere = python_files("rings", "daemons", "bench", "examples", "tests")
    reached = {found.module for path in everywhere for found in imports(path)}
    unreached = {module_name(path) for path in SOURCES} - reached - doors
    assert unreached == set()


# -- sizes and docstrings ------------------------------------------------------

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> list[Function]:
    return [node for node in ast.walk(tree(path)) if isinstance(node, Function)]


def body_lines(function: Function) -> int:
    """Lines of the body, signature and docstring not counted."""
    first = function.body[0]
    last_line = function.end_lineno or 0
    if ast.get_docstring(function) is not None:
        return last_line - (first.end_lineno or 0)
    return last_line - first.lineno + 1


@pytest.mark.parametrize("path", SHIPPED, ids=relative)
def test_files_fit_in_the_head(path):
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_FILE, f"{relative(path)} has {lines} lines: split it by nouns"


@pytest.mark.parametrize("path", SHIPPED, ids=relative)
def test_functions_are_short(path):
    for function in functions(path):
        lines = body_lines(function)
        assert lines <= MAX_FUNCTION, f"{function.name} has {lines} lines"


def test_most_functions_are_very_short():
    lengths = [body_lines(f) for path in SOURCES for f in functions(path)]
    assert statistics.median(lengths) <= MAX_MEDIAN_FUNCTION


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_functions_have_few_positional_parameters(path):
    for function in functions(path):
        names = [a.arg for a in function.args.posonlyargs + function.args.args]
        count = len([name for name in names if name not in ("self", "cls")])
        assert count <= MAX_PARAMETERS, f"{function.name}: make some keyword-only"


@pytest.mark.parametrize("path", SHIPPED, ids=relative)
def test_modules_say_what_they_are(path):
    assert ast.get_docstring(tree(path)), f"{relative(path)} has no docstring"


def public_definitions(node: ast.AST) -> Iterator[Function | ast.ClassDef]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            if child.name.startswith("_"):
                continue
            yield child
            if isinstance(child, ast.ClassDef):
                yield from public_definitions(child)


def is_overload(node: Function | ast.ClassDef) -> bool:
    return any("overload" in ast.unparse(mark) for mark in node.decorator_list)


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_public_names_say_what_they_are(path):
    for node in public_definitions(tree(path)):
        if not is_overload(node):
            assert ast.get_docstring(node), f"{relative(path)}: {node.name}"


# -- words ---------------------------------------------------------------------


def defined_names(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, Function | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}


def bare_c(path: Path) -> str:
    """A C file without comments and strings."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", " ", path.read_text(), flags=re.S)
    return re.sub(r'"(\\.|[^"\\])*"|\'(\\.|[^\'\\])*\'', '""', text)


def c_names(path: Path) -> set[str]:
    """Identifiers, but for members, which may be a foreign struct's."""
    return set(re.findall(r"(?<![.>\w])[A-Za-z_]\w*", bare_c(path)))


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_python_uses_our_words(path):
    for name in defined_names(path):
        assert not words(name) & NOT_OUR_WORDS, f"{relative(path)}: {name}"


@pytest.mark.parametrize("path", C_SOURCES, ids=relative)
def test_c_uses_our_words(path):
    for name in c_names(path):
        if not THEIR_WORDS.fullmatch(name):
            assert not words(name) & NOT_OUR_WORDS, f"{relative(path)}: {name}"


def texts() -> list[Path]:
    """Everything written by hand."""
    endings = {".py", ".pyi", ".c", ".h", ".cdef", ".md", ".toml", ".pml", ".sh"}
    folders = ("rings", "daemons", "tests", "bench", "examples", "docs")
    inside = [path for top in folders for path in (ROOT / top).rglob("*")]
    found = [*inside, *ROOT.glob("*"), ROOT / ".ci" / "run"]
    return sorted(
        path
        for path in found
        if path.is_file()
        and (path.suffix in endings or path.name == "run")
        and not path.name.startswith("_engine.c")
    )


UNFINISHED = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")))
LOCAL_PATH = re.compile("/wo" + "rk/|/ro" + "ot/")


@pytest.mark.parametrize("path", texts(), ids=relative)
def test_nothing_is_left_for_later_or_bound_to_one_machine(path):
    text = path.read_text()
    assert not UNFINISHED.search(text)
    assert not LOCAL_PATH.search(text)


# -- C -------------------------------------------------------------------------

ORDERING = re.compile(r"\b(release|acquire|full barrier): ([a-z]+(?:-[a-z]+)+)")


def orderings() -> dict[str, set[str]]:
    """Names by kind, from the comments of C and Python alike."""
    found: dict[str, set[str]] = {"release": set(), "acquire": set()}
    found["full barrier"] = set()
    for path in C_SOURCES + SOURCES:
        if path.name != "core.h":  # which explains them with an example
            for kind, name in ORDERING.findall(path.read_text()):
                found[kind].add(name)
    return found


def test_each_release_has_its_acquire():
    found = orderings()
    assert found["release"] == found["acquire"]
    assert found["release"]


def test_each_announcement_has_its_final_check():
    names = orderings()["full barrier"]
    announced = {
        n.removesuffix("-announced") for n in names if n.endswith("-announced")
    }
    awaited = {n.removesuffix("-awaited") for n in names if n.endswith("-awaited")}
    assert announced == awaited
    assert {f"{n}-{end}" for n in awaited for end in ("announced", "awaited")} == names
    assert announced


@pytest.mark.parametrize("path", C_SOURCES, ids=relative)
def test_atomic_calls_name_their_order(path):
    """No default-ordered atomics; whoever stores or loads says how."""
    implicit = re.findall(
        r"\batomic_(?:load|store|exchange|compare_exchange_\w+?)\(",
        bare_c(path),
    )
    assert implicit == [], f"{relative(path)}: use the _explicit form or core.h"


@pytest.mark.parametrize("path", C_SOURCES, ids=relative)
def test_c_functions_are_short(path):
    lines = path.read_text().splitlines()
    starts = [n for n, line in enumerate(lines) if line == "{"]
    ends = [n for n, line in enumerate(lines) if line == "}"]
    for start in starts:
        end = next(n for n in ends if n > start)
        assert end - start <= MAX_FUNCTION, (
            f"{relative(path)}:{start}: {lines[start - 1]}"
        )


@pytest.mark.parametrize("path", C_SOURCES, ids=relative)
def test_c_lines_fit(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        assert len(line) <= MAX_C_LINE, f"{relative(path)}:{number}"


@pytest.mark.parametrize("path", C_SOURCES, ids=relative)
def test_c_files_open_with_a_comment(path):
    assert path.read_text().startswith("/*"), relative(path)


# -- the checkers are checked --------------------------------------------------


def test_words_are_split_as_people_read_them():
    assert words("cq_head") == {"cq", "head"}
    assert words("EventHandler") == {"event", "handler"}
    assert not words("overhead_ns") & NOT_OUR_WORDS


def test_imports_are_resolved(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    package = tmp_path / "rings"
    package.mkdir()
    for name in ("__init__", "low", "high"):
        (package / f"{name}.py").touch()
    (package / "high.py").write_text(
        "import numpy as np\nfrom . import low\nfrom .low import x\n"
        "if TYPE_CHECKING:\n    import y\ndef f():\n    import z\n"
    )
    found = list(imports(package / "high.py"))
    assert [(i.module, i.at_top) for i in found] == [
        ("numpy", True),
        ("rings.low", True),
        ("rings.low", True),
        ("z", False),
    ]
    assert all(before.line <= after.line for before, after in pairwise(found))
