"""The ring's C alone under sanitizers, and mutants of it that must be caught."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.shares import dealt

ROOT = Path(__file__).parent.parent
HEADERS = (
    "barrier.h", "broadcast.h", "core.h", "owner.h", "process.h", "spsc.h",
    "spsc_pool.h", "wait.h",
)  # fmt: skip
STARTS = (0, 2**31 - 2, 2**32 - 2)
FLAGS = ("-std=gnu11", "-D_GNU_SOURCE", "-g", "-pthread")
TSAN = ("-O1", "-fno-builtin", "-fsanitize=thread")
ASAN = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")

#: A name, the header, the text and what it becomes: each breaks one ordering.
MUTANTS = {
    "publish": (
        "core.h",
        "(void)atomic_exchange_explicit(word, value, memory_order_seq_cst);",
        "atomic_store_explicit(word, value, memory_order_relaxed);",
    ),
    "message-published": (
        "spsc.h",
        "prod = load_acquire(&end->header->prod)",
        "prod = load_relaxed(&end->header->prod)",
    ),
    "message-released": (
        "spsc.h",
        "cons = load_acquire(&end->header->cons)",
        "cons = load_relaxed(&end->header->cons)",
    ),
}

#: These lose wake-ups or messages, whatever the memory order.
BROKEN = {
    "no-final-check": (
        "spsc.h",
        "store_seq_cst(&end->header->prod_event, end->index + 1);\n"
        "    spsc_settle_peer(end, &end->header->prod_light);\n"
        "    return spsc_ready(end, 1);",
        "usleep(50);\n"  # a message is published here before long
        "    store_seq_cst(&end->header->prod_event, end->index + 1);\n"
        "    return 0;",
    ),
    "window": (
        "spsc.h",
        "load_seq_cst(&end->header->prod_event)) < count",
        "load_seq_cst(&end->header->prod_event)) == 0",
    ),
    "one-too-many": (
        "spsc.h",
        "if (end->units - used >= want)\n        return end->units - used;",
        "if (end->units - used + 1 >= want)\n        return end->units - used + 1;",
    ),
    "no-wrap": (
        "spsc.h",
        "return units <= run ? units : run + units;",
        "return units;",
    ),
    "early-event": (
        "spsc_pool.h",
        "uint32_t after = spsc_loan(end, back - 1)->after;",
        "uint32_t after = spsc_loan(end, back - 1)->after - 600;",
    ),
    "over-the-next": (
        "spsc_pool.h",
        "return size <= from - to ? to : SPSC_NOWHERE;",
        "return to;",
    ),
}


#: These lose wake-ups: the ends' barriers, a header, the text and what it becomes.
#: What hardware shows seldom (a sleeper that announces itself without a barrier, light
#: publishes in secret) is left to tests/model/light.pml, which looks everywhere.
LOSING = {
    "publish-is-plain": (
        "full",
        "spsc.h",
        "store_seq_cst(&end->header->prod, new);",
        "store_release(&end->header->prod, new);",
    ),
    "no-heavy-barrier": (
        "light",
        "spsc.h",
        "end->heavy = barrier_heavy(end->heavy);",
        ";",
    ),
    "no-second-look": (
        "light",
        "spsc.h",
        "    return spsc_ready(end, 1);\n",
        "    return 0;\n",
    ),
}

#: These deliver torn messages, or lose some that the producer had to wait for.
TORN = {
    "no-second-look": (
        "broadcast.h",
        "return atomic_load_explicit(&slot->seq, memory_order_relaxed) == 2 * number",
        "return true || 2 * number",
        "        /* acquire: slot-taken. */\n",
        "        if (i == 1 && number % 1024 == 0) usleep(100);\n",
    ),
    "nobody-waits": (
        "broadcast.h",
        "producer->limit = slowest + producer->ring.slots;",
        "producer->limit = slowest + producer->ring.slots + 1;",
    ),
}


def batched(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    return list(zip(texts[::2], texts[1::2], strict=True))


def build(
    directory: Path, sanitizer: tuple[str, ...], mutant=None, name="spsc_stress"
) -> Path:
    for header in HEADERS:
        text = (ROOT / "rings/csrc" / header).read_text()
        if mutant and mutant[0] == header:
            for old, new in batched(mutant[1:]):
                assert text.count(old) == 1, f"the mutant no longer applies: {old}"
                text = text.replace(old, new)
        (directory / header).write_text(text)
    program = directory / name
    source = ROOT / f"tests/sanitize/{name}.c"
    command = ["gcc", *FLAGS, *sanitizer, f"-I{directory}", source, "-o", program]
    subprocess.run(command, check=True)
    return program


def run(program: Path, *, kind: int, start: int, count: int, sleeps: int):
    command = [program, str(kind), str(start), str(count), str(sleeps)]
    return subprocess.run(command, capture_output=True, text=True, timeout=90)


#: Who sleeps, and how: 2 is with the barriers of both, which TSan does not understand.
CLEAN = [(TSAN, (0, 1)), (ASAN, (0, 1, 2))]


@pytest.mark.parametrize(("sanitizer", "manners"), CLEAN, ids=["tsan", "asan"])
def test_clean(tmp_path, sanitizer, manners):
    program = build(tmp_path, sanitizer)
    for start in STARTS:
        for kind in (0, 1, 2):
            for sleeps in manners:
                result = run(program, kind=kind, start=start, count=2000, sleeps=sleeps)
                assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", MUTANTS)
def test_control_weak_orders_are_reported(tmp_path, name):
    program = build(tmp_path, TSAN, MUTANTS[name])
    kinds = (0, 1, 2)
    results = [run(program, kind=kind, start=0, count=5000, sleeps=0) for kind in kinds]
    assert any("data race" in result.stderr for result in results)


@pytest.mark.parametrize("name", BROKEN)
def test_control_broken_rings_are_noticed(tmp_path, name):
    program = build(tmp_path, ("-O2",), BROKEN[name])
    for _ in range(20):
        for kind in (0, 1, 2):
            result = run(program, kind=kind, start=7, count=50_000, sleeps=1)
            if result.returncode != 0:
                return
    pytest.fail("the mutant passed")


two_cores = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="a store buffer shows from another core"
)
NO_BARRIER = 3


def litmus(program: Path, what: str, barriers: str, rounds: int, start: int = 0):
    command = [program, what, barriers, str(rounds), str(start)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    if done.returncode == NO_BARRIER:
        pytest.skip("needs membarrier(2)")
    return done


@two_cores
@pytest.mark.parametrize("what", ["message", "room"])
@pytest.mark.parametrize("barriers", ["full", "light", "turning"])
def test_publish_and_final_check_see_one_another(tmp_path, what, barriers):
    program = build(tmp_path, ("-O2",), name="spsc_litmus")
    for start in STARTS:
        done = litmus(program, what, barriers, 100_000, start)
        assert done.returncode == 0, done.stderr


@two_cores
@pytest.mark.parametrize("name", LOSING)
def test_control_each_missing_barrier_loses_a_wake_up(tmp_path, name):
    barriers, *mutant = LOSING[name]
    program = build(tmp_path, ("-O2",), mutant, name="spsc_litmus")
    for _ in range(40):  # two threads on one core lose nothing: place them anew
        done = litmus(program, "message", barriers, 300_000)
        if done.returncode == 1:
            assert "wake-up lost" in done.stderr
            return
    pytest.fail("the mutant went unnoticed")


@two_cores
@pytest.mark.soak
def test_no_wake_up_is_lost_in_ten_million(tmp_path):
    program = build(tmp_path, ("-O2",), name="spsc_litmus")
    for what in ("message", "room"):
        for barriers in ("full", "light", "turning"):
            for turn in dealt(range(10)):
                done = litmus(program, what, barriers, 1_000_000, turn * 2**28)
                assert done.returncode == 0, done.stderr


def spread(program: Path, policy: int, start: int, count: int):
    command = [program, str(policy), str(start), str(count)]
    return subprocess.run(command, capture_output=True, text=True, timeout=90)


@pytest.mark.parametrize("sanitizer", [TSAN, ASAN], ids=["tsan", "asan"])
def test_broadcast_clean(tmp_path, sanitizer):
    program = build(tmp_path, sanitizer, name="broadcast_stress")
    for start in STARTS:
        for policy in (0, 1):
            result = spread(program, policy, start, 3000)
            assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", TORN)
def test_control_torn_broadcasts_are_noticed(tmp_path, name):
    program = build(tmp_path, ("-O2",), TORN[name], name="broadcast_stress")
    for _ in range(20):
        for policy in (0, 1):
            if spread(program, policy, 7, 300_000).returncode != 0:
                return
    pytest.fail("the mutant passed")
