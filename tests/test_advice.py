"""`rings.advise`: its rules, its refusals, and what it says beside a simulation."""

import dataclasses
import math
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rings
from bench.advice import WORKLOADS
from daemons.limits import Limits
from rings import advice, layout, units
from rings.advice import advise, compare, knee
from rings.forecast import Load, forecast, throughput_per_s

from .queue_simulator import Pauses, simulate

# -- the rules ---------------------------------------------------------------------


def test_a_closed_loop_gets_the_smallest_ring_that_keeps_the_servers_busy():
    found = advise(None, 5e-3, servers=100, variability="fixed", wait="block")
    assert (found.slots, found.order, found.queues) == (128, 2, 1)
    assert 95 < found.knee < 100
    assert found.predicted.throughput_per_s == pytest.approx(20_000)
    assert found.smaller.throughput_per_s < 0.95 * 20_000
    assert found.bigger.throughput_per_s == found.predicted.throughput_per_s
    assert found.bigger.p99_s > found.predicted.p99_s
    assert "20,000/s" in found.why


def test_the_multi_page_ring():
    """1500 servers want order 6; one page carries a forty-seventh of that."""
    found = advise(None, 5e-3, servers=1500, variability="fixed")
    assert (found.slots, found.order) == (2048, 6)
    load = Load(None, 5e-3, 1500, "fixed")
    ratio = forecast(load, 2048).throughput_per_s / forecast(load, 32).throughput_per_s
    assert ratio == pytest.approx(1500 / 32, rel=0.05)


def test_littles_law_and_the_pause_add_up():
    without = advise(50e3, 200e-6, servers=16, p99_s=2e-3, cores=4)
    paused = advise(50e3, 200e-6, servers=16, p99_s=2e-3, pause_s=2e-3, cores=4)
    assert without.slots == 16
    assert without.predicted.in_flight == pytest.approx(10, abs=1)
    assert paused.slots == 128
    assert paused.predicted.pause_s >= 2e-3 > paused.smaller.pause_s
    assert "a pause of 2 ms adds 100" in paused.why


def test_a_loss_that_matters_needs_more_slots():
    some = advise(8000, 4e-3, servers=40, policy="drop_new")
    few = advise(8000, 4e-3, servers=40, policy="drop_new", loss=1e-6)
    assert few.slots > some.slots
    assert some.predicted.blocking <= 0.05 < some.smaller.blocking
    assert few.predicted.blocking <= 1e-6 < few.smaller.blocking


def test_an_objective_decides_where_slots_are_what_is_waited_for():
    load = (8000, 5e-3)
    any_p99 = advise(*load, servers=1000, cores=4)
    tight = advise(*load, servers=1000, p99_s=24e-3, cores=4)
    assert tight.predicted.p99_s <= 24e-3
    assert tight.slots >= any_p99.slots


def test_a_depth_keeps_an_objective_that_the_whole_ring_does_not():
    asked = {"servers": 1000, "variability": "fixed", "wait": "block"}
    found = advise(None, 10e-3, p99_s=15e-3, **asked)
    assert found.slots == 1024
    assert found.knee < found.depth < 1000
    assert found.predicted.p99_s <= 15e-3 < found.bigger.p99_s
    assert found.predicted.throughput_per_s >= 0.95 * found.bigger.throughput_per_s
    assert found.bigger.slots == 1024
    assert f"1024 slots, of which {found.depth} in use" in found.why
    assert advise(None, 10e-3, p99_s=25e-3, **asked).depth is None


def test_queues_are_no_more_than_cores_producers_and_the_rate_need():
    few = advise(100e3, 1e-3, producers=8, cores=8)
    many = advise(900e3, 1e-3, producers=8, cores=8)
    assert few.queues == 1
    assert many.queues == math.ceil(900e3 * 2e-6 / 0.8)
    assert advise(700e3, 1e-3, producers=2, cores=8).queues == 2
    assert advise(700e3, 1e-3, producers=8, cores=2).queues == 2


@pytest.mark.parametrize("rate", [None, 1e3, 50e3, 400e3])
def test_a_batch_shares_a_wake_up_but_fills_soon_and_leaves_half_the_ring(rate):
    found = advise(rate, 1e-3, servers=1000, cores=4)
    per_s = found.predicted.throughput_per_s
    assert 1 <= found.batch <= found.slots // 2
    cheap = 30e-6 / found.batch <= 0.1 / per_s * (1 + 1e-9)
    slow_to_fill = rate is not None and found.batch >= 1e-3 * rate / 10
    assert cheap or slow_to_fill or found.batch == found.slots // 2


