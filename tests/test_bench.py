"""The benchmarks themselves: their statistics, their checks, and a tiny run of each.

Figures are not tested; that a wrong transfer cannot become a figure is.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench import advice, harness, image, resize, table, transfer  # noqa: E402
from bench.__main__ import main  # noqa: E402
from bench.channel import ONE_CORE, ONE_TO_ONE, Adapter, Receiver, Sender, Spec  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Compile into a directory of this test's own."""
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


# -- statistics ----------------------------------------------------------------


def test_a_summary_is_the_median_with_its_range() -> None:
    assert harness.summarise([5.0, 1.0, 3.0]) == (3.0, 1.0, 5.0, (5.0, 1.0, 3.0))


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [(0.0, 0), (0.5, 500), (0.99, 990), (0.999, 999), (1, 999)],
)
def test_a_percentile_is_a_sample(fraction: float, expected: int) -> None:
    assert harness.percentile(range(1000), fraction) == expected


def test_a_percentile_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        harness.percentile([], 0.5)


def test_latencies_are_in_microseconds() -> None:
    found = harness.latencies([1000 * n for n in reversed(range(1000))])
    assert found == {"p50_us": 500.0, "p99_us": 990.0, "p999_us": 999.0}


def test_rounds_interleave_and_rotate() -> None:
    turns = list(harness.interleave(3, "ABC"))
    assert "".join(name for _, name in turns) == "ABCBCACAB"
    assert [turn for turn, _ in turns] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def report(**rates: list[float]) -> harness.Report:
    made = harness.Report("test", "base", {})
    for contender, values in rates.items():
        for turn, rate in enumerate(values):
            made.add("load", contender, turn, {"rate": rate})
    return made


def test_ratios_are_paired_by_round() -> None:
    made = report(base=[100.0, 10.0, 50.0], ours=[200.0, 20.0, 50.0])
    ratio = made.ratio("load", "ours", "base")
    assert ratio is not None
    assert ratio.values == (2.0, 2.0, 1.0)
    assert ratio.median == 2.0


def test_a_round_that_failed_is_left_out_of_the_ratio() -> None:
    made = report(base=[100.0], ours=[200.0, 300.0])
    ratio = made.ratio("load", "ours", "base")
    assert ratio is not None
    assert ratio.values == (2.0,)


def test_the_best_is_the_fastest_rate_or_the_least_latency() -> None:
    made = report(slow=[1.0], fast=[9.0])
    assert made.best("load", ["slow", "fast", "absent"]) == "fast"
    made.add("trip", "slow", 0, {"p50_us": 9.0})
    made.add("trip", "fast", 0, {"p50_us": 1.0})
    assert made.best("trip", ["slow", "fast"]) == "fast"
    assert made.best("nothing", ["slow", "fast"]) is None


