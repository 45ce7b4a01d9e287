"""What the documents show is run, and what it prints is what they say.

Each ```python block of README.md and docs/ is a program of its own.  If an
```output block follows, it must match what was printed; `...` stands for
anything.  Links, line counts and commands are checked too.
"""

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "HACKING.md", *sorted(ROOT.glob("docs/*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
LANGUAGES = {"", "c", "console", "json", "output", "python", "sh", "text"}
MAX_README = 150
HANG_S = 60  # guards against a hang, nothing else


class Example(NamedTuple):
    page: Path
    line: int
    code: str
    output: str | None

    @property
    def name(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> list[tuple[str, str, int]]:
    text = page.read_text()
    return [
        (m[1], m[2], text.count("\n", 0, m.start()) + 1) for m in BLOCK.finditer(text)
    ]


def examples() -> list[Example]:
    found = []
    for page in PAGES:
        here = blocks(page)
        for (language, code, line), following in pairwise([*here, ("", "", 0)]):
            if language == "python":
                output = following[1] if following[0] == "output" else None
                found.append(Example(page, line, code, output))
    return found


EXAMPLES = examples()


def matches(wanted: str, printed: str) -> bool:
    """Whether they are equal, `...` standing for anything."""
    pattern = re.escape(wanted.strip()).replace(r"\.\.\.", ".*?")
    return re.fullmatch(pattern, printed.strip(), re.S) is not None


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program = folder / "block.py"
    program.write_text(code)
    return subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_block_runs_and_prints_what_the_page_says(example, tmp_path):
    done = run(example.code, tmp_path)
    assert done.returncode == 0, done.stderr
    if example.output is not None:
        assert matches(example.output, done.stdout), done.stdout


def test_no_block_is_missed():
    """Every fence is a block we know, and every python fence became a test."""
    fences = "\n".join(page.read_text() for page in PAGES)
    assert len(re.findall(r"^```python$", fences, re.M)) == len(EXAMPLES)
    assert len(re.findall(r"^```", fences, re.M)) == 2 * sum(
        len(blocks(page)) for page in PAGES
    )
    for page in PAGES:
        assert {language for language, _, _ in blocks(page)} <= LANGUAGES, page.name


def test_a_wrong_output_is_noticed(tmp_path):
    assert matches("a ... c\n", "a b c")
    assert not matches("a ... c\n", "a b d")
    assert run("raise SystemExit(3)", tmp_path).returncode == 3


def test_readme_stays_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= MAX_README


def test_readme_has_its_two_commands_on_the_first_screen():
    commands = [(code, line) for lang, code, line in blocks(PAGES[0]) if lang == "sh"]
    assert len(commands) == 2
    assert all(code.count("\n") == 1 and line < 45 for code, line in commands)
    assert "examples/hello_block.py" in commands[0][0]
    assert "pytest" in commands[1][0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_page_is_in_the_index():
    index = ROOT / "docs" / "README.md"
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", index.read_text()))
    assert listed == {page.name for page in ROOT.glob("docs/*.md")} - {index.name}


READING_ORDER = re.findall(
    r"^\| `([\w./]+)` +\| +(\d+) \|", (ROOT / "HACKING.md").read_text(), re.M
)


def test_there_is_a_reading_order():
    assert len(READING_ORDER) >= 4


@pytest.mark.parametrize(("file", "told"), READING_ORDER)
def test_line_counts_are_about_right(file, told):
    lines = len((ROOT / file).read_text().splitlines())
    assert 0.8 * lines <= int(told) <= 1.2 * lines, f"{file} has {lines} lines"
