"""The limit on what is in flight, against paper devices: it finds the bend, by trial.

tests/sanitize/limit_sim.c has the devices and a clock that is a number, so nothing
here depends on how fast this machine is.  The control is the rule of byte queue
limits, which cannot see an idle server among many: it must not find the bend.
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
    first = ("random", before, 5_000_000, 300_000, LARGEST, 40_000, after)
    found = simulate("auto", *first)
    whole = simulate(LARGEST, "random", after, 5_000_000, 100_000, LARGEST)
    assert share(found, whole) > 0.93
    assert after * 0.9 < found.limit < after * 3


def test_it_stays_where_nobody_wants_more(simulate):
    found = simulate("auto", "random", 100, 5_000_000, 100_000, 16)
    assert (found.limit, found.raised, found.lowered) == (32, 0, 0)


RELUCTANT = (
    "#define WORTH 0.03",
    "#define WORTH 1.5",
)


def mutant(folder: Path, *lines: str) -> Path:
    text = (HEADERS / "limit.h").read_text()
    for line, weaker in zip(lines[::2], lines[1::2], strict=True):
        assert text.count(line) == 1
        text = text.replace(line, weaker)
    (folder / "limit.h").write_text(text)
    return build(folder, [], folder)


def test_control_a_search_that_dares_not_rise_is_found_out(tmp_path):
    """The limit is raised only for more than there is to gain."""
    program = mutant(tmp_path, *RELUCTANT)
    device = ("random", 1000, 1_000_000, 100_000, LARGEST)
    found, wide = outcome(program, "auto", *device), outcome(program, LARGEST, *device)
    assert share(found, wide) < 0.93


def test_control_a_search_that_rises_for_nothing_is_found_out(tmp_path):
    program = mutant(tmp_path, "#define WORTH 0.03", "#define WORTH -0.05")
    device = ("random", 100, 5_000_000, 100_000, LARGEST)
    found, fitting = outcome(program, "auto", *device), outcome(program, 100, *device)
    assert found.latency_ns > 2 * fitting.latency_ns