def test_tables_are_plain_without_rich(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    made = report(base=[1e6], ours=[2e6])
    table.show(made.as_json())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "load"
    assert lines[3].split() == ["ours", "2", "M", "2"]


def test_saved_results_become_the_tables_of_the_docs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = report(base=[1e6, 2e6, 4e6], ours=[2e6, 4e6, 4e6], late=[1e6])
    saved = tmp_path / "saved.json"
    saved.write_text(json.dumps(made.as_json()))
    assert main(["tables", str(saved), "--against", "base"]) == 0
    assert capsys.readouterr().out == (
        "**load**\n\n"
        "| | messages/s | × base |\n"  # noqa: RUF001
        "|---|---:|---:|\n"
        "| base | 2 M (1 M–4 M) | 1.00 (1.00–1.00) |\n"  # noqa: RUF001
        "| ours | 4 M (2 M–4 M) | 2.00 (1.00–2.00) |\n"  # noqa: RUF001
        "| late | 1 M | - |\n\n"
    )


# -- a wrong transfer must not become a figure -----------------------------------


class Faulty(Adapter):
    """A pipe that treats message number 50 as `fault` says."""

    fan = ONE_TO_ONE

    def __init__(self, fault: str) -> None:
        self.name = fault

    def create(self, spec: Spec) -> Any:
        return (*os.pipe(), spec.size)

    def sender(self, made: Any, index: int) -> Sender:
        late: list[bytes] = []

        def put(data: bytes) -> None:
            for message in self.spoil(data, int.from_bytes(data[:8], "little"), late):
                os.write(made[1], message)

        return Sender(put=put)

    def spoil(self, data: bytes, number: int, late: list[bytes]) -> list[bytes]:
        if number == 50 and self.name == "lost":
            return []
        if number == 50 and self.name == "twice":
            return [data, data]
        if number == 50 and self.name == "torn":
            return [data[:-1] + b"\xff"]
        if number == 50 and self.name == "late":
            late.append(data)
            return []
        return [data, late.pop()] if late else [data]

    def receiver(self, made: Any, index: int) -> Receiver:
        return Receiver(get=lambda: os.read(made[0], made[2]))

    def destroy(self, made: Any) -> None:
        os.close(made[0])
        os.close(made[1])


def verify(fault: str, folder: Path) -> None:
    spec = Spec(64, 1, 1, folder, fault)
    transfer.verify(Faulty(fault), spec, ONE_CORE, 100)


def test_a_right_transfer_is_verified(tmp_path: Path) -> None:
    verify("none", tmp_path)


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [("torn", "is torn"), ("late", "came after"), ("twice", "came after")],
)
def test_a_wrong_transfer_is_refused(
    fault: str, complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match=complaint):
        verify(fault, tmp_path)


def test_a_lost_message_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "VERIFY_S", 0.5)
    with pytest.raises(TimeoutError, match="verification"):
        verify("lost", tmp_path)


def test_a_rate_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "LIMIT_BYTES_PER_S", 1.0)
    with pytest.raises(AssertionError, match="cannot be"):
        transfer.timed(Faulty("none"), Spec(64, 1, 1, ROOT, ""), ONE_CORE, 0.02)


# -- the image --------------------------------------------------------------------


