"""Times and numbers as people write them."""

import math

import pytest

from rings import units


@pytest.mark.parametrize(
    ("text", "value"),
    [("200us", 200e-6), ("5ms", 5e-3), ("2s", 2.0), ("2", 2.0), (" 1.5 ms ", 1.5e-3),
     ("90ns", 90e-9), ("3µs", 3e-6), ("1min", 60.0), (".5s", 0.5)],
)  # fmt: skip
def test_times_are_seconds(text, value):
    assert units.seconds(text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("50k", 50e3), ("50K", 50e3), ("1.2M", 1.2e6), ("800", 800.0)]
)
def test_numbers_have_thousands(text, value):
    assert units.number(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "5 parsecs", "-1s", "1e3", "5m", "inf", "nan"])
def test_what_is_no_time_is_told_how_to_write_one(text):
    with pytest.raises(ValueError, match="is not a time: write 200us, 5ms or 2s"):
        units.seconds(text)


def test_what_is_no_number_is_told_how_to_write_one():
    with pytest.raises(ValueError, match="is not a number: write 800, 50k"):
        units.number("50ms")


@pytest.mark.parametrize(
    ("value", "text"),
    [(200e-6, "200 us"), (5e-3, "5 ms"), (0.99996e-3, "1 ms"), (12.3456, "12.3 s"),
     (0.0, "0 ns"), (3.4567e-6, "3.46 us"), (math.inf, "for ever"), (2e3, "2,000 s")],
)  # fmt: skip
def test_times_are_shown_with_three_digits(value, text):
    assert units.show_s(value) == text


@pytest.mark.parametrize("value", [0.0123456, 9.999, 1.0, 54321.0, 1e-9])
def test_rounding_goes_where_it_should(value):
    assert units.down(value) <= value * (1 + 1e-12)
    assert units.up(value) >= value * (1 - 1e-12)
    assert units.up(value) == pytest.approx(value, rel=0.01)
