"""The rings' C core without Python: sanitizers, lost wake-ups, and mutants of it.

A green sanitizer proves nothing until it has been red: each check here is also run
on a copy of the headers in which one named line is weakened, and must then fail.
The line is replaced as text and must be there exactly once, so a mutant cannot
outlive the code it mutates.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

import rings

from .rigging import (
    ADDRESS,
    PLAIN,
    THREAD,
    TSAN_REPORTED,
    require_sanitizer,
    run_sanitized,
)
from .shares import dealt

HEADERS = Path(rings.__file__).with_name("csrc")
HERE = Path(__file__).with_name("sanitize")
FLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-pthread", "-g"]
STARTS = [0, 2**31 - 2, 2**32 - 2]

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
two_cores = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="a store buffer shows from another core"
)


class Mutant(NamedTuple):
    """One weakened line of a header."""

    name: str
    line: str
    weaker: str
    header: str = "xen.h"


def headers(folder: Path, mutants: tuple[Mutant, ...]) -> Path:
    copy = folder / "csrc"
    copy.mkdir()
    for header in HEADERS.glob("*.h"):
        shutil.copy(header, copy)
    for mutant in mutants:
        target = copy / mutant.header
        text = target.read_text()
        assert text.count(mutant.line) == 1, f"{mutant.line!r}: not once in {target}"
        target.write_text(text.replace(mutant.line, mutant.weaker))
    return copy


def build(folder: Path, program: str, flags: list[str], *mutants: Mutant) -> Path:
    source, out = HERE / f"{program}.c", folder / program
    include = f"-I{headers(folder, mutants)}"
    strict = [] if mutants else ["-Werror"]
    command = ["gcc", *FLAGS, *strict, *flags, include, str(source), "-o", str(out)]
    subprocess.run(command, check=True)
    return out


def assert_clean(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr[-4000:]
    assert not done.stderr


@pytest.fixture(scope="module")
def thread_sanitizer(tmp_path_factory):
    require_sanitizer(tmp_path_factory.mktemp("probe"), THREAD)


@pytest.fixture(scope="module")
def address_sanitizer(tmp_path_factory):
    require_sanitizer(tmp_path_factory.mktemp("probe"), ADDRESS)


# -- threads: every acquire and release is needed -----------------------------------


@pytest.mark.usefixtures("thread_sanitizer")
@pytest.mark.parametrize("mode", ["poll", "sleep"])
def test_three_threads_are_clean(tmp_path, mode):
    program = build(tmp_path, "ring_threads", THREAD)
    for start in STARTS:
        assert_clean(run_sanitized(program, mode, 10_000, start))


UNORDERED = [
    Mutant(
        "publish stores relaxed",
        "store_seq_cst(prod, new);",
        "store_relaxed(prod, new);",
    ),
    Mutant(
        "back reads req_prod relaxed",
        "return xen_back_count(back, load_acquire(back->ring.req_prod));",
        "return xen_back_count(back, load_relaxed(back->ring.req_prod));",
    ),
    Mutant(
        "front reads rsp_prod relaxed",
        "return xen_front_count(front, cons, load_acquire(front->ring.rsp_prod));",
        "return xen_front_count(front, cons, load_relaxed(front->ring.rsp_prod));",
    ),
    Mutant(
        "responses are released relaxed",
        "store_release(&front->rsp_cons,",
        "store_relaxed(&front->rsp_cons,",
    ),
    Mutant(
        "credit is read relaxed",
        "(front->req_prod_pvt - load_acquire(&front->rsp_cons));",
        "(front->req_prod_pvt - load_relaxed(&front->rsp_cons));",
    ),
    Mutant(
        "what was published is a plain word",
        "store_relaxed(&front->req_published, new);",
        "*(uint32_t *)&front->req_published = new;",
    ),
]


def named(mutants: list[Mutant]):
    return pytest.mark.parametrize(
        "mutant", mutants, ids=[each.name for each in mutants]
    )


@pytest.mark.usefixtures("thread_sanitizer")
@named(UNORDERED)
def test_thread_sanitizer_sees_each_weakened_order(tmp_path, mutant):
    program = build(tmp_path, "ring_threads", THREAD, mutant)
    done = run_sanitized(program, "poll", 100_000, 2**32 - 2)
    assert done.returncode == TSAN_REPORTED, "the mutant went unnoticed"
    assert "WARNING: ThreadSanitizer: data race" in done.stderr


# -- wake-ups: both barriers, the second look, the window -----------------------------


@two_cores
@pytest.mark.parametrize("what", ["request", "response"])
def test_publish_and_final_check_see_one_another(tmp_path, what):
    program = build(tmp_path, "wakeup_litmus", PLAIN)
    for start in STARTS:
        assert_clean(run_sanitized(program, what, 100_000, start))


BACK_LOOKS = "return xen_back_count(back, load_seq_cst(back->ring.req_prod));"
FRONT_LOOKS = "return xen_front_count(front, cons, load_seq_cst(front->ring.rsp_prod));"
LOSING = {
    "request": [
        Mutant(
            "publish is no full barrier",
            "store_seq_cst(prod, new);",
            "store_release(prod, new);",
        ),
        Mutant(
            "the back's announcement is no full barrier",
            "store_seq_cst(back->ring.req_event, back->req_cons + 1);",
            "store_release(back->ring.req_event, back->req_cons + 1);",
        ),
        Mutant("the back does not look again", BACK_LOOKS, "return 0;"),
        Mutant(
            "only the newest request notifies",
            "(uint32_t)(new - load_seq_cst(event)) < (uint32_t)(new - old)",
            "load_seq_cst(event) == new",
        ),
    ],
    "response": [
        Mutant(
            "publish is no full barrier",
            "store_seq_cst(prod, new);",
            "store_release(prod, new);",
        ),
        Mutant(
            "the front's announcement is no full barrier",
            "store_seq_cst(front->ring.rsp_event, cons + 1);",
            "store_release(front->ring.rsp_event, cons + 1);",
        ),
        Mutant("the front does not look again", FRONT_LOOKS, "return 0;"),
    ],
}
EACH_LOSING = [(what, mutant) for what, those in LOSING.items() for mutant in those]


@two_cores
@pytest.mark.parametrize(
    ("what", "mutant"), EACH_LOSING, ids=[f"{w}: {m.name}" for w, m in EACH_LOSING]
)
def test_each_missing_barrier_loses_a_wake_up(tmp_path, what, mutant):
    program = build(tmp_path, "wakeup_litmus", PLAIN, mutant)
    done = run_sanitized(program, what, 20_000_000)
    assert done.returncode == 1, "the mutant went unnoticed"
    assert "wake-up lost" in done.stderr


PATIENT = Mutant(
    "slices of 5 s",
    "#define WAIT_SLICE_NS 1000000000u",
    "#define WAIT_SLICE_NS 5000000000u",
    "wait.h",
)


def test_two_sleeping_processes_lose_no_wake_up(tmp_path):
    program = build(tmp_path, "wakeups", PLAIN, PATIENT)
    for start in STARTS:
        assert_clean(run_sanitized(program, 20_000, start))


def test_sleeping_without_the_final_check_loses_a_wake_up(tmp_path):
    forgetful = Mutant(
        "sleep at once",
        "ready = waiter->final_check(waiter->ring);",
        "ready = waiter->look(waiter->ring);",
        "wait.h",
    )
    program = build(tmp_path, "wakeups", PLAIN, PATIENT, forgetful)
    done = run_sanitized(program, 20_000)
    assert done.returncode == 1, "the mutant went unnoticed"
    assert "a wake-up was lost" in done.stderr


@pytest.mark.soak
def test_no_wake_up_is_lost_in_ten_million(tmp_path):
    litmus = build(tmp_path, "wakeup_litmus", PLAIN)
    for what in LOSING:
        for start in dealt(range(10)):
            assert_clean(run_sanitized(litmus, what, 1_000_000, start * 2**28))
    (tmp_path / "two").mkdir()
    processes = build(tmp_path / "two", "wakeups", PLAIN, PATIENT)
    for start in dealt(range(20)):
        assert_clean(run_sanitized(processes, 500_000, start * 2**28))


# -- a million states ----------------------------------------------------------


@pytest.mark.usefixtures("address_sanitizer")
def test_a_million_random_states_are_clean(tmp_path):
    program = build(tmp_path, "ring_fuzz", ADDRESS)
    for seed in range(4):
        assert_clean(run_sanitized(program, 1_000_000, seed))


UNBOUNDED = [
    Mutant(
        "a back believes req_prod",
        "if (ready <= back->ring.nr_slots - (back->req_cons - back->rsp_published))",
        "if (true)",
    ),
    Mutant(
        "a front believes rsp_prod",
        "if (ready <= load_relaxed(&front->req_published) - cons)",
        "if (true)",
    ),
    Mutant("a broken back recovers", "back->broken = true;", ""),
    Mutant("a broken front recovers", "front->broken = true;", ""),
    Mutant(
        "the mask is one too wide",
        "(index & (ring->nr_slots - 1))",
        "(index % (ring->nr_slots + 1))",
    ),
    Mutant(
        "a ring may be one byte too short",
        "(size - xen_header_size(layout)) / slot_size < nr_slots)",
        "(size + 1 - xen_header_size(layout)) / slot_size < nr_slots)",
    ),
    Mutant(
        "publish forgets what it published",
        "store_relaxed(&front->req_published, new);",
        "",
    ),
]


@pytest.mark.usefixtures("address_sanitizer")
@named(UNBOUNDED)
def test_the_million_states_notice_each_missing_bound(tmp_path, mutant):
    program = build(tmp_path, "ring_fuzz", ADDRESS, mutant)
    done = run_sanitized(program, 1_000_000, 0)
    assert done.returncode != 0, "the mutant went unnoticed"
    assert "ring_fuzz.c" in done.stderr