def test_ends_spin_when_requests_come_sooner_than_a_sleeper_wakes():
    assert advise(1e3, 1e-3, servers=16, cores=4).wait == "block"
    assert advise(100e3, 1e-3, servers=160, cores=4).wait == "spin:60"
    assert advise(100e3, 1e-3, servers=160, cores=1).wait == "block"
    assert (
        advise(1e3, 100e-6, variability="fixed", p99_s=120e-6, cores=4).wait == "busy"
    )


def test_a_device_faster_than_the_ring_wants_slots_to_share_wake_ups():
    asleep, spinning = (
        advise(None, 1e-6, wait=wait, cores=4) for wait in ("block", "spin:50")
    )
    assert asleep.slots >= 16 * spinning.slots


def test_more_slots_than_a_daemon_grants_say_which_option_helps():
    found = advise(300e3, 1e-3, pause_s=50e-3, cores=4)
    assert found.slots > advice.USUAL_MAX_SLOTS == Limits().slots
    assert f"--max-slots {found.slots}" in found.why


def test_a_pause_longer_than_the_objective_is_said():
    found = advise(1e3, 1e-3, servers=16, p99_s=10e-3, pause_s=1.0)
    assert "less than 1 request in 100 meets a pause" in found.why


loads = st.builds(
    dict,
    rate_per_s=st.one_of(st.none(), st.floats(1, 4e5)),
    service_s=st.floats(1e-6, 0.05),
    servers=st.one_of(st.none(), st.integers(1, 3000)),
    variability=st.sampled_from(["fixed", "exponential"]),
    policy=st.sampled_from(["block", "drop_new"]),
    pause_s=st.sampled_from([0.0, 1e-4, 3e-3]),
    producers=st.integers(1, 4),
)


@settings(max_examples=60, deadline=None)
@given(loads)
def test_what_is_advised_is_a_ring_does_what_is_asked_and_half_of_it_does_not(asked):
    try:
        found = advise(**asked, cores=4)
    except ValueError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert re.search(r"set [\w ]+ to \d", refusal)
        return
    assert 1 <= found.slots <= layout.MAX_SLOTS
    assert found.slots & (found.slots - 1) == 0
    assert found.order is None or found.slots == 32 << found.order
    load = Load(
        asked["rate_per_s"], asked["service_s"], asked["servers"],
        asked["variability"], asked["policy"], queues=found.queues, wait=found.wait,
    )  # fmt: skip
    most = min(load.useful_per_s, asked["rate_per_s"] or math.inf)
    carried = throughput_per_s(load, found.slots * found.queues)
    assert carried >= 0.95 * most * (1 - 1e-9)
    assert 0 < found.utilisation <= 1 + 1e-9
    assert found.predicted.p50_s <= found.predicted.p99_s < math.inf
    in_flight = found.predicted.in_flight / 0.95
    if found.slots > 2 * max(found.knee, in_flight, found.queues) / found.queues:
        assert asked["pause_s"] or load.is_lossy


# -- what cannot be --------------------------------------------------------------


def taken(asked, error):
    """Each change that a refusal proposes, as arguments that make it."""
    for name, text in re.findall(r"(\w+) to ([\d.,]+(?: (?:ns|us|ms|s))?) or", error):
        parse = units.number if name in ("rate_per_s", "loss") else units.seconds
        value = parse(text.replace(",", ""))
        yield {**asked, name: int(value) if name in ("servers", "cores") else value}


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"rate_per_s": 50e3, "service_s": 200e-6, "servers": 8},
         "8 servers of 200 us serve 40,000/s at most, and 50,000/s are asked: set "
         "servers to 11 or more, service_s to 152 us or less, or rate_per_s to 38,000"),
        ({"rate_per_s": 1e3, "service_s": 5e-3, "p99_s": 10e-3},
         "take up to 23 ms, and the ring adds 62 us: set p99_s to 23.1 ms or more"),
        ({"rate_per_s": 1e3, "service_s": 5e-3, "p99_s": 4e-3, "variability": "fixed"},
         "99 in 100 of fixed services of 5 ms"),
        ({"rate_per_s": 50e3, "service_s": 200e-6, "servers": 11, "p99_s": 1.05e-3},
         "however large the ring, 99 in 100 answers take up to 1.26 ms, as servers are "
         "in use 91% of the time"),
        ({"rate_per_s": None, "service_s": 5e-3, "servers": 100, "p99_s": 30e-3,
          "pause_s": 50e-3}, "a pause of 50 ms at 20,000/s needs 1097 slots"),
        ({"rate_per_s": 9e3, "service_s": 4e-3, "servers": 33, "policy": "drop_new",
          "loss": 0.1, "p99_s": 20e-3}, "losing 10 % at most needs 64 slots"),
        ({"rate_per_s": 300e3, "service_s": 1e-3, "pause_s": 1.0},
         "a ring has 65536 at most: set pause_s to 217 ms or less"),
        ({"rate_per_s": 9e3, "service_s": 4e-3, "servers": 33, "policy": "drop_new",
          "loss": 0.01}, "33 servers of 4 ms serve 8,250/s at most"),
        ({"rate_per_s": None, "service_s": 100e-6, "servers": 8, "p99_s": 170e-6,
          "variability": "fixed", "wait": "block"}, "80,000/s needs 13 slots"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_what_to_change_and_that_helps(asked, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)) as caught:
        advise(**asked, cores=4)
    changes = list(taken(asked, str(caught.value)))
    assert changes
    for changed in changes:
        assert advise(**changed, cores=4).slots, changed


