"""The frontend's C core without Python: several threads, a lying back, and mutants.

Each mutant weakens one line of front.h and must be noticed by the mode named with it.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

import rings
from tests.rigging import ADDRESS, THREAD, require_sanitizer, run_sanitized
from tests.shares import dealt

HEADERS = Path(rings.__file__).with_name("csrc")
SOURCE = Path(__file__).with_name("sanitize") / "front_threads.c"
FLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-pthread", "-g"]
STARTS = [0, 2**31 - 2, 2**32 - 2]

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


class Mutant(NamedTuple):
    """One weakened line of front.h, and what must notice it."""

    name: str
    sanitizer: list[str]
    mode: str
    line: str
    weaker: str


MUTANTS = [
    Mutant(
        "an answer is given relaxed",
        THREAD,
        "poll",
        "atomic_store_explicit(&call->answer->done, true, memory_order_release);",
        "atomic_store_explicit(&call->answer->done, true, memory_order_relaxed);",
    ),
    Mutant(
        "two threads lead",
        THREAD,
        "poll",
        "front->leading ? front_follow(front, deadline_ns)",
        "false ? front_follow(front, deadline_ns)",
    ),
    Mutant(
        "answers are handed out without the mutex",
        THREAD,
        "poll",
        "    pthread_mutex_lock(&front->mutex);\n    front_dispatch(front);",
        "    front_dispatch(front);\n    pthread_mutex_lock(&front->mutex);",
    ),
    Mutant(
        "an entry's index is believed",
        ADDRESS,
        "lie",
        "if (index >= front->nr_calls)",
        "if (false)",
    ),
    Mutant(
        "an entry keeps its generation",
        ADDRESS,
        "lie",
        "if (call->generation != (uint32_t)(response->id >> 32))",
        "if (false)",
    ),
    Mutant(
        "more than was asked is believed",
        ADDRESS,
        "lie",
        "if (response->result > 0 && (uint64_t)response->result > call->length)",
        "if (false)",
    ),
    Mutant(
        "an entry is taken that is not free",
        ADDRESS,
        "poll",
        "if (front->nr_free == 0 || xen_front_credit(&front->ring) == 0)",
        "if (xen_front_credit(&front->ring) == 0)",
    ),
]


def build(folder: Path, sanitizer: list[str], mutant: Mutant | None = None) -> Path:
    copy = folder / "csrc"
    copy.mkdir()
    for header in HEADERS.glob("*.h"):
        shutil.copy(header, copy)
    if mutant:
        text = (copy / "front.h").read_text()
        assert text.count(mutant.line) == 1, f"{mutant.line!r} is not there once"
        (copy / "front.h").write_text(text.replace(mutant.line, mutant.weaker))
    strict = [] if mutant else ["-Werror"]
    command = ["gcc", *FLAGS, *strict, *sanitizer, f"-I{copy}", str(SOURCE)]
    program = folder / "front_threads"
    subprocess.run([*command, "-o", str(program)], check=True)
    return program


@pytest.fixture(scope="module", params=[THREAD, ADDRESS], ids=["thread", "address"])
def program(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("front")
    require_sanitizer(folder, request.param)
    return build(folder, request.param)


@pytest.mark.parametrize("first", STARTS)
@pytest.mark.parametrize("mode", ["poll", "sleep", "lie"])
def test_a_shared_front_is_clean(program: Path, mode: str, first: int) -> None:
    done = run_sanitized(program, mode, 300, first)
    assert done.returncode == 0, done.stderr[-4000:]
    assert not done.stderr


@pytest.mark.soak
def test_a_shared_front_is_clean_for_longer(program: Path) -> None:
    for turn in dealt(range(20)):
        for mode in ("poll", "sleep"):
            done = run_sanitized(program, mode, 10_000, turn * 2**28)
            assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize("mutant", MUTANTS, ids=[each.name for each in MUTANTS])
def test_each_weakened_line_is_noticed(tmp_path: Path, mutant: Mutant) -> None:
    require_sanitizer(tmp_path, mutant.sanitizer)
    program = build(tmp_path, mutant.sanitizer, mutant)
    for _ in range(3):
        done = run_sanitized(program, mutant.mode, 3000, 2**32 - 2)
        if done.returncode:
            break
    assert done.returncode, "the mutant went unnoticed"
    if mutant.sanitizer is THREAD:
        assert "WARNING: ThreadSanitizer" in done.stderr
