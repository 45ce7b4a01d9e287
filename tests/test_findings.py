"""What a sweep is said to show: groups, knees, and one true sentence for each."""

import math

import pytest

from rings.stress import findings, growth, quantities, strips
from tests import sweeps

NBSP = "\N{NO-BREAK SPACE}"


def sentence(text: str) -> str:
    return text.replace(NBSP, " ")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (quantities.rate(18_600), "18.6 k/s"),
        (quantities.rate(2.25e6), "2.25 M/s"),
        (quantities.rate(950), "950/s"),
        (quantities.count(4321), "4,321"),
        (quantities.count(0), "0"),
        (quantities.duration(7_738), "7.74 ms"),
        (quantities.duration(0.4), "400 ns"),
        (quantities.duration(0), "0"),
        (quantities.duration(3.2e6), "3.2 s"),
        (quantities.duration(math.inf), "∞ s"),
        (quantities.share(0.931), "93 %"),
        (quantities.share(0.0234), "2.3 %"),
        (quantities.times(15.9), "16 times"),
        (quantities.times(2.5), "2.5 times"),
        (quantities.times(1e6), "1 M times"),
    ],
)
def test_numbers_are_short(written, expected):
    assert sentence(written) == expected


# -- groups --------------------------------------------------------------------


def test_a_group_differs_in_what_was_asked_only():
    result = sweeps.everything()
    for group in findings.groups(result, "slots", "order"):
        assert len(group.values("slots")) == len(group.cells)
        assert len(group.values("batch")) == 1
        assert group.values("slots") == [c["parameters"]["slots"] for c in group.cells]
    members = [g.cells for g in findings.groups(result, "slots", "order")]
    assert sum(map(len, members)) == len(result["cells"])


def test_a_label_says_what_differs_and_leaves_out_the_usual():
    group = findings.groups(sweeps.result(sweeps.over_slots()), "slots", "order")[0]
    assert group.label == "delay:K=100,S=5ms"
    found = findings.groups(sweeps.everything(), "rate_per_s")
    open_loop = next(group for group in found if len(group.cells) == 8)
    assert "drop new when full" in open_loop.label
    assert "open loop" in open_loop.label
    assert not any("closed" in group.label for group in found)


# -- curves --------------------------------------------------------------------


def curve(**given) -> findings.Curve:
    (found,) = findings.curves(sweeps.result(sweeps.over_slots(), **given))
    return found


def test_a_curve_says_which_ring_is_enough_and_what_more_costs():
    found = curve()
    assert found.knee == 128
    expected = "A ring of 128 slots is enough: 2,048 only make p99 latency 16 times"
    assert sentence(found.finding).startswith(expected)


def test_a_knee_is_that_of_the_result_or_by_the_same_rule():
    assert curve(knees=[]).knee == 128
    known = sweeps.result(sweeps.over_slots())["knees"]
    assert curve(knees=[known[0] | {"slots": 256}]).knee == 256
    other = known[0]["fixed"] | {"batch": 64}
    assert curve(knees=[known[0] | {"slots": 256, "fixed": other}]).knee == 128


def test_an_objective_that_no_ring_meets_is_said():
    found = curve(knees=[], objective={"p99_s": 0.001, "share": 0.95})
    assert found.knee is None
    assert sentence(found.finding).endswith("the least p99 is 7.74 ms, with 32 slots")


def test_where_throughput_still_grows_there_is_no_knee():
    (found,) = findings.curves(sweeps.result(sweeps.over_slots(range(2))))
    assert found.knee is None
    assert found.finding.startswith("Throughput still grows at 64 slots")


def test_cells_that_are_not_valid_have_no_say():
    cells = sweeps.over_slots()
    cells[-1] = sweeps.invalid(cells[-1] | {"achieved_per_s": 1e9}, "late")
    (found,) = findings.curves(sweeps.result(cells, knees=[]))
    assert found.knee == 128
    assert "1,024" in found.finding
    (none,) = findings.curves(sweeps.result([sweeps.invalid(c, "late") for c in cells]))
    assert (none.knee, none.finding[:13]) == (None, "No cell of th")


def test_of_several_batches_the_best_is_drawn():
    (found,) = findings.curves(sweeps.result(sweeps.over_order_and_batch()))
    assert found.group.fixed["batch"] == 64


# -- grids, producers, loads, strips -------------------------------------------


def test_a_grid_says_what_matters_more():
    (grid,) = findings.grids(sweeps.result(sweeps.over_order_and_batch()))
    assert (grid.slots, grid.batches) == ([32, 64, 128, 256, 512], [1, 4, 16, 64])
    assert sentence(grid.finding) == (
        "A bigger batch brings up to 3.8 times the throughput, a bigger ring 3.0 "
        "times; most is 573 k/s with 512 slots, batch 64"
    )


def test_a_grid_has_holes_where_nothing_was_measured():
    cells = sweeps.over_order_and_batch()[1:]
    (grid,) = findings.grids(sweeps.result(cells))
    fields = grid.fields(lambda cell: cell["achieved_per_s"])
    assert fields[0][0] is None
    assert sum(field is not None for row in fields for field in row) == len(cells)


def test_producers_say_where_more_push_less():
    (found,) = growth.scalings(sweeps.result(sweeps.over_producers()))
    assert found.fit(3) == pytest.approx(found.points[2][1])
    assert sentence(found.finding) == (
        "6 producers push 2.5 times what one does, 2.25 M/s; more than that push less"
    )


@pytest.mark.parametrize(
    ("points", "best", "expected"),
    [
        (
            [(1, 9.0), (2, 8.0)],
            1.0,
            "1 producer pushes most, 9/s; more",
        ),
        ([(1, 1.0), (2, 2.0)], math.inf, "no peak is in sight"),
        ([(1, 1.0), (2, 2.0)], 7.0, "the fit has its peak at 7"),
    ],
)
def test_other_shapes_of_scaling(points, best, expected):
    assert expected in sentence(growth.scaling_finding(points, best))


def test_points_that_are_not_valid_are_kept_apart():
    cells = sweeps.over_producers()
    result = sweeps.result(cells)
    result["usl"][0]["points"].pop()
    cells[-1] = sweeps.invalid(cells[-1], "late")
    (found,) = growth.scalings(result | {"cells": cells})
    assert found.hollow == [(8, cells[-1]["achieved_per_s"])]
    assert (8, cells[-1]["achieved_per_s"]) not in found.points


def test_a_load_says_up_to_where_latency_holds():
    (found,) = growth.loads(sweeps.result(sweeps.over_rate()))
    expected = "Latency holds up to 18 k/s; at 22 k/s p99 is 27.3 ms, 3.0 times"
    assert sentence(found.finding).startswith(expected)
    assert sentence(found.finding).endswith("13 % are lost")
    (light,) = growth.loads(sweeps.result(sweeps.over_rate()[:4]))
    assert sentence(light.finding) == (
        "Latency holds up to 16 k/s, the most that was offered"
    )


def test_strips_are_shares_of_all_rings_and_thinned_out():
    (found,) = strips.strips(sweeps.everything())
    assert len(found.rows) <= strips.MOST
    assert "of 41 cells are shown" in found.label
    assert all(0 <= part <= 1 for row in found.rows for part in row.shares)
    two = sweeps.cell(1e4, 32, slots=32, queues=2)
    (halved,) = strips.strips(sweeps.result([two]))
    assert halved.rows[0].mean == pytest.approx(0.5, abs=0.05)
    assert strips.strips(sweeps.result([])) == []