def test_an_image_is_checked_block_by_block(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    image.write_image(path, 4 * image.BLOCK)
    data = memoryview(path.read_bytes())
    assert len(data) == 4 * image.BLOCK
    third = data[2 * image.BLOCK : 3 * image.BLOCK]
    image.check(third, 2 * image.BLOCK)
    with pytest.raises(AssertionError, match="block 1 reads as 2"):
        image.check(third, image.BLOCK)


def test_what_was_read_is_resident(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    image.write_image(path, 16 * image.BLOCK)
    residency = image.Residency(path)
    try:
        residency.load()
        assert residency.fraction() == 1.0
    finally:
        residency.close()


def direct_uring(path: Path, offsets: Path) -> subprocess.CompletedProcess[str]:
    program = harness.compile_c("direct_uring")
    words = [program, path, offsets, "4", "0.01", "0.01", "0"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    if "io_uring_setup" in done.stderr:
        pytest.skip(f"no io_uring here: {done.stderr.strip()}")
    return done


def test_the_reference_refuses_wrong_data(tmp_path: Path) -> None:
    path, offsets = tmp_path / "disk.img", tmp_path / "offsets"
    image.write_image(path, 8 * image.BLOCK)
    offsets.write_bytes(image.random_offsets(8 * image.BLOCK, 64).tobytes())
    assert direct_uring(path, offsets).returncode == 0
    with path.open("r+b") as file:
        for number in range(8):
            file.seek(number * image.BLOCK)
            file.write(b"\xff")
    done = direct_uring(path, offsets)
    assert done.returncode == 1
    assert "wrong data" in done.stderr


# -- a tiny run of each subcommand ---------------------------------------------------


def bench(tmp_path: Path, *words: str) -> Any:
    """Run a benchmark in a process of its own; return what it saved."""
    saved = tmp_path / "report.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words, "--json", str(saved)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(saved.read_text())


def check_schema(data: dict[str, Any], rounds: int) -> None:
    assert data["schema"] == harness.SCHEMA
    assert {"kernel", "cpu_model", "python", "cores_allowed"} <= set(data["machine"])
    assert {"steal_fraction", "load_average_before"} <= set(data["meanwhile"])
    assert data["failures"] == []
    assert data["rows"]
    for row in data["rows"]:
        assert isinstance(row["workload"], str)
        for summary in row["metrics"].values():
            assert len(summary["values"]) in (1, rounds)
            assert summary["low"] <= summary["median"] <= summary["high"]


def contenders(data: dict[str, Any], workload: str) -> set[str]:
    return {r["contender"] for r in data["rows"] if workload in r["workload"]}


def test_block_runs(tmp_path: Path) -> None:
    path, offsets = tmp_path / "disk.img", tmp_path / "offsets"
    image.write_image(path, image.BLOCK)
    offsets.write_bytes(bytes(8))
    assert direct_uring(path, offsets).returncode == 0
    data = bench(
        tmp_path, "block", "--smoke", "--rounds", "2", "--size", "1", "--seconds",
        "0.02", "--only", "preadv", "--only", "ring,", "--depths", "1,8",
    )  # fmt: skip
    check_schema(data, rounds=2)
    rings = {"direct io_uring (C)", "ring, spin 50 us", "ring, block"}
    assert contenders(data, "depth 1") == {*rings, "os.preadv loop"}
    assert contenders(data, "depth 8") == {*rings, "ring, a handle a read, spin 50 us"}
    assert len(contenders(data, "idle")) == 4
    ours = next(r for r in data["rows"] if r["contender"] == "ring, block")
    assert ours["metrics"]["enters_per_op"]["median"] > 0
    reference = [r for r in data["rows"] if r["contender"] == data["reference"]]
    assert all(row["ratio"]["values"] == [1.0, 1.0] for row in reference)


@pytest.mark.parametrize("kind", ["stream", "batch", "array", "fan", "trip", "idle"])
def test_messages_runs(tmp_path: Path, kind: str) -> None:
    only = ("--only", "os.pipe", "--only", "g.Pipe", "--kinds", kind)
    data = bench(tmp_path, "messages", "--smoke", *only)
    check_schema(data, rounds=1)
    expected = {
        "stream": {"os.pipe", "multiprocessing.Pipe", "C floor: stream_1"},
        "batch": {"os.pipe", "C floor: stream_1024"},
        "array": {"multiprocessing.Pipe"},
        "fan": {"os.pipe"},
        "trip": {
            "os.pipe", "multiprocessing.Pipe", "C floor: eventfd", "C floor: pingpong",
        },
        "idle": {"os.pipe", "multiprocessing.Pipe"},
    }  # fmt: skip
    assert contenders(data, "") == expected[kind]


def test_call_pairs_stand_beside_two_empty_methods(tmp_path: Path) -> None:
    words = ("messages", "--smoke", "--only", "deque", "--kinds", "pair")
    data = bench(tmp_path, *words)
    check_schema(data, rounds=1)
    assert contenders(data, "one process") == {
        "collections.deque (references)", "two empty Python methods",
    }  # fmt: skip


def test_verification_alone_times_nothing(tmp_path: Path) -> None:
    words = ("messages", "--smoke", "--verify", "--only", "os.pipe", "--kinds", "batch")
    data = bench(tmp_path, *words)
    assert data["rows"] == []
    assert data["failures"] == []


def test_advice_runs(tmp_path: Path) -> None:
    (row,) = bench(tmp_path, "advice", "--smoke")
    assert (row["load"], row["advised"]) == ("narrow", 16)
    assert {slots for slots, *_ in row["sweep"]} & {2, 4, 8, 16, 32, 64}
    assert all(rate > 0 and p99_s > 0 for *_, rate, p99_s in row["sweep"])


def test_resize_runs(tmp_path: Path) -> None:
    rows = bench(tmp_path, "resize", "--smoke", "--seconds", "0.03")
    assert [(row["device"][:5], row["depth"]) for row in rows] == [
        ("null", 32), ("null", 256), ("delay", 32), ("delay", 256),
    ]  # fmt: skip
    for row in rows:
        assert row["resizes"] == 2
        assert 0 < row["gap_p50_s"] <= row["gap_max_s"] <= 0.03
        assert 0 < row["resize_p50_s"] <= row["resize_max_s"]
        assert row["rate_per_s"] > 0


def test_restart_runs(tmp_path: Path) -> None:
    rows = bench(tmp_path, "restart", "--smoke")
    assert [(row["engine"], row["ended_by"]) for row in rows] == [
        (engine, way)
        for engine in ("uring", "threads", "mock")
        for way in ("SIGKILL", "SIGTERM")
    ]
    for row in rows:
        assert 0 < row["p50_told_s"] < row["p50_answered_s"] <= row["max_answered_s"]


def test_what_a_resize_costs_is_told_by_the_windows_beside_it() -> None:
    windows = [
        resize.Window(100, 0.001, 0.0), resize.Window(90, 0.002, 0.0004),
        resize.Window(110, 0.003, 0.0), resize.Window(94, 0.005, 0.0008),
        resize.Window(120, 0.002, 0.0), resize.Window(99, 0.001, 0.0006),
    ]  # fmt: skip
    row = resize.row(resize.DEVICES[0], windows, 0.1)
    assert (row["gap_p50_s"], row["gap_max_s"]) == (0.002, 0.005)
    assert (row["gap_without_p50_s"], row["gap_without_max_s"]) == (0.002, 0.003)
    assert (row["resize_p50_s"], row["resize_max_s"]) == (0.0006, 0.0008)
    assert row["lost"] == pytest.approx(0.1 * 16 / 110)
    assert row["rate_per_s"] == pytest.approx(1100)


def cell(slots: int, rate: float, p99: float) -> dict[str, Any]:
    latency = {"p99": p99}
    return {
        "parameters": {"slots": slots}, "achieved_per_s": rate, "latency_us": latency,
    }  # fmt: skip


def test_sizes_count_by_the_median_of_their_rounds() -> None:
    rounds = [
        [cell(8, 1.0, 9.0), cell(16, 5.0, 1.0)],
        [cell(8, 3.0, 7.0)],
        [cell(8, 9.0, 1.0)],
    ]
    assert advice.medians(rounds) == [cell(8, 3.0, 7.0)]


def test_a_depth_is_measured_as_it_was_advised(tmp_path: Path) -> None:
    load = next(load for load in advice.WORKLOADS if load.name == "wide")
    small = dataclasses.replace(load, servers=10, p99_s=15e-3)
    cells = advice.measured(small, tmp_path / "wide-0.json", 0.1)
    told = small.advice()
    assert told.depth is not None
    assert told.depth <= 10 < told.slots
    sizes = {advice._size(cell) for cell in cells}
    assert (told.slots, told.depth) in sizes
    assert len(sizes) > 1
    assert advice.row(small, advice.medians([cells]))["depth"] == told.depth


def test_a_load_without_a_knee_is_no_success() -> None:
    load = next(load for load in advice.WORKLOADS if load.name == "even")
    row = advice.row(load, [cell(128, 20000.0, 1e6 * 2 * (load.p99_s or 0))])
    assert (row["advised"], row["measured"], row["orders"]) == (128, None, None)
    assert advice.is_off(row)
    assert not advice.is_off(advice.row(load, [cell(64, 20000.0, 1000.0)]))
    assert advice.is_off(advice.row(load, [cell(32, 20000.0, 1000.0)]))
