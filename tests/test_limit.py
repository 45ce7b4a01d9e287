"""The limit on what is in flight, against paper devices: it finds the bend, by trial.

tests/sanitize/limit_sim.c has the devices and a clock that is a number, so nothing
here depends on how fast this machine is.  A control is the rule of byte queue
limits, which cannot see an idle server among many: it must not find the bend.  The
others are the search itself with one line weakened; the device or user named with it
must notice.
"""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import rings

HEADERS = Path(rings.__file__).with_name("csrc")
SOURCE = Path(__file__).with_name("sanitize") / "limit_sim.c"
FLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-g", "-O2"]
STRICT = ["-Werror", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
LARGEST = 2048

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


class Outcome(NamedTuple):
    limit: int
    per_s: float
    latency_ns: float
    raised: int
    lowered: int


def build(folder: Path, flags: list[str], headers: Path = HEADERS) -> Path:
    out = folder / "limit_sim"
    command = [
        "gcc",
        *FLAGS,
        *flags,
        f"-I{headers}",
        str(SOURCE),
        "-lm",
        "-o",
        str(out),
    ]
    subprocess.run(command, check=True)
    return out


@pytest.fixture(scope="module")
def simulate(tmp_path_factory):
    program = build(tmp_path_factory.mktemp("limit"), STRICT)

    @cache
    def run(rule: object, *arguments: object) -> Outcome:
        return outcome(program, rule, *arguments)

    return run


def outcome(program: Path, *arguments: object) -> Outcome:
    command = [str(program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    limit, per_s, latency, raised, lowered = done.stdout.split()
    return Outcome(int(limit), float(per_s), float(latency), int(raised), int(lowered))


# A device; its least limit with 98 % of all there is to have; requests to look at.
DEVICES = [
    ("fixed 100 5000000", 100, 100_000),
    ("random 100 5000000", 100, 300_000),
    ("random 8 100000", 8, 300_000),
    ("random 1000 1000000", 1000, 400_000),
    ("batch 10000 400", 1024, 4_000_000),
]
devices = pytest.mark.parametrize(("device", "best", "requests"), DEVICES)


def share(found: Outcome, of: Outcome) -> float:
    return found.per_s / of.per_s


@devices
def test_it_is_near_the_best_limit_that_stays(simulate, device, best, requests):
    arguments = (*device.split(), requests, LARGEST)
    found = simulate("auto", *arguments)
    wide, fitting = simulate(LARGEST, *arguments), simulate(best, *arguments)
    assert share(found, wide) > 0.93
    assert found.latency_ns < 2 * fitting.latency_ns


@pytest.mark.parametrize("device", ["fixed 100 5000000", "random 100 5000000"])
def test_control_the_rule_of_queue_limits_misses_the_bend(simulate, device):
    """Many servers never run dry all at once, so it takes ever more off."""
    arguments = (*device.split(), 100_000, LARGEST)
    assert share(simulate("queue", *arguments), simulate(LARGEST, *arguments)) < 0.2


@pytest.mark.parametrize(("before", "after"), [(100, 25), (25, 200)])
def test_it_follows_a_device_that_changes(simulate, before, after):
    first = ("random", before, 5_000_000, 300_000, LARGEST)
    found = simulate("auto", *first, "change=40000", f"after={after}")
    whole = simulate(LARGEST, "random", after, 5_000_000, 100_000, LARGEST)
    assert share(found, whole) > 0.93
    assert after * 0.9 < found.limit < after * 3


# Answers come as fast as requests are written: a full ring is half empty in the mean.
SWIFT = ("batch", 3000, 40, 4_000_000, LARGEST, "begin=3000", "each=60")


def test_a_ring_that_is_never_full_for_long_is_raised(simulate):
    found, wide = simulate("auto", *SWIFT), simulate(LARGEST, *SWIFT)
    assert share(simulate(32, *SWIFT), wide) < 0.4
    assert share(found, wide) > 0.93
    assert found.latency_ns < wide.latency_ns


HUNDRED = ("fixed", 100, 5_000_000, 100_000)


@pytest.mark.parametrize("wanted", [16, 32])
def test_it_stays_where_nobody_wants_more(simulate, wanted):
    for device in (HUNDRED, ("random", *HUNDRED[1:])):
        found = simulate("auto", *device, wanted)
        assert (found.limit, found.raised, found.lowered) == (32, 0, 0)


def test_it_is_lowered_below_what_is_wanted(simulate):
    """The user has enough for 32, the device for 4."""
    device = ("random", 4, 5_000_000, 100_000, 32)
    found, wide = simulate("auto", *device), simulate(LARGEST, *device)
    assert share(found, wide) > 0.93
    assert found.latency_ns < wide.latency_ns / 3


def test_what_is_wanted_need_not_be_a_doubling(simulate):
    found = simulate("auto", *HUNDRED, 100)
    assert found.limit == 100
    assert share(found, simulate(LARGEST, *HUNDRED, 100)) > 0.99


SLOWER = (*HUNDRED, 100, "change=20000", "after=25")


def test_a_limit_that_nobody_wants_raised_can_be_lowered(simulate):
    assert simulate("auto", *SLOWER).limit < 50


def test_whole_groups_need_not_come_up_to_the_limit(simulate):
    """Two of 24 do not fit below 32."""
    arguments = ("random", 100, 5_000_000, 300_000, LARGEST, "group=24")
    assert share(simulate("auto", *arguments), simulate(LARGEST, *arguments)) > 0.93


# A device and a user who asks for so much, has it answered and does something else.
PAUSES = {
    "many": ("random", 100, 5_000_000, 400_000, LARGEST, "burst=1000", "pause=1e8"),
    "few": ("random", 100, 5_000_000, 400_000, LARGEST, "burst=100", "pause=1e8"),
    "narrow": ("random", 8, 100_000, 400_000, LARGEST, "burst=100", "pause=2e7"),
    "swift": (*SWIFT, "burst=1000", "pause=2e7"),
    "short": (*SWIFT, "burst=1000", "pause=2e6"),
}


@pytest.mark.parametrize("user", PAUSES)
@pytest.mark.parametrize("seed", range(4))
def test_a_pause_is_no_work(simulate, user, seed):
    found = simulate("auto", *PAUSES[user], f"seed={seed}")
    wide = simulate(LARGEST, *PAUSES[user])
    assert share(found, wide) > 0.9
    assert found.latency_ns < 1.02 * wide.latency_ns


# Nothing is in flight while it writes, but that is work.
SLOW = ("fixed", 100, 5_000_000, 100_000, LARGEST, "each=20000", "even=1")


def test_writing_requests_is_no_pause(simulate):
    found, wide = simulate("auto", *SLOW), simulate(LARGEST, *SLOW)
    assert share(found, wide) > 0.93
    assert found.latency_ns < wide.latency_ns


# Servers that work abreast: answers come in groups, and a round ends with some group.
ABREAST = [
    ("fixed", 110, 5_000_000, 100_000, LARGEST, "even=1", "each=20000"),
    ("fixed", 90, 5_000_000, 100_000, LARGEST, "even=1", "begin=100000"),
]


@pytest.mark.parametrize("device", ABREAST, ids=["110", "90"])
def test_groups_of_answers_are_not_taken_for_a_gain(simulate, device):
    assert simulate("auto", *device).limit <= 144


# Of 4,000 answers 64 are wanted all at once.
CROWD = (*HUNDRED, LARGEST, "every=4000", "crowd=64", "few=8")


def test_a_crowd_now_and_then_tells_nothing(simulate):
    found = simulate("auto", *CROWD)
    assert (found.limit, found.raised, found.lowered) == (32, 0, 0)


# Beyond a few in flight nothing is gained, but no two rounds are alike.
RESTLESS = ("batch", 100, 60, 8_000_000, LARGEST, "begin=100", "each=20", "unrest=0.2")
SEEDS = [f"seed={seed}" for seed in range(1, 5)]


def test_unrest_is_not_taken_for_a_gain(simulate):
    wide = simulate(LARGEST, *RESTLESS)
    for found in (simulate("auto", *RESTLESS, seed) for seed in SEEDS):
        assert found.limit <= 128
        assert share(found, wide) > 0.85


# -- controls ----------------------------------------------------------------------


def mutant(folder: Path, line: str, weaker: str) -> Path:
    text = (HEADERS / "limit.h").read_text()
    assert text.count(line) == 1, f"{line!r} is not there once"
    (folder / "limit.h").write_text(text.replace(line, weaker))
    return build(folder, [], folder)


def test_control_a_search_that_dares_not_rise_is_found_out(tmp_path):
    """The limit is raised only for more than there is to gain."""
    program = mutant(tmp_path, "#define WORTH 0.03", "#define WORTH 1.5")
    device = ("random", 1000, 1_000_000, 100_000, LARGEST)
    found, wide = outcome(program, "auto", *device), outcome(program, LARGEST, *device)
    assert share(found, wide) < 0.93


def test_control_a_search_that_rises_for_nothing_is_found_out(tmp_path):
    program = mutant(tmp_path, "#define WORTH 0.03", "#define WORTH -0.05")
    device = ("random", 100, 5_000_000, 100_000, LARGEST)
    found, fitting = outcome(program, "auto", *device), outcome(program, 100, *device)
    assert found.latency_ns > 2 * fitting.latency_ns


def test_control_a_limit_reached_that_vouches_for_one_answer(tmp_path):
    program = mutant(tmp_path, "limit->vouched = limit->now;", "limit->vouched = 1;")
    assert outcome(program, "auto", *SWIFT).limit == 32


def test_control_a_round_that_always_counts(tmp_path):
    program = mutant(tmp_path, "#define BINDING 0.5", "#define BINDING 0.0")
    assert outcome(program, "auto", *CROWD).limit != 32


def test_control_a_search_that_believes_what_was_on_trial(tmp_path):
    """The base would be one that nobody comes near."""
    line = "limit->trial = limit->peak < limit->trial ? limit->peak : limit->trial;"
    program = mutant(tmp_path, line, "")
    assert outcome(program, "auto", *HUNDRED, 100).limit != 100


def test_control_a_trial_that_must_be_reached_itself(tmp_path):
    line = "limit->mark = limit_mark(limit);"
    program = mutant(tmp_path, line, "limit->mark = value;")
    found = outcome(program, "auto", *HUNDRED, 100)
    assert share(found, outcome(program, LARGEST, *HUNDRED, 100)) < 0.7


def test_control_a_trial_that_waits_for_who_never_comes(tmp_path):
    line = "++limit->unbound >= UNBOUND_ROUNDS"
    program = mutant(tmp_path, line, "++limit->unbound == 0")
    assert outcome(program, "auto", *SLOWER).limit >= 50


def test_control_a_round_that_takes_every_moment_for_a_pause(tmp_path):
    line = "passed_ns > limit->then_ns - limit->awake_ns;"
    program = mutant(tmp_path, line, "true;")
    assert outcome(program, "auto", *SLOW).limit == 32


def test_control_a_rate_that_is_the_count_by_the_time(tmp_path):
    line = "limit_slope(&limit->so_far));"
    other = "(double)limit->so_far.answers / (double)limit->so_far.ns);"
    program = mutant(tmp_path, line, other)
    assert all(outcome(program, "auto", *device).limit > 200 for device in ABREAST)


def test_control_a_search_that_learns_of_no_unrest(tmp_path):
    program = mutant(tmp_path, "/ NOISE_ROUNDS;", "/ 1e9;")
    limits = [outcome(program, "auto", *RESTLESS, seed).limit for seed in SEEDS]
    assert max(limits) > 512


HEEDLESS = {
    "a pause is work": (
        "passed_ns >= limit->hold_ns / PAUSE_PART",
        "passed_ns >= 1000 * limit->hold_ns",
    ),
    "so is the end of a crowd": (
        "    limit->so_far = limit->sure;\n"
        "    limit_pass(&limit->so_far, limit->sure_ns, 0);\n",
        "",
    ),
}


@pytest.mark.parametrize("heedless", HEEDLESS)
def test_control_a_round_that_heeds_no_pause(tmp_path, heedless):
    program = mutant(tmp_path, *HEEDLESS[heedless])
    lost = [
        share(
            outcome(program, "auto", *arguments, f"seed={seed}"),
            outcome(program, LARGEST, *arguments),
        )
        for arguments in PAUSES.values()
        for seed in range(4)
    ]
    assert min(lost) < 0.9
