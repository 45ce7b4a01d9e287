"""Published effects: the arithmetic is exact, the rest comes from cells that fit."""

import pytest

from rings.stress import effects
from rings.stress.findings import Cell
from tests import sweeps

NBSP = "\N{NO-BREAK SPACE}"


def ours(cells: list[Cell], **elsewhere: str) -> dict[str, str]:
    found = effects.rows(cells, elsewhere)
    return {row.name: row.ours.replace(NBSP, " ") for row in found if row.ours}


ARITHMETIC = {
    "a one-page ring": "32 requests, 1.44 MB in flight",
    "segments in a ring": "128 requests of any length",
    "packets in a network ring": "256 slots, 14 packets",
}


def test_arithmetic_needs_no_cell():
    assert ours([]) == ARITHMETIC
    assert not any(row.measured for row in effects.rows([]))


def test_a_row_that_has_nothing_of_ours_says_why():
    assert [row.name for row in effects.rows([]) if not (row.ours or row.note)] == [
        "a multi-page ring", "too many queues", "a depth of one",
        "a limit inside the ring (BQL)",
    ]  # fmt: skip
    for effect in effects.EFFECTS:
        assert effect.ours or effect.note, effect.name
        assert effect.source


def null(achieved_per_s: float, **given) -> Cell:
    plain = {"device": "null", "servers": None, "service_s": None, "order": 2}
    return sweeps.cell(achieved_per_s, 10, **(plain | given))


def delayed(achieved_per_s: float, p99_us: float, **given) -> Cell:
    cell = sweeps.cell(achieved_per_s, 100, order=6, **given)
    return cell | {"latency_us": {"p50": 5000, "p99": p99_us}}


CASES = {
    "a multi-page ring": (
        sweeps.over_slots(servers=1500),
        "47 times from 32 to 2,048 slots, 1,500 servers",
    ),
    "several queues": (
        [null(x, producers=4, queues=n) for n, x in ((1, 1e6), (2, 2.5e6), (4, 2e6))],
        "2.5 times with 2 queues, 4 producers",
    ),
    "too many queues": (
        [null(x, producers=4, queues=n) for n, x in ((1, 1e6), (2, 2.5e6), (4, 2e6))],
        "0.8 times at 4 what 2 give",
    ),
    "several queues, by request size": (
        [
            null(x, device="file", size=size, queues=n, producers=2)
            for size, n, x in (
                (512, 1, 1e5), (512, 2, 1.8e5), (65536, 1, 1e4), (65536, 2, 1.1e4),
            )
        ],
        "1.8 at 512 B, 1.1 at 65,536 B",
    ),
    "a depth of one": (
        [null(x, depth=n) for n, x in ((1, 2e5), (32, 7e5), (128, 8e5))],
        "4.0 times at depth 128, the best, over depth 1",
    ),
    "a limit inside the ring (BQL)": (
        [delayed(19000, 6000, depth="auto"), delayed(20000, 102000)],
        "p99 102 ms to 6 ms, 17 times; 5 % slower",
    ),
    "completions that overflow": (
        [null(1e5, seconds=1.0), null(1e5, seconds=1.0, batch=4)],
        "0 of 200,000 requests",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_effect_is_read_from_the_cells_that_show_it(name):
    cells, expected = CASES[name]
    assert ours(cells)[name] == expected
    row = next(row for row in effects.rows(cells) if row.name == name)
    assert row.measured


@pytest.mark.parametrize("name", CASES)
def test_cells_that_are_not_valid_show_nothing(name):
    cells, _ = CASES[name]
    assert ours([sweeps.invalid(cell, "late") for cell in cells]) == ARITHMETIC


def test_cells_of_other_sweeps_do_not_disturb():
    cells = [cell for others, _ in CASES.values() for cell in others]
    found = ours(cells)
    for name, (_, expected) in CASES.items():
        if name != "completions that overflow":
            assert found[name] == expected


def test_what_was_measured_elsewhere_has_its_row():
    name = "capacity of a message ring"
    (row,) = [r for r in effects.rows([], {name: "90 times"}) if r.name == name]
    assert (row.ours, row.measured) == ("90 times", True)
