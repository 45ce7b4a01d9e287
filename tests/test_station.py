"""The servers of a delay device, alone: against a model, with mutants, under Little."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CSRC = ROOT / "daemons" / "csrc"
PROGRAM = ROOT / "tests" / "sanitize" / "station_model.c"
FLAGS = [
    "-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter",
]  # fmt: skip
SANITIZED = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
HANG_S = 100
SERVICE_NS = 5_000_000

# What is broken in station.c, and what stands there instead; the model must notice.
MUTANTS = {
    "one server too many": (
        "station->stats.in_service < station->plan.servers",
        "station->stats.in_service <= station->plan.servers",
    ),
    "last come, first served": (
        "struct visit *next = station->first;",
        "struct visit *next = station->last;",
    ),
    "begins when noticed": (
        "end(station, visit, visit->due_ns);",
        "end(station, visit, now_ns);",
    ),
    "begins before it came": (
        "free_ns > visit->arrived_ns ? free_ns : visit->arrived_ns",
        "free_ns",
    ),
    "a cancelled one keeps its server": (
        "end(station, visit, now_ns < visit->due_ns ? now_ns : visit->due_ns);",
        "remove_from_heap(station, visit), visit->place = VISIT_NONE;",
    ),
    "ties in any order": ("a->order < b->order", "a->order > b->order"),
    "the heap sinks only": (
        "if (visit->at > 0 && before(moved, station->serving[(visit->at - 1) / 2]))",
        "if (false)",
    ),
    "the queue forgets its last": (
        "*(visit->next != NULL ? &visit->next->prev : &station->last) = visit->prev;",
        "if (visit->next != NULL) visit->next->prev = visit->prev;",
    ),
}


def build(csrc: Path, target: Path, flags: list[str]) -> Path:
    command = ["gcc", *FLAGS, *flags, f"-I{csrc}", f"-I{PROGRAM.parent}"]
    command += [str(PROGRAM), str(csrc / "station.c"), "-lm", "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    if "cannot find" in done.stderr and "asan" in done.stderr:
        pytest.skip("gcc has no sanitizer runtime here")
    assert done.returncode == 0, done.stderr
    return target


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG_S)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(CSRC, tmp_path_factory.mktemp("station") / "station", SANITIZED)


def test_visits_go_as_the_model_says(program: Path) -> None:
    done = run(program, 1, 20)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", MUTANTS)
def test_the_model_notices(name: str, tmp_path: Path) -> None:
    old, new = MUTANTS[name]
    csrc = tmp_path / "csrc"
    csrc.mkdir()
    shutil.copy(CSRC / "station.h", csrc)
    text = (CSRC / "station.c").read_text()
    assert text.count(old) == 1
    (csrc / "station.c").write_text(text.replace(old, new))
    assert run(build(csrc, tmp_path / "mutant", SANITIZED), 1, 20).returncode != 0


# -- a closed loop: N customers, K servers -------------------------------------

ROUNDS = 400


def loop(
    program: Path, customers: int, servers: int, late_ns: int, exponential: int = 0
) -> dict[str, int]:
    done = run(program, customers, servers, SERVICE_NS, late_ns, ROUNDS, exponential, 7)
    assert done.returncode == 0, done.stderr
    counts: dict[str, int] = json.loads(done.stdout)
    return counts


@pytest.mark.parametrize("servers", [1, 100, 1500])
@pytest.mark.parametrize("customers", [1, 32, 128, 1024, 2048])
def test_a_prompt_caller_gets_what_the_servers_can(
    program: Path, customers: int, servers: int
) -> None:
    """X = min(N, K) / S and R = N / X, with nothing to spare: the times are exact."""
    told = loop(program, customers, servers, SERVICE_NS)
    assert told["served"] == ROUNDS * min(customers, servers)
    assert told["busy_ns"] == told["served"] * SERVICE_NS
    assert told["in_service_peak"] == min(customers, servers)
    missing = customers * customers * SERVICE_NS  # who is in there still
    area = customers * told["elapsed_ns"]
    assert area - missing <= told["sojourn_ns"] <= area


@pytest.mark.parametrize("late", [3, 7, 50, 180])
def test_a_late_caller_takes_no_capacity_from_busy_servers(
    program: Path, late: int
) -> None:
    """With a queue to take from; who looks once in 1.8 S needs one of 1.8 K."""
    told = loop(program, 300, 100, SERVICE_NS * late // 100)
    assert ROUNDS * 100 - 300 <= told["served"] <= ROUNDS * 100


def test_exponential_times_have_the_mean_they_were_given(program: Path) -> None:
    told = loop(program, 128, 100, SERVICE_NS // 100, exponential=1)
    mean_ns = told["busy_ns"] / told["served"]
    assert mean_ns == pytest.approx(SERVICE_NS, rel=0.02)
    assert told["served"] == pytest.approx(ROUNDS * 100, rel=0.02)