def test_one_pusher_is_told_how_many_it_takes():
    with pytest.raises(ValueError, match="set producers and cores to 3 or more") as why:
        advise(900e3, 1e-3, cores=4)
    assert "1 producer with a core each can push 500,000/s at most" in str(why.value)
    assert advise(900e3, 1e-3, producers=3, cores=3).queues == 3


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"service_s": 0.0}, "service_s must be more than 0, not 0.0"),
        ({"rate_per_s": -1.0}, "rate_per_s must be more than 0"),
        ({"servers": 0}, "servers must be more than 0"),
        ({"pause_s": -1e-3}, "pause_s must be at least 0"),
        ({"loss": math.nan}, "loss must be at least 0"),
        ({"policy": "drop"}, "policy is one of block, spill, drop_new, error"),
        ({"variability": "even"}, "variability is one of exponential, fixed"),
        ({"wait": "sometimes"}, "unknown waiting strategy 'sometimes'"),
    ],
)
def test_what_makes_no_sense_is_refused(changed, complaint):
    with pytest.raises(ValueError, match=complaint):
        advise(**{"rate_per_s": 1e3, "service_s": 1e-3, **changed})


# -- beside what was measured ----------------------------------------------------


def cell(slots, per_s, p99_us, valid=True):
    return {
        "parameters": {"slots": slots},
        "achieved_per_s": per_s,
        "latency_us": {"p99": p99_us},
        "valid": valid,
    }


CELLS = [cell(32, 64, 5), cell(64, 94.9, 6), cell(128, 95, 7), cell(256, 100, 12)]


def test_the_knee_is_the_smallest_with_95_percent():
    assert knee(CELLS) == 128
    assert knee(reversed(CELLS)) == 128
    assert knee(CELLS, share=0.9) == 64


def test_the_knee_keeps_the_objective_and_counts_valid_cells_only():
    assert knee(CELLS, p99_s=6.5e-6) is None
    assert knee([*CELLS, cell(512, 1000, 1, valid=False)]) == 128
    assert knee([*CELLS, cell(512, 1000, 1)]) == 512
    assert knee([]) is None


def test_a_comparison_counts_doublings():
    found = advise(None, 5e-3, servers=100, variability="fixed", wait="block")
    assert compare(found, CELLS) == (128, 128, 0)
    bigger = dataclasses.replace(found, slots=512)
    assert compare(bigger, CELLS).orders == 2
    smaller = dataclasses.replace(found, slots=64)
    assert compare(smaller, CELLS).orders == -1
    with pytest.raises(ValueError, match="no valid cell answers within"):
        compare(found, CELLS, p99_s=1e-6)


def advised(found):
    """Return the slots and the depth of an advice."""
    return found.slots, found.depth


@pytest.mark.parametrize("load", WORKLOADS, ids=lambda load: load.name)
def test_advice_is_within_an_order_of_the_knee_of_a_simulated_ring(load):
    found = load.advice()
    cells = []
    for slots, depth in [*((slots, None) for slots in load.sizes), advised(found)]:
        run = simulate(
            max(15_000, 12 * slots),
            rate_per_s=load.rate_per_s,
            service_s=load.service_s,
            servers=load.servers,
            slots=depth or slots,
            is_fixed=load.variability == "fixed",
            is_lossy=load.policy == "drop_new",
            round_trip_s=60e-6,
            request_s=2e-6,
            pauses=Pauses(load.pause_every_s, load.pause_s) if load.pause_s else None,
        )
        cells.append(run.as_cell(slots))
        at = cells[-1]
    assert abs(compare(found, cells, load.p99_s).orders) <= 1
    per_s = found.predicted.throughput_per_s
    assert at["achieved_per_s"] == pytest.approx(per_s, rel=0.07)


# -- how it is reached -------------------------------------------------------------


def test_it_is_a_public_name_imported_when_used():
    program = (
        "import sys, rings; assert 'rings.advice' not in sys.modules; "
        "print(rings.advise(None, 5e-3, servers=100).slots, rings.Advice.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["128", "Advice"]
    assert rings.advise is advise
