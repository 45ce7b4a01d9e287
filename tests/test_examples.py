"""Every example runs as a user would run it, and prints what it promises.

What it prints stands at the end of its docstring, under `Prints::`, with `...`
for what differs from run to run; above that, what an older Python makes it print.
"""

import ast
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
MAX_LINES = 110
HANG_S = 90  # guards against a hang, nothing else


def promise(path: Path) -> str:
    """The lines under `Prints::`, without their indentation."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    before, marker, printed = text.partition("\nPrints::\n")
    assert marker, f"{path.name} does not say what it prints"
    _, older, printed_before = before.partition("Before Python 3.12 it prints::\n")
    if older and sys.version_info < (3, 12):
        printed = printed_before
    return textwrap.dedent(printed).strip()


def as_pattern(printed: str) -> str:
    return re.escape(printed).replace(r"\.\.\.", ".*?")


def test_there_are_examples():
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_prints_what_it_promises(path, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(as_pattern(promise(path)), done.stdout.strip()), done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_short_enough_to_read(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES
