"""`rings stress`: plans as users write them, cells measured, files gone on with."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rings import cli
from rings.stress import plan
from rings.stress.cell import Cell
from rings.stress.command import as_csv
from rings.stress.device import Device
from rings.stress.device import parse as parse_device
from rings.stress.measure import latencies, predicted
from rings.stress.stage import Stage
from rings.stress.sweep import Sweep, knees, measured, usl_curves

DELAY = Device("delay", 10, 0.002)

# -- plans ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("null", Device("null")),
        ("file", Device("file")),
        ("file:/x,y=z", Device("file", path="/x,y=z")),
        ("delay:K=100,S=5ms", Device("delay", 100, 0.005)),
        ("delay:S=250us,K=8,exponential", Device("delay", 8, 250e-6, "exponential")),
    ],
)
def test_devices_are_written_as_they_are_read(text, device):
    assert parse_device(text) == device
    assert parse_device(str(device)) == device


@pytest.mark.parametrize(
    "text",
    ["", "disk", "null:1", "delay", "delay:K=1", "delay:K=0,S=1s", "delay:K=1,S=0s",
     "delay:K=x,S=1s", "delay:K=1,S=1s,often", "delay:K=1,S=1s,Q=2"],
)  # fmt: skip
def test_what_is_no_device_is_refused(text):
    with pytest.raises(ValueError, match=r"delay:|K must"):
        parse_device(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("order=0..2", ("slots", [32, 64, 128])),
        ("order=6", ("slots", [2048])),
        ("slots=1,8", ("slots", [1, 8])),
        ("size=512,4k,1M", ("size", [512, 4096, 1 << 20])),
        ("rate=800,50k", ("rate_per_s", [800.0, 50_000.0])),
        ("depth=8,auto,slots", ("depth", [8, "auto", None])),
        ("wait=block,spin:50", ("wait", ["block", "spin:50"])),
        ("queues=1..3,8", ("queues", [1, 2, 3, 8])),
    ],
)
def test_axes_are_names_and_values(text, expected):
    assert plan.axis(text) == expected


@pytest.mark.parametrize(
    "text", ["slots", "speed=1", "slots=", "order=a", "size=4q", "rate=fast", "=1"]
)
def test_what_is_no_axis_is_refused(text):
    with pytest.raises(ValueError, match="is no"):
        plan.axis(text)


def test_a_sweep_is_every_combination_that_makes_sense():
    made = plan.sweep(["null"], ["queues=1,2", "producers=1..3"], Cell())
    assert [(c.queues, c.producers) for c in made] == [
        (1, 1), (1, 2), (1, 3), (2, 2), (2, 3),
    ]  # fmt: skip
    assert len(made.left_out) == 1
    assert "as many producers" in made.left_out[0]


def test_a_sweep_without_any_sense_is_refused():
    with pytest.raises(ValueError, match="power of two"):
        plan.sweep(["null"], ["slots=3"], Cell())


def test_our_own_sweeps_keep_their_time():
    """Two thirds of five minutes and of twenty seconds: the rest is for starting."""

    def length_s(cells):
        return sum(cell.seconds + cell.settle_s for cell in cells)

    assert length_s(plan.default(1.0)) < 200
    assert length_s(plan.quick()) < 13


def test_keys_tell_cells_apart():
    cells = [*plan.default(1.0), *plan.quick()]
    assert len({cell.key for cell in cells}) == len(set(cells))


@pytest.mark.parametrize(
    ("cell", "depth_each", "most"),
    [
        (Cell(slots=128), 128, 128),
        (Cell(slots=128, producers=4), 32, 128),
        (Cell(slots=128, producers=4, queues=2), 64, 256),
        (Cell(slots=2, producers=4), 1, 2),
        (Cell(slots=128, depth=16), 16, 16),
        (Cell(slots=128, rate_per_s=10.0, producers=4), 128, 128),
    ],
)
def test_producers_share_what_may_be_in_flight(cell, depth_each, most):
    assert (cell.depth_each, cell.most_in_flight) == (depth_each, most)


# -- cells ---------------------------------------------------------------------


@pytest.fixture
def stage():
    with Stage() as made:
        yield made


def believed(told):
    assert told["valid"], told["why_invalid"]
    assert 0.97 <= told["little"] <= 1.03
    return told


def test_a_delay_obeys_littles_law(stage):
    cell = Cell(DELAY, slots=4, seconds=0.3)
    told = believed(measured(cell, stage))
    assert told["predicted_per_s"] == 4 / 0.002
    assert told["achieved_per_s"] <= 1.05 * told["predicted_per_s"]
    assert told["latency_us"]["p50"] >= 1950
    assert told["occupancy"]["max"] == 4
    assert told["occupancy"]["mean"] > 3


def test_a_ring_beyond_the_servers_only_adds_latency(stage):
    few, many = (
        believed(measured(Cell(DELAY, slots=slots, seconds=0.3), stage))
        for slots in (16, 64)
    )
    assert many["achieved_per_s"] < 1.2 * few["achieved_per_s"]
    assert many["latency_us"]["p50"] > 2 * few["latency_us"]["p50"]


@pytest.mark.parametrize(
    "cell",
    [
        Cell(seconds=0.2, start=2**31 - 2),
        Cell(seconds=0.2, start=2**32 - 2, batch=16),
        Cell(seconds=0.2, producers=3, queues=2, size=512),
        Cell(seconds=0.2, wait="spin:50", depth=7),
        Cell(Device("file"), seconds=0.2, size=4096),
        Cell(DELAY, seconds=0.3, rate_per_s=2000, arrivals="even"),
    ],
    ids=str,
)
def test_cells_of_every_kind_are_measured(stage, cell):
    told = believed(measured(cell, stage))
    assert told["key"] == cell.key
    assert told["requests"] > 100
    assert told["dropped"] == told["errors"] == 0
    occupancy = told["occupancy"]
    assert sum(occupancy["histogram"]) == pytest.approx(1, abs=1e-3)
    strip = occupancy["strip"]
    assert sum(strip) / len(strip) == pytest.approx(occupancy["mean"], rel=0.02)
    assert occupancy["max"] <= cell.most_in_flight
    assert told["batch_achieved"] == pytest.approx(cell.batch, abs=0.01)
    assert told["latency_us"]["p50"] <= told["latency_us"]["p99"]
    assert told["cpu_s_per_million"]["daemon"] > 0


@pytest.mark.parametrize("policy", ["block", "spill", "drop_new", "error"])
def test_a_ring_that_is_offered_too_much_goes_by_its_policy(stage, policy):
    cell = Cell(DELAY, slots=16, seconds=0.3, rate_per_s=10_000, policy=policy)
    told = stage.measure(cell)
    assert told["offered_per_s"] == pytest.approx(10_000, rel=0.15)
    assert told["achieved_per_s"] < 0.7 * told["offered_per_s"]
    assert told["full_events"] > 0
    assert (told["dropped"] > 0) == (policy in ("spill", "drop_new"))
    assert (told["errors"] > 0) == (policy == "error")
    assert (told["blocked"] > 0) == (policy in ("block", "spill"))


def test_a_spoilt_count_is_flagged(stage, monkeypatch):
    """The control of the check: a gauge that misses a tenth of the time."""
    from rings.stress import stage as module

    def spoilt(cell, workers, before, after):
        for worker in workers:
            worker["time_ns"] = [int(0.9 * ns) for ns in worker["time_ns"]]
        return true_result(cell, workers, before, after)

    true_result = module.result
    monkeypatch.setattr(module, "result", spoilt)
    told = stage.measure(Cell(DELAY, slots=16, seconds=0.2))
    assert not told["valid"]
    assert "Little check 0." in told["why_invalid"]


def test_a_depth_that_is_found_by_trial_is_told(stage):
    told = stage.measure(Cell(DELAY, slots=128, depth="auto", seconds=0.2))
    limit = told["limit"]
    assert 1 <= limit["min"] <= limit["final"] <= limit["max"] <= 128
    assert told["occupancy"]["mean"] < 128


def test_an_open_loop_has_its_prediction_beside_it():
    random = Device("delay", 8, 0.001, "exponential")
    told = predicted(Cell(random, slots=16, rate_per_s=7200, policy="drop_new"))
    assert told["blocking"] == pytest.approx(0.0415, abs=0.001)  # M/M/8/16, rho 0.9
    assert told["throughput_per_s"] == pytest.approx(7200 * (1 - 0.0415), rel=0.01)
    assert told["p50_us"] < told["p99_us"]
    assert predicted(Cell(random, rate_per_s=8800)) is None  # no end of waiting
    assert predicted(Cell(random)) is None
    assert predicted(Cell(DELAY, rate_per_s=100)) is None


def test_lateness_of_who_had_to_wait_is_not_the_senders(stage):
    cell = Cell(DELAY, slots=16, seconds=0.3, rate_per_s=10_000, arrivals="even")
    told = stage.measure(cell)
    assert told["latency_us"]["p50"] > 10_000  # half the arrivals find no room
    assert told["late_us"] < told["latency_us"]["p50"] / 10


@pytest.mark.parametrize("place", ["free", "one", "two"])
def test_both_ends_run_where_they_are_put(stage, place, monkeypatch):
    from rings.stress import stage as module

    seen = []
    true_pin = module.pin

    def pin(pid, cores):
        true_pin(pid, cores)
        tasks = os.listdir(f"/proc/{pid}/task")
        seen.append([os.sched_getaffinity(int(task)) for task in tasks])

    if place == "two" and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core only")
    monkeypatch.setattr(module, "pin", pin)
    believed(measured(Cell(place=place, seconds=0.2), stage))
    daemon, worker = seen[-2:]
    assert len(daemon) > 1  # its engine has a thread of its own
    cores = [set.union(*daemon), set.union(*worker)]
    everywhere = os.sched_getaffinity(0)
    assert (cores[0] == cores[1]) == (place != "two" or len(everywhere) < 2)
    assert all(len(c) == 1 for c in cores) == (place != "free")


def test_a_cell_that_is_spoilt_is_measured_again():
    class Unlucky(Told):
        def measure(self, cell):
            return {**super().measure(cell), "valid": len(self.asked) > 2}

    stage, sweep = Unlucky(), Sweep()
    sweep.run([Cell()], stage)
    assert (sweep.cells[0]["tries"], sweep.cells[0]["valid"]) == (3, True)


def test_latencies_are_put_together():
    histogram = latencies([[[5, 2]], [[5, 1], [2048, 1]]])
    assert histogram.get_total_count() == 4
    assert histogram.get_value_at_percentile(50) == 5
    assert histogram.get_max_value() == 2049  # the bucket of 2048 and 2049


def test_a_worker_that_cannot_is_a_failed_cell(tmp_path):
    with Stage() as stage:
        sweep = Sweep(path=tmp_path / "sweep.json")
        sweep.run([Cell(slots=1 << 16, queues=8, producers=8)], stage)
    (told,) = sweep.cells
    assert told["failed"]
    assert "credit" in told["why_invalid"]


# -- sweeps --------------------------------------------------------------------


class Told:
    """A stage that answers with made-up figures, and counts."""

    engine = "none"

    def __init__(self):
        self.asked = []

    def measure(self, cell):
        self.asked.append(cell)
        slots, p99 = cell.slots, 10.0 * cell.slots
        return {
            "key": cell.key,
            "parameters": cell.parameters(),
            "achieved_per_s": min(slots, 100) * 200.0,
            "latency_us": {"p99": p99},
            "valid": True,
            "why_invalid": "",
        }


def test_a_sweep_goes_on_where_it_stopped(tmp_path):
    path = tmp_path / "sweep.json"
    cells = [Cell(slots=slots) for slots in (32, 64, 128)]
    first, second = Told(), Told()
    Sweep(path=path).run(cells[:2], first)
    going_on = Sweep(path=path)
    going_on.load()
    going_on.run(cells, second)
    assert first.asked == cells[:2]
    assert second.asked == cells[2:]
    again = Sweep(path=path)
    again.load()
    assert again.told()["machine"]["engine"] == Told.engine
    kept = json.loads(path.read_text())["cells"]
    assert [cell["parameters"]["slots"] for cell in kept] == [32, 64, 128]


def test_what_another_sweep_measured_is_kept(tmp_path):
    path = tmp_path / "sweep.json"
    Sweep(path=path).run([Cell(slots=32)], Told())
    other = Sweep(path=path)
    other.load()
    other.run([Cell(slots=64)], Told())
    kept = json.loads(path.read_text())["cells"]
    assert [cell["parameters"]["slots"] for cell in kept] == [64, 32]


def test_the_file_concludes_from_all_of_its_cells(tmp_path):
    path = tmp_path / "sweep.json"
    cells = [Cell(slots=slots) for slots in (32, 64, 128, 256)]
    Sweep(path=path).run(cells[1:], Told())
    going_on = Sweep(path=path)
    going_on.load()
    going_on.run(cells[:1], Told())
    assert json.loads(path.read_text())["knees"][0]["slots"] == 128


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 0, "cells": []}'])
def test_a_file_that_is_no_sweep_is_left_alone(tmp_path, text):
    path = tmp_path / "notes.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="move it away"):
        Sweep(path=path).load()
    assert path.read_text() == text


def told_of(**axes):
    stage, sweep = Told(), Sweep()
    sweep.run(plan.Plan().add(Cell(), axes), stage)
    return sweep.cells


def test_the_knee_is_the_smallest_ring_that_carries_nearly_all():
    (found,) = knees(told_of(slots=[32, 64, 128, 256, 512]), None)
    assert (found["slots"], found["p99_us"]) == (128, 1280.0)


def test_a_knee_keeps_to_the_objective():
    assert knees(told_of(slots=[32, 64, 128, 256]), 1e-4) == []


def test_a_curve_over_producers_is_fitted():
    cells = told_of(producers=[1, 2, 4])
    for cell, per_s in zip(cells, (100.0, 180.0, 280.0), strict=True):
        cell["achieved_per_s"] = per_s
    (curve,) = usl_curves(cells)
    assert curve["points"] == [[1, 100.0], [2, 180.0], [4, 280.0]]
    assert curve["sigma"] >= 0


def test_csv_has_a_line_for_each_cell():
    rows = list(csv.DictReader(io.StringIO(as_csv(told_of(slots=[32, 64])))))
    assert [row["parameters.slots"] for row in rows] == ["32", "64"]
    assert rows[0]["latency_us.p99"] == "320.0"


# -- the command ---------------------------------------------------------------


def test_the_command_measures_and_writes(tmp_path, capsys):
    file, lines = tmp_path / "a.json", tmp_path / "a.csv"
    words = ["--device", "delay:K=4,S=1ms", "slots=2,4,8", "--seconds", "0.2"]
    out = ["--json", str(file), "--csv", str(lines)]
    assert cli.main(["stress", *words, *out]) == 0
    assert "slots=4" in capsys.readouterr().out
    told = json.loads(file.read_text())
    assert [cell["parameters"]["slots"] for cell in told["cells"]] == [2, 4, 8]
    assert told["knees"][0]["slots"] in (4, 8)
    assert len(lines.read_text().splitlines()) == 4


def test_the_command_lists_without_measuring(capsys):
    assert cli.main(["stress", "--list", "order=0..2", "batch=1,4"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6


@pytest.mark.parametrize("words", [["speed=9"], ["--device", "disk"], ["slots=3"]])
def test_the_command_says_what_is_wrong(words, capsys):
    assert cli.main(["stress", *words]) == 1
    assert "rings: " in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--json", "--csv", "--html", "--plots"])
def test_what_cannot_be_written_is_refused_before_anything_is_measured(
    option, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("rings.stress.command._measure", pytest.fail)
    where = tmp_path / "none" / "file"
    assert cli.main(["stress", "slots=1", option, str(where)]) == 1
    assert f"mkdir -p {where.parent}" in capsys.readouterr().err


def test_plots_without_matplotlib_are_refused_before_anything_is_measured(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("rings.stress.command._measure", pytest.fail)
    monkeypatch.setattr("rings.stress.command.find_spec", lambda name: None)
    assert cli.main(["stress", "slots=1", "--plots", str(tmp_path / "p")]) == 1
    assert "pip install 'rings[stress]'" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_can_be_interrupted(tmp_path, number):
    """Nothing is left behind, what was measured is in the file, and it says so."""
    file, scratch = tmp_path / "sweep.json", tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "rings", "stress", "slots=1,2,4,8"]
    process = subprocess.Popen(
        [*command, "--seconds", "0.3", "--json", str(file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    while not file.exists():
        assert process.poll() is None
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == cli.INTERRUPTED
    measured = len(json.loads(file.read_text())["cells"])
    assert 1 <= measured < 4
    assert f"{measured} of 4 cells were measured, kept in {file}" in said
    assert "Traceback" not in said
    assert not list(scratch.iterdir())
