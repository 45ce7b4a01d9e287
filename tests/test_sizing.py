"""docs/SIZING.md and its generator agree; every sweep it names can be run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import capacity, sizing  # noqa: E402
from bench.sizing_tables import REGIONS  # noqa: E402
from rings.stress import plan  # noqa: E402
from rings.stress.cell import Cell  # noqa: E402
from tests import sweeps  # noqa: E402

PAGE = ROOT / "docs" / "SIZING.md"
HANG_S = 100  # guards against a hang, nothing else


def cells(name: str) -> list[Cell]:
    sweep = sizing.SWEEPS[name]
    return list(plan.sweep([sweep.device], sweep.axes.split(), Cell(seconds=0.5)))


def made_up(name: str) -> sweeps.Result:
    """A result with the cells of a sweep; more of anything is a little better."""
    found = []
    for number, cell in enumerate(cells(name), 1):
        of = cell.parameters()
        per_s = cell.predicted_per_s or 1e5 * (10 + number)
        found.append(sweeps.cell(per_s, cell.slots, **of))
    return sweeps.result(found)


def results() -> dict[str, sweeps.Result]:
    curves = {
        name: {str(n): 10.0 / n for n in capacity.PLACES}
        for name in ("rings SPSC, block", "multiprocessing.Queue")
    }
    return {name: made_up(name) for name in sizing.SWEEPS} | {"capacity": curves}


def empty() -> str:
    return "\n".join(
        f"# {name}\n<!-- generated: {name} -->\n<!-- end: {name} -->\n"
        for name in REGIONS
    )


def regions(page: str) -> dict[str, str]:
    return dict(sizing.REGION.findall(page))


# -- the page ------------------------------------------------------------------


def test_the_page_has_the_regions_that_are_generated():
    page = PAGE.read_text()
    assert regions(page).keys() == REGIONS.keys()
    assert page.count("<!-- generated: ") == len(REGIONS)


@pytest.mark.parametrize("name", REGIONS)
def test_a_region_of_the_page_names_the_command_that_made_it(name):
    text = regions(PAGE.read_text())[name]
    needs, _ = REGIONS[name]
    assert text.strip()
    for need in needs:
        told = sizing.SWEEPS.get(need)
        words = told.words(1)[:-2] if told else ["bench", "sizing", "--only", need]
        assert " ".join(words) in text


# -- the generator -------------------------------------------------------------


def test_every_region_is_filled_and_twice_is_once():
    once = sizing.fill(empty(), results())
    assert all(text.strip() for text in regions(once).values())
    assert sizing.fill(once, results()) == once
    assert "# size\n" in once


def test_tables_are_whole():
    for name, text in regions(sizing.fill(empty(), results())).items():
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in rows}) <= 1, name
        assert "None" not in text
        assert "nan" not in text


def test_what_was_not_measured_is_kept():
    page = empty().replace("-->\n<!-- end: push", "-->\nkept\n<!-- end: push")
    found = results()
    del found["push"]
    assert regions(sizing.fill(page, found))["push"] == "kept\n"
    assert regions(sizing.fill(page, results()))["push"] != "kept\n"


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        (empty().replace("push", "pull"), "{'pull'} unknown, {'push'} missing"),
        ("", "none unknown"),
    ],
)
def test_other_regions_are_refused(page, complaint):
    with pytest.raises(ValueError, match=complaint):
        sizing.fill(page, results())


def test_a_cell_that_is_not_valid_is_marked():
    found = results()
    found["depth"]["cells"][0] = sweeps.invalid(found["depth"]["cells"][0], "late")
    text = regions(sizing.fill(empty(), found))["depth"]
    assert text.count("(not valid)") == 1


@pytest.mark.parametrize("name", sizing.SWEEPS)
def test_every_sweep_is_one_that_can_be_run(name):
    assert len(cells(name)) >= 2


# -- really --------------------------------------------------------------------


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", "sizing", *words]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=HANG_S
    )


def test_a_sweep_is_measured_once_and_written_in(tmp_path):
    page, folder = tmp_path / "page.md", tmp_path / "sweeps"
    page.write_text(empty())
    words = ("--smoke", "--folder", str(folder), "--write", str(page))
    first = bench(*words)
    assert first.returncode == 0, first.stdout + first.stderr
    kept = (folder / "depth.json").read_text()
    assert len(json.loads(kept)["cells"]) == len(cells("depth"))
    assert "system calls a request" in regions(page.read_text())["depth"]
    assert bench(*words, "--measured").returncode == 0
    assert (folder / "depth.json").read_text() == kept


def test_a_page_with_other_regions_is_an_error_that_says_which(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing")
    done = bench("--measured", "--folder", str(tmp_path), "--write", str(page))
    assert done.returncode == 1
    assert "missing" in done.stderr


def test_capacity_is_measured_for_every_contender():
    found = capacity.measure(0.02, 1)
    assert {"rings SPSC, block", "multiprocessing.Queue"} < found.keys()
    for name, curve in found.items():
        small = 2 if "MPMC" in name else 1
        assert list(curve) == [n for n in capacity.PLACES if n >= small]
        assert all(us > 0 for us in curve.values())
