"""A broadcast's producer and consumers killed at any store, with controls that fail."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.rigging import PLAIN, compile_rig, run_rig

WRAP = 2**32 - 3
KILLS = int(os.environ.get("RINGS_KILLS", "3000"))
BLOCK, DROP_OLD = 0, 1
STORES = {
    "broadcast_await_message", "broadcast_join", "broadcast_pass", "broadcast_publish",
    "broadcast_write", "owner_give_back", "owner_take",
}  # fmt: skip
STORES_OF = {
    BLOCK: STORES | {"broadcast_await_room", "broadcast_reap"},
    DROP_OLD: STORES | {"broadcast_lose"},
}

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


@pytest.mark.parametrize("policy", STORES_OF, ids=["block", "drop_old"])
def test_killed_at_every_store(tmp_path, policy):
    program = compile_rig(tmp_path, "broadcast_fault", PLAIN, ())
    counts = run_rig(program, KILLS, WRAP, 7, policy)
    assert STORES_OF[policy] <= counts["kills"].keys(), "a store that nobody died at"
    assert sum(counts["kills"].values()) >= KILLS
    assert counts["messages"] > WRAP + 1000


NOBODY_REAPS = (
    "broadcast.h",
    "if (!owner_is_process(owner) || !owner_is_dead(owner) ||",
    "if (true || !owner_is_process(owner) || !owner_is_dead(owner) ||",
)
BUSY_FLAG = (
    "broadcast.h",
    "(void)atomic_exchange(&header->prod, producer->prod);",
    """while (atomic_exchange(&header->producer.lost, 1) != 0)
        cpu_relax();
    (void)atomic_exchange(&header->prod, producer->prod);
    atomic_store(&header->producer.lost, 0);""",
)


def test_control_dead_consumers_that_nobody_reaps_hold_the_ring(tmp_path):
    program = compile_rig(tmp_path, "broadcast_fault", PLAIN, [NOBODY_REAPS])
    assert not run_rig(program, 500, 0, 7, BLOCK, status=1)["whole"]


def test_control_a_lock_left_behind_is_stuck(tmp_path):
    program = compile_rig(tmp_path, "broadcast_fault", PLAIN, [BUSY_FLAG])
    assert run_rig(program, 500, 0, 7, BLOCK, status=2)["stuck"]


@pytest.mark.parametrize("policy", STORES_OF, ids=["block", "drop_old"])
def test_control_published_before_written_is_noticed(tmp_path, policy):
    flags = [*PLAIN, "-DPUBLISH_FIRST"]
    counts = run_rig(
        compile_rig(tmp_path, "broadcast_fault", flags, ()), 500, 0, 7, policy, status=1
    )
    assert counts["torn"] + counts["wrong"] + counts["twice"] > 0
