"""Style is a test: arrows, sizes, words, and names that need two ends."""

import ast
import re
import statistics
import sys
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

# -- what belongs where --------------------------------------------------------

# A module imports from its own row or from rows below it, and never in a circle.
LAYERS = (
    "rings.layout rings.errors rings.units rings.table rings.usl rings.station"
    " rings.queueing rings.constant_service",
    "rings._core",
    "rings.pages rings.header rings.memfd rings.reserve rings.memory rings.named"
    " rings.grants rings.pool rings.eventfds rings.channel rings.blocks rings.ending",
    "rings.xen_style rings.blkif rings.blkif_rights rings.atomics rings.records"
    " rings.spsc rings.broadcast_ends rings.broadcast rings.mpmc_statistics rings.mpmc",
    "rings.pickling rings.queue rings.awaiting rings.aio rings.trio",
    "rings.address rings.peer rings.messages rings.codec rings.states rings.protocol"
    " rings.link rings.inquiry rings.reconfigure rings.rendezvous rings.patience",
    "rings.depth rings.handle rings.doubt rings.many rings.replacing rings.ranges"
    " rings.requester rings.copying rings.block rings.loading rings.frontend"
    " rings.interpreters rings.sandbox rings.forecast rings.needs rings.advice",
    "rings",
    "daemons._engine rings.kernel rings.machine rings.doctor",
    "daemons.device daemons.devices daemons.backend daemons.limits daemons.log"
    " daemons.loop daemons.service daemons.listener daemons.spec daemons.endings"
    " daemons.wire daemons.attached daemons.detaching daemons.client daemons.door"
    " daemons.engine daemons.report daemons.server daemons.supervisor"
    " daemons.process daemons.options",
    "daemons",
    "rings.stress.quantities rings.stress.device rings.stress.cell rings.stress.plan"
    " rings.stress.worker rings.stress.crew rings.stress.measure rings.stress.stage"
    " rings.stress.sweep rings.stress.terminal rings.stress.command rings.stress"
    " rings.stress.findings rings.stress.growth rings.stress.conclusions"
    " rings.stress.strips"
    " rings.stress.effects rings.stress.canvas rings.stress.plots rings.stress.svg"
    " rings.stress.charts rings.stress.style rings.stress.cells_table"
    " rings.stress.page rings.stress.report",
    "rings.size rings.prometheus rings.cli rings.__main__ daemons.__main__"
    " daemons._engine_build",
)
LAYER = {name: row for row, names in enumerate(LAYERS) for name in names.split()}
COMPILED = {"rings._core", "daemons._engine"}
# Third-party packages, each with the only modules that may import it: in a function,
# or at the top if the module itself is imported by others in functions only.
EDGES = {
    "cffi": {"daemons._engine_build"},
    "hdrh": {"rings.stress.measure"},
    "matplotlib": {"rings.stress.canvas"},
    "numpy": {"rings.records", "daemons.backend"},
    "posix_ipc": {"rings.named"},
    "rich": {"rings.stress.command", "rings.stress.terminal"},
    "trio": {"rings.trio"},
}
MAX_FILE = 300
MAX_FUNCTION = 40
MAX_MEDIAN_FUNCTION = 10
MAX_C_LINE = 100

# Words that mean something else elsewhere; see the glossary in HACKING.md.
NOT_OUR_WORDS = {"head", "tail", "kick", "token", "epoch", "handler"}
# The kernel's words for the kernel's rings, and Python's macros.
THEIR_WORDS = re.compile(r"(sq|cq)_?\w*|Py\w*|PY\w*|IORING_\w*")
THEIR_FILES = {"daemons/csrc/uring.c", "daemons/csrc/uring.h"}


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
    files = (base.with_suffix(".py"), base / "__init__.py")
    return name in COMPILED or any(file.exists() for file in files)


def top_package(name: str) -> str:
    return name.split(".")[0]


def imports_of(paths: list[Path]) -> Iterator[tuple[str, Import, str]]:
    """Every import of some files, with who imports and where that stands."""
    for path in paths:
        for found in imports(path):
            yield module_name(path), found, f"{relative(path)}:{found.line}"


def test_every_module_has_its_layer():
    """A new file goes into LAYERS above, a new layer also into HACKING.md."""
    assert {module_name(path) for path in SOURCES} - LAYER.keys() == set()


def test_imports_point_downwards():
    assert [
        f"{where} imports {found.module} from above"
        for name, found, where in imports_of(SOURCES)
        if LAYER.get(found.module, -1) > LAYER.get(name, 99)
    ] == []


def test_imports_have_no_circle():
    graph = {
        module_name(path): {i.module for i in imports(path) if i.module in LAYER}
        for path in SOURCES
    }
    assert list(TopologicalSorter(graph).static_order())


def test_daemons_and_rings_do_not_cross():
    """`rings` reaches a daemon lazily if at all; a daemon is nobody's frontend."""
    for name, found, where in imports_of(SOURCES):
        if top_package(name) == "rings":
            assert top_package(found.module) != "daemons" or not found.at_top, where
        else:
            assert found.module != "rings.frontend", where


def third_party() -> Iterator[tuple[str, Import, str]]:
    ours = {"rings", "daemons", *sys.stdlib_module_names}
    for name, found, where in imports_of(SOURCES):
        if top_package(found.module) not in ours:
            yield name, found, where


