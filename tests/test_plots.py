"""The plots: every kind is drawn, whole, and big enough to be read."""

import pytest

pytest.importorskip("matplotlib")

from matplotlib import rc_context
from matplotlib.text import Annotation, Text

from rings.stress import canvas, plots
from tests import sweeps
from tests.test_page import RESULTS

SMALLEST = 9  # points
KINDS = {
    "everything": [
        "slots-1", "slots-2", "batch", "producers", "load", "occupancy",
    ],
    "two cells": ["slots", "occupancy"],
    "one cell": ["occupancy"],
    "no cell": [],
    "none valid": ["slots", "occupancy"],
    "open loop only": ["load", "occupancy"],
    "huge": ["slots", "occupancy"],
    "odd": ["slots", "load", "occupancy"],
    "failed": ["slots", "occupancy"],
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def fonts(tmp_path_factory):
    """Draw once: matplotlib keeps the files of its fonts open from then on."""
    plots.draw(sweeps.everything(), tmp_path_factory.mktemp("fonts"))


@pytest.mark.parametrize("name", RESULTS)
def test_each_kind_becomes_a_file(name, tmp_path):
    found = plots.draw(RESULTS[name], tmp_path / "new" / "folder")
    assert [path.stem for path in found] == KINDS[name]
    for path in found:
        assert path.read_bytes().startswith(b"\x89PNG")
    assert sorted(found) == sorted((tmp_path / "new" / "folder").iterdir())


def figures(result):
    """Return the figures of a result, drawn but not written, by their name."""
    made = {}
    for name, make in plots._figures(result):
        with rc_context(canvas.STYLE):
            made[name] = make()
            made[name].draw_without_rendering()
    return made


def words(figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_text().strip()]


def test_the_title_is_the_finding():
    figure = figures(sweeps.result(sweeps.over_slots()))["slots.png"]
    title = " ".join(figure.get_suptitle().split())
    assert title.startswith("A ring of 128 slots is enough")


def test_no_text_is_too_small_or_cut_off():
    for name, figure in figures(sweeps.everything()).items():
        assert min(text.get_fontsize() for text in words(figure)) >= SMALLEST
        drawn, room = figure.get_tightbbox(), figure.bbox_inches
        assert room.x0 <= drawn.x0 < drawn.x1 <= room.x1, name
        assert room.y0 <= drawn.y0 < drawn.y1 <= room.y1, name
        for text in figure.findobj(lambda part: isinstance(part, Annotation | Text)):
            if text.axes and text in text.axes.texts:
                assert text.get_window_extent().x1 <= figure.bbox.x1, text


def test_the_names_of_p50_and_p99_lie_apart_even_where_the_lines_meet():
    cells = [cell | {"latency_us": dict.fromkeys(cell["latency_us"], 5000.0)}
             for cell in sweeps.over_slots()]  # fmt: skip
    figure = figures(sweeps.result(cells))["slots.png"]
    p99, p50 = (
        text.get_window_extent()
        for name in ("p99", "p50")
        for text in words(figure)
        if text.get_text() == name
    )
    assert p99.y0 >= p50.y1 - 1


def hollow_markers(figure) -> int:
    return sum(
        len(line.get_xdata())
        for axes in figure.axes
        for line in axes.get_lines()
        if line.get_markerfacecolor() == "white"
    )


def test_cells_that_are_not_valid_are_hollow_and_named():
    cells = sweeps.over_slots()
    sure = figures(sweeps.result(cells))["slots.png"]
    cells[2] = sweeps.invalid(cells[2], "late")
    unsure = figures(sweeps.result(cells))["slots.png"]
    assert (hollow_markers(sure), hollow_markers(unsure)) == (0, 2)
    assert [t.get_text() for t in words(unsure)].count("not valid") == 2


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'rings\[stress\]'"):
        plots.draw(sweeps.everything(), tmp_path)
