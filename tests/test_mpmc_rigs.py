"""Kill rigs, sanitizers and the model of the MPMC ring, each with its control.

The programs in rigs/ are compiled over the headers that are shipped.  A control
is the same program with something broken on purpose, and has to fail.
"""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.rigging import (
    ADDRESS,
    CSRC,
    HANG_S,
    MODELS,
    PLAIN,
    THREAD,
    compile_rig,
    needs_spin,
    run_rig,
    verify,
)
from tests.shares import PART, SHARE, portion

WRAPS = (2**32 - 3, 2**48 - 3)

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Compile a rig, with changes to headers of ours if wanted; once each."""
    made = {}

    def build(name, flags, changes=()):
        key = (name, *flags, *changes)
        if key not in made:
            made[key] = compile_rig(tmp_path_factory.mktemp(name), name, flags, changes)
        return made[key]

    return build


def kills(wanted):
    return int(os.environ.get("RINGS_KILLS", wanted))


# -- killed between any two stores --------------------------------------------------


@pytest.mark.parametrize("start", [0, *WRAPS])
def test_killed_at_every_store(build, start):
    wanted = kills(10_000 if start == 0 else 1_000)
    counts = run_rig(build("fault", PLAIN), wanted, start, 7, 1)
    assert min(counts["points"]) > 0, "a point was never hit"
    assert sum(counts["points"]) >= wanted
    assert counts["torn"] == counts["twice"] == counts["stuck"] == 0
    assert counts["missing"] <= counts["in_doubt"] + counts["lost"]
    assert counts["in_doubt"] <= counts["recovered"]
    assert counts["lost"] == counts["condemned"] > 0
    assert counts["tombstones"] <= counts["recovered"]


def test_two_join_at_once_where_all_members_are_dead(build):
    """The second found the table full, and then nobody left to bury."""
    assert run_rig(build("full_table", PLAIN))["deaths"] == 256


def test_control_who_buries_nobody_does_not_try_again(build):
    gives_up = ("mpmc_call.h", "    owner_recover_all(", "    if (owner_recover_all(")
    first_only = ("mpmc_call.h", "lock_fd);\n    if (o", "lock_fd) &&\n        o")
    run_rig(build("full_table", PLAIN, (gives_up, first_only)), status=9)


def test_control_without_recovery_the_fault_rig_sticks(build):
    assert run_rig(build("fault", PLAIN), 1_000, 0, 7, 0, status=2)["stuck"]


PUBLISH_DEAD = (
    "owners.h",
    "mpmc_make(index, 0, MPMC_TOMB)",
    "mpmc_make(index, 0, MPMC_FULL)",
)


@pytest.mark.parametrize("rig", ["fault", "storm"])
def test_control_a_published_dead_slot_is_found(build, rig):
    """Recovery that publishes what a dead producer left delivers garbage."""
    counts = run_rig(build(rig, PLAIN, (PUBLISH_DEAD,)), 1_000, 0, 7, 1, status=1)
    assert counts["torn"] + counts["twice"] > 0


def test_control_a_lost_count_is_found(build):
    change = ("owners.h", "owner_count_loss(&entry->in_doubt, index)", "(void)0")
    counts = run_rig(build("fault", PLAIN, (change,)), 2_000, 0, 7, 1, status=1)
    assert counts["missing"] > counts["lost"] > counts["in_doubt"] == 0


NOBODY_COUNTS = ("owners.h", "        owner_count_drop(&entry->lost, index);\n", "")
COUNTS_TWICE = (
    "owners.h",
    "while ((old & OWNER_FIELD(24)) != tag && !swap64",
    "while (!swap64",
)


@pytest.mark.parametrize("change", [NOBODY_COUNTS, COUNTS_TWICE])
def test_control_drops_are_counted_once(build, change):
    counts = run_rig(build("fault", PLAIN, (change,)), 10_000, 0, 7, 1, status=1)
    assert counts["lost"] != counts["condemned"]


# -- killed from outside, at any moment -----------------------------------------------


def storm(program, wanted, start):
    counts = run_rig(program, wanted, start, 7 + PART, 1, timeout=None)
    assert counts["torn"] == counts["twice"] == counts["stuck"] == 0
    assert counts["missing"] <= counts["in_doubt"] <= counts["recovered"]
    assert min(counts["in_doubt"], counts["tombstones"]) > 0, (
        "no kill hit a slot in hand"
    )
    assert counts["whole"]
    return counts


@pytest.mark.parametrize("start", [0, *WRAPS])
def test_killed_at_random(build, start):
    storm(build("storm", PLAIN), kills(1_000), start)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_killed_at_random_for_long(build):
    print(storm(build("storm", PLAIN), kills(portion(100_000)), 2**32 - 3))


def test_control_without_recovery_the_storm_sticks(build):
    assert run_rig(build("storm", PLAIN), 1_000, 0, 7, 0, status=2)["stuck"]


# -- killed between any two instructions ----------------------------------------------


def test_killed_at_sampled_instructions(build):
    for seed, start in enumerate((0, *WRAPS)):
        counts = run_rig(build("step", PLAIN), 1.5, start, 11 + seed, 1)
        assert counts["injections"] > 20
        assert counts["in_doubt"] > 0
        assert counts["tombstones"] > 0


@pytest.mark.soak
@pytest.mark.parametrize("start", [0, *WRAPS])
@pytest.mark.parametrize("runs", [0, 1], ids=["one", "run"])
def test_killed_at_every_store_against_every_instruction(build, runs, start):
    """The one goes on after any instruction, when the other has died at any store."""
    every_pair(build("step", PLAIN), start, runs, "stores")


@pytest.mark.soak
@pytest.mark.parametrize("runs", [0, 1], ids=["one", "run"])
def test_killed_at_every_pair_of_instructions(build, runs):
    every_pair(build("step", PLAIN), 0, runs, "each")


def every_pair(program, start, runs, how):
    counts = run_rig(program, "all", start, runs, how, SHARE, timeout=None)
    print(counts)
    assert min(counts["in_doubt"], counts["tombstones"]) > 0


@pytest.mark.parametrize("how", ["stores", "each"])
def test_control_a_published_dead_slot_is_found_at_its_instruction(build, how):
    program = build("step", PLAIN, (PUBLISH_DEAD,))
    counts = run_rig(program, "all", 0, 0, how, "0/200", status=1)
    assert counts["torn"] > 0


def test_control_without_recovery_stepped_kills_stick(build):
    assert run_rig(build("step", PLAIN), 1.5, 0, 11, 0, status=1)["stuck"] > 0


# -- sanitizers ----------------------------------------------------------------------

WEAK_SWAP = (
    "mpmc.h",
    "static inline void count64",
    """static inline bool weak_swap(shared_u64 *word, uint64_t old, uint64_t new)
{
    return atomic_compare_exchange_strong_explicit(
        word, &old, new, memory_order_relaxed, memory_order_relaxed);
}

