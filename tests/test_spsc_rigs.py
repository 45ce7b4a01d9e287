"""Kill rigs of the rings with one producer, each with controls that must fail.

The programs in rigs/ run over the headers that are shipped: killed at any store of
taking an end over, putting, getting and announcing sleep, or at any instruction.
"""

from __future__ import annotations

import os
import shutil

import pytest

from tests.rigging import PLAIN, compile_rig, run_rig
from tests.shares import SHARE

WRAP = 2**32 - 3
INJECTIONS = int(os.environ.get("RINGS_INJECTIONS", "300"))
KILLS = int(os.environ.get("RINGS_KILLS", "10000"))

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Compile a rig, with changes to headers of ours if wanted; once each."""
    made = {}

    def build(name, changes=(), define=()):
        key = (name, changes, define)
        if key not in made:
            place = tmp_path_factory.mktemp(name)
            made[key] = compile_rig(place, name, [*PLAIN, *define], changes)
        return made[key]

    return build


ALL_STORES = {
    "owner_give_back", "owner_take", "spsc_await_message", "spsc_await_room",
    "spsc_publish", "spsc_release", "spsc_turn",
}  # fmt: skip
LIGHT = ("-DLIGHT",)
BARRIERS = pytest.mark.parametrize("define", [(), LIGHT], ids=["full", "light"])


# -- killed at every store ------------------------------------------------------------


KINDS = ["slots", "records", "references"]
FILLING = {
    "slots": {"spsc_fill"},
    "records": {"spsc_record_mark", "rig_store"},
    "references": {"spsc_record_mark", "spsc_reference_claim", "rig_store"},
}


@BARRIERS
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_every_store(build, kind, define):
    program = build("spsc_fault", (), define)
    counts = run_rig(program, KILLS // 3, WRAP, 7, KINDS.index(kind))
    stores = ALL_STORES | FILLING[kind]
    assert stores <= counts["kills"].keys(), "a store that nobody died at"
    assert sum(counts["kills"].values()) >= KILLS // 3
    assert counts["again"] > 0, "nobody died between looking and releasing"
    assert counts["messages"] > 1000


def test_killed_at_every_store_of_a_skip(build):
    counts = run_rig(build("spsc_fault"), KILLS // 3, WRAP, 7, 3)
    assert {"spsc_skip", "spsc_release", "spsc_fill"} <= counts["kills"].keys()
    assert counts["messages"] > 1000


COUNTS_FIRST = (
    "spsc_latest.h",
    "    bool tell = spsc_release(end, units);\n",
    """    atomic_store(&mine->lost, lost);
    bool tell = spsc_release(end, units);
