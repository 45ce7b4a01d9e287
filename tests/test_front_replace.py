"""A ring replaced under load, in C alone: sanitizers, and mutants that must be caught.

What py_front_replace.c does with the GIL is done here by plain threads, as often and as
fast as they can; every answer is counted, and a ring given up is freed at once.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.rigging import (
    ADDRESS,
    HANG_S,
    THREAD,
    Change,
    compile_rig,
    require_sanitizer,
    run_sanitized,
)

STARTS = [0, 2**31 - 2, 2**32 - 2]
MODES = ["poll", "sleep"]
REPLACEMENTS = 1000
TRIES = 10  # when a thread meets a weakened line is chance
IMPATIENT = [
    "-Wno-error",
    "-DOWED_NS=2000000000u",
]  # a mutant's answers are lost sooner

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")

#: A name, the sanitizer, and the change to front_replace.h that it must notice.
MUTANTS: dict[str, tuple[list[str], Change]] = {
    "the ring changes under the leader": (
        THREAD,
        ("front_replace.h", "while (front->leading) {", "while (false) {"),
    ),
    "what was claimed is not published": (
        ADDRESS,
        (
            "front_replace.h",
            "    front_flush(front);\n    xen_front_move(",
            "    xen_front_move(",
        ),
    ),
    "the elder is given up while it owes answers": (
        ADDRESS,
        (
            "front_replace.h",
            "return !front->has_elder || xen_front_idle(&front->elder);",
            "return true;",
        ),
    ),
    "nobody looks at the elder": (
        ADDRESS,
        ("front_replace.h", "front->has_elder = true;", "front->has_elder = false;"),
    ),
    "answers not collected yet keep their places": (
        ADDRESS,
        (
            "front_replace.h",
            "done[i] = front->done[(front->first_done + i) % front->nr_calls];",
            "done[i] = front->done[i];",
        ),
    ),
    "calls stay where there is no room": (
        ADDRESS,
        (
            "front_replace.h",
            "front->calls = calls != NULL ? calls : front->calls;",
            "",
        ),
    ),
}


@pytest.fixture(scope="module", params=[THREAD, ADDRESS], ids=["thread", "address"])
def program(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    place = tmp_path_factory.mktemp("front_replace")
    require_sanitizer(place, request.param)
    return compile_rig(place, "front_replace", request.param, ())


@pytest.mark.parametrize("first", STARTS)
@pytest.mark.parametrize("mode", MODES)
def test_a_ring_is_replaced_under_load(program: Path, mode: str, first: int) -> None:
    done = run_sanitized(program, mode, REPLACEMENTS, first, timeout=HANG_S)
    assert done.returncode == 0, done.stderr[-4000:]
    assert not done.stderr
    counts = json.loads(done.stdout)
    assert counts["replaced"] == REPLACEMENTS
    assert counts["answers"] > REPLACEMENTS


@pytest.mark.soak
@pytest.mark.parametrize("mode", MODES)
def test_a_ring_is_replaced_for_longer(program: Path, mode: str) -> None:
    for turn in range(20):
        done = run_sanitized(
            program, mode, 10 * REPLACEMENTS, turn * 2**28, timeout=HANG_S
        )
        assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize("name", MUTANTS)
def test_each_weakened_line_is_noticed(tmp_path: Path, name: str) -> None:
    sanitizer, change = MUTANTS[name]
    require_sanitizer(tmp_path, sanitizer)
    flags = [*sanitizer, *IMPATIENT]
    mutant = compile_rig(tmp_path, "front_replace", flags, [change])
    for mode in MODES * TRIES:
        done = run_sanitized(mutant, mode, REPLACEMENTS, 2**32 - 2, timeout=HANG_S)
        if done.returncode:
            break
    assert done.returncode, "the mutant went unnoticed"
    if sanitizer is THREAD:
        assert "WARNING: ThreadSanitizer" in done.stderr