def test_third_party_packages_stay_at_their_edge():
    for name, found, where in third_party():
        allowed = EDGES.get(top_package(found.module), set())
        assert name in allowed, f"{where} imports {found.module}; {allowed} may"


def test_edges_are_imported_lazily():
    edges = {name for name, found, _ in third_party() if found.at_top}
    assert edges
    assert [
        where
        for name, found, where in imports_of(SOURCES)
        if found.at_top and found.module in edges and name not in edges
    ] == []


def test_every_module_is_reached():
    """Each file is imported by another, or is a door: a command or a build step."""
    doors = {"rings", "daemons", "rings.cli", "rings.__main__", "daemons.__main__"}
    doors |= {"daemons._engine_build"}  # named in setup.py
    doors |= {"rings.ending"}  # imported by rings._core
    doors |= {"rings.stress"}  # a package: whoever imports of it imports it
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


def test_files_fit_in_the_head():
    """One that does not is split, by nouns."""
    lengths = {relative(p): len(p.read_text().splitlines()) for p in SHIPPED}
    assert {name: n for name, n in lengths.items() if n > MAX_FILE} == {}


def test_functions_are_short():
    assert [
        f"{relative(path)}: {function.name} has {body_lines(function)} lines"
        for path in SHIPPED
        for function in functions(path)
        if body_lines(function) > MAX_FUNCTION
    ] == []


def test_most_functions_are_very_short():
    lengths = [body_lines(f) for path in SOURCES for f in functions(path)]
    assert statistics.median(lengths) <= MAX_MEDIAN_FUNCTION


def test_modules_say_what_they_are():
    assert [relative(p) for p in SHIPPED if not ast.get_docstring(tree(p))] == []


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


def test_public_names_say_what_they_are():
    assert [
        f"{relative(path)}: {node.name}"
        for path in SOURCES
        for node in public_definitions(tree(path))
        if not is_overload(node) and not ast.get_docstring(node)
    ] == []


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


def foreign(path: Path, names: Iterable[str]) -> set[str]:
    """The names that use a word of somebody else's, with their file."""
    return {f"{relative(path)}: {n}" for n in names if words(n) & NOT_OUR_WORDS}


def test_python_uses_our_words():
    found = (foreign(path, defined_names(path)) for path in SOURCES)
    assert set().union(*found) == set()


def test_c_uses_our_words():
    found = set()
    for path in C_SOURCES:
        theirs = {"head", "tail"} if relative(path) in THEIR_FILES else set()
        names = {n for n in c_names(path) - theirs if not THEIR_WORDS.fullmatch(n)}
        found |= foreign(path, names)
    assert found == set()


def texts() -> list[Path]:
    """Everything written by hand."""
    endings = {".py", ".pyi", ".c", ".h", ".cdef", ".md", ".toml", ".pml", ".sh"}
    folders = ("rings", "daemons", "tests", "bench", "examples", "docs")
    inside = [path for top in folders for path in (ROOT / top).rglob("*")]
    programs = [ROOT / ".ci" / name for name in ("run", "on_debian", "readme_command")]
    found = [*inside, *ROOT.glob("*"), *programs]
    return sorted(
        path
        for path in found
        if path.is_file()
        and (path.suffix in endings or path in programs)
        and not path.name.startswith("_engine.c")
    )


UNFINISHED = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")))
LOCAL_PATH = re.compile("/wo" + "rk/|/ro" + "ot/")


@pytest.mark.parametrize("unwanted", [UNFINISHED, LOCAL_PATH])
def test_nothing_is_left_for_later_or_bound_to_one_machine(unwanted):
    assert len(texts()) > len(SOURCES)
    assert [relative(p) for p in texts() if unwanted.search(p.read_text())] == []


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


def c_functions(path: Path) -> Iterator[tuple[str, int]]:
    """First line and length of each; a brace in column one opens or closes it."""
    lines = path.read_text().splitlines()
    for start, line in enumerate(lines):
        if line == "{":
            yield lines[start - 1], lines.index("}", start) - start


def test_c_functions_are_short():
    assert [
        f"{relative(path)}: {name} has {lines} lines"
        for path in C_SOURCES
        for name, lines in c_functions(path)
        if lines > MAX_FUNCTION
    ] == []


def test_c_lines_fit():
    assert [
        f"{relative(path)}:{number}"
        for path in C_SOURCES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > MAX_C_LINE
    ] == []


def test_c_files_say_what_they_are():
    """At their top, or at the top of the header of the same name."""
    for path in C_SOURCES:
        header = path.with_suffix(".h")
        text = (header if header.exists() else path).read_text()
        assert text.startswith("/*"), relative(path)


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


def test_a_soak_outlives_the_time_limit_of_a_test(request):
    """One that took 120 s and longer failed as if it hung."""
    here = str(ROOT / "tests" / "conftest.py")
    [ours] = [
        plugin
        for plugin in request.config.pluginmanager.get_plugins()
        if getattr(plugin, "__file__", None) == here
    ]
    request.node.add_marker("soak")
    ours.pytest_collection_modifyitems([request.node])
    assert request.node.get_closest_marker("timeout").args == (0,)