""",
)
COUNTS_LAST = ("spsc_latest.h", "if (done && lost >", "if (false && done && lost >")
BELIEVES = ("spsc_latest.h", "if (done && lost >", "if ((done || true) && lost >")


@pytest.mark.parametrize("change", [COUNTS_FIRST, COUNTS_LAST, BELIEVES])
def test_control_a_skip_that_is_not_counted_once_is_found(build, change):
    counts = run_rig(build("spsc_fault", (change,)), 3000, 0, 7, 3, status=1)
    assert counts["missing"]


RESETS = (
    "spsc.h",
    "end->index = load_acquire(&end->header->prod);",
    """store_relaxed(&end->header->prod, load_relaxed(&end->header->cons));
    end->index = load_acquire(&end->header->prod);""",
)
SKIPS = (
    "spsc.h",
    "end->index = load_acquire(&end->header->cons);",
    "end->index = load_acquire(&end->header->prod);",
)
GUESSES = (
    "spsc.h",
    "end->index = load_acquire(&end->header->prod);",
    "end->index = load_acquire(&end->header->prod) + 1;",
)
BUSY_FLAG = (
    "spsc.h",
    "store_seq_cst(&end->header->prod, new);",
    """{
        while (atomic_exchange(&end->header->producer.lost, 1) != 0)
            cpu_relax();
        store_seq_cst(&end->header->prod, new);
        atomic_store(&end->header->producer.lost, 0);
    }""",
)
NO_HEIRS = (
    "owner.h",
    "owner_is_process(owner) && !owner_is_dead(owner)",
    "owner_is_process(owner)",
)

#: What is broken, and the rig's exit code: 1 for messages torn, twice, wrong or missing
#: (which of them comes first is chance), 2 for a ring that is stuck.
BROKEN = {
    "the successor drops what was published": (RESETS, 1),
    "the successor skips what was not taken": (SKIPS, 1),
    "the successor begins one further": (GUESSES, 1),
    "publish holds a lock": (BUSY_FLAG, 2),
    "nobody inherits": (NO_HEIRS, 2),
}


@pytest.mark.parametrize("what", BROKEN)
def test_control_a_broken_ring_fails_at_some_store(build, what):
    change, status = BROKEN[what]
    counts = run_rig(build("spsc_fault", (change,)), 500, 0, 7, 0, status=status)
    assert counts["stuck"] == (status == 2)


@pytest.mark.parametrize("kind", KINDS)
def test_control_published_before_filled_is_torn(build, kind):
    program = build("spsc_fault", (), ("-DPUBLISH_FIRST",))
    counts = run_rig(program, 500, 0, 7, KINDS.index(kind), status=1)
    assert counts["torn"] + counts["twice"] > 0


FORGETS = (
    "spsc_pool.h",
    "for (uint32_t index = end->seen; index != end->index;) {",
    "for (uint32_t index = end->index; index != end->index;) {",
)
KEEPS = ("spsc_pool.h", "while (loans->count != 0 &&", "while (loans->count > 1 &&")
HASTY = (
    "spsc_pool.h",
    "(uint32_t)(spsc_loan(end, 0)->after - end->seen - 1) >=",
    "(uint32_t)(spsc_loan(end, 0)->after - end->seen - 5) >=",
)
LENT = {
    "the successor forgets what is lent": (FORGETS, "torn"),
    "a loan counts as back before its record": (HASTY, "torn"),
    "the last loan is never given back": (KEEPS, "leaked"),
}


@pytest.mark.parametrize("what", LENT)
def test_control_a_broken_pool_fails_at_some_store(build, what):
    change, finding = LENT[what]
    counts = run_rig(build("spsc_fault", (change,)), 3000, 0, 7, 2, status=1)
    counts["leaked"] = not counts["torn"] and not counts["whole"]
    assert counts[finding] > 0


# -- killed at any instruction --------------------------------------------------------


@BARRIERS
@pytest.mark.parametrize("start", [0, 2**31 - 2, WRAP])
def test_killed_at_sampled_instructions(build, start, define):
    counts = run_rig(build("spsc_step", (), define), INJECTIONS, start, 11)
    assert counts["injections"] >= INJECTIONS


@pytest.mark.soak
@pytest.mark.parametrize("start", [0, 2**31 - 2, WRAP])
@BARRIERS
def test_killed_at_every_store_against_every_instruction(build, start, define):
    """The one goes on after any instruction, when the other has died at any store."""
    every_pair(build("spsc_step", (), define), start, "stores")


@pytest.mark.soak
def test_killed_at_every_pair_of_instructions(build):
    every_pair(build("spsc_step"), WRAP, "each")


def every_pair(program, start, how):
    counts = run_rig(program, "all", start, how, SHARE, timeout=None)
    print(counts)
    assert min(counts["again"], counts["unacknowledged"]) > 0


STEPPED = {
    "the successor drops what was published": ((RESETS,), (), "lost"),
    "published before filled": ((), ("-DPUBLISH_FIRST",), "torn"),
    "nobody inherits": ((NO_HEIRS,), (), "stuck"),
    "the successor forgets what is lent": ((FORGETS,), (), "torn"),
}


@pytest.mark.parametrize("what", STEPPED)
def test_control_a_broken_ring_fails_at_some_instruction(build, what):
    changes, define, finding = STEPPED[what]
    counts = run_rig(build("spsc_step", changes, define), 5_000, 0, 11, status=1)
    assert counts[finding] > 0


@pytest.mark.parametrize("what", STEPPED)
def test_control_a_broken_ring_fails_at_a_store_of_its(build, what):
    changes, define, finding = STEPPED[what]
    program = build("spsc_step", changes, define)
    counts = run_rig(program, "all", 0, "stores", "0/200", status=1)
    assert counts[finding] > 0