static inline void count64""",
)


def weaken(function, *more):
    """Replace the swap of one function by a relaxed one."""
    text = (CSRC / "mpmc.h").read_text()
    body = text[text.index(f"{function}(") :]
    body = body[: body.index("\n}\n")]
    return (WEAK_SWAP, ("mpmc.h", body, body.replace("swap64(", "weak_swap(")), *more)


def weaken_store(function):
    """Let the store of one function release nothing."""
    text = (CSRC / "mpmc.h").read_text()
    body = text[text.index(f"{function}(") :]
    body = body[: body.index("\n}\n")]
    return (("mpmc.h", body, body.replace("order_release", "order_relaxed")),)


def weaken_look(function):
    text = (CSRC / "mpmc.h").read_text()
    body = text[text.index(f"{function}(") :]
    body = body[: body.index("\n}\n")]
    return (
        "mpmc.h",
        body,
        body.replace("load64_seq_cst(&slot->word)", "load64(&slot->word)"),
    )


MUTANTS = {
    "publish releases nothing": weaken("bool mpmc_publish"),
    "free releases nothing": weaken("bool mpmc_free"),
    "publish in a run releases nothing": weaken_store("bool mpmc_publish_in_run"),
    "free in a run releases nothing": weaken_store("bool mpmc_free_in_run"),
    "take acquires nothing": weaken("bool mpmc_take", weaken_look("mpmc_ready")),
    "claim acquires nothing": weaken(
        "enum mpmc_result mpmc_claim", weaken_look("mpmc_room")
    ),
}


@pytest.mark.parametrize("flags", [THREAD, ADDRESS], ids=["tsan", "asan"])
@pytest.mark.parametrize("start", [0, *WRAPS])
def test_sanitizers_find_nothing(build, flags, start):
    counts = run_rig(build("threads", flags), 200_000, 100, start)
    assert counts["deaths"] > 0


@pytest.mark.parametrize("mutant", MUTANTS)
def test_control_weakened_orders_are_data_races(build, mutant):
    program = build("threads", THREAD, MUTANTS[mutant])
    done = subprocess.run(
        [str(program), "50000", "0", "0"],
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert "data race" in done.stderr, done.stdout


# -- asleep without a time limit -------------------------------------------------------

CROWDS = [(8, 3, 2), (16, 4, 4), (64, 4, 2), (1024, 4, 1), (16, 1, 8)]


@pytest.mark.parametrize("crowd", CROWDS, ids=str)
def test_the_last_to_free_a_slot_tells_who_waits_for_room(build, crowd):
    counts = run_rig(build("room", PLAIN), 200_000, *crowd, 7)
    assert counts["got"] == 200_000
    assert counts["sleeps"] > 1_000


@pytest.mark.parametrize("flags", [THREAD, ADDRESS], ids=["tsan", "asan"])
def test_sanitizers_find_nothing_among_sleepers(build, flags):
    assert run_rig(build("room", flags), 100_000, 16, 3, 3, 7)["sleeps"] > 100


@pytest.mark.soak
@pytest.mark.parametrize("crowd", CROWDS, ids=str)
def test_who_waits_for_room_is_told_in_ten_million(build, crowd):
    counts = run_rig(build("room", PLAIN), 10_000_000, *crowd, 11, timeout=None)
    print(counts)


NEVER_ROOMY = (
    "mpmc.h",
    "int64_t most = (int64_t)(ring->limit - ring->few);",
    "int64_t most = -1 - (int64_t)ring->few;",
)


def test_control_a_ring_that_is_never_roomy_leaves_all_asleep(build):
    program = build("room", PLAIN, (NEVER_ROOMY,))
    assert run_rig(program, 200_000, 16, 3, 3, 7, status=2)["got"] < 200_000


# -- the model -----------------------------------------------------------------------


MODEL = MODELS / "mpmc.pml"


@needs_spin
@pytest.mark.parametrize("defines", [[], ["DROPS"]], ids=["gets", "drops"])
def test_the_model_survives_one_kill_anywhere(tmp_path, defines):
    assert "errors: 0" in verify(tmp_path, MODEL, *defines)[2]


@needs_spin
@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_model_survives_one_kill_on_every_lap(tmp_path):
    assert "errors: 0" in verify(tmp_path, MODEL, "EACH=2")[2]


@needs_spin
@pytest.mark.parametrize(
    ("defines", "finding"),
    [
        (["NO_RECOVERY"], "invalid end state"),
        (["PUBLISH_DEAD"], "assertion violated"),
        (["FALSE_DEATH", "EACH=2"], "assertion violated"),
        (["TAGLESS", "DROPS"], "lost==condemned"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_control_the_broken_models_fail(tmp_path, defines, finding):
    assert finding in verify(tmp_path, MODEL, *defines)[2]
