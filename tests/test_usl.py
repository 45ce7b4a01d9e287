"""The Universal Scalability Law: what was put in comes out of the fit."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rings.usl import Usl, fit_usl, usl


def points(sigma, kappa, gamma, producers=(1, 2, 4, 8)):
    return [(n, usl(n, sigma, kappa, gamma)) for n in producers]


@given(st.floats(0, 0.9), st.floats(0, 0.1), st.floats(1, 1e7))
def test_the_law_is_found_again(sigma, kappa, gamma):
    law = fit_usl(points(sigma, kappa, gamma))
    assert law.sigma == pytest.approx(sigma, abs=1e-6)
    assert law.kappa == pytest.approx(kappa, abs=1e-6)
    assert law.gamma_per_s == pytest.approx(gamma, rel=1e-6)
    assert law.error < 1e-6


def test_more_than_the_best_is_less():
    law = fit_usl(points(0.05, 0.01, 1000.0))
    best = law.best_producers
    assert best == pytest.approx(math.sqrt(0.95 / 0.01))
    peak = law.throughput_per_s(best)
    assert peak > law.throughput_per_s(best - 1)
    assert peak > law.throughput_per_s(best + 1)


def test_what_scales_without_end_has_no_best():
    assert fit_usl(points(0.0, 0.0, 5.0)).best_producers == math.inf
    assert fit_usl(points(0.2, 0.0, 5.0)).best_producers == math.inf


def test_faster_than_linear_is_held_at_linear():
    law = fit_usl([(1, 100.0), (2, 230.0), (4, 500.0)])
    assert (law.sigma, law.kappa) == (0.0, 0.0)
    assert 0 < law.error < 0.15


def test_noise_moves_the_fit_by_as_much_as_its_error_says():
    noisy = [(n, x * f) for (n, x), f in zip(
        points(0.1, 0.02, 300.0, (1, 2, 3, 4, 6, 8)),
        (1.03, 0.98, 1.01, 0.97, 1.02, 0.99), strict=True,
    )]  # fmt: skip
    law = fit_usl(noisy)
    assert law.error < 0.03
    assert law.best_producers == pytest.approx(math.sqrt(0.9 / 0.02), rel=0.2)


def test_the_published_example_of_falling_throughput():
    """Multi-queue block I/O, February 2015: jobs against thousands of requests/s."""
    law = fit_usl([(1, 58), (4, 201), (8, 372), (16, 284), (32, 196), (64, 183)])
    assert 4 < law.best_producers < 16
    assert law.kappa > 0


@pytest.mark.parametrize(
    ("measured", "complaint"),
    [
        ([(1, 10.0), (2, 19.0)], "three different numbers of producers"),
        ([(1, 10.0), (1, 11.0), (2, 19.0)], "three different numbers"),
        ([(1, 10.0), (2, 19.0), (3, 0.0)], "must be positive"),
        ([(1, 10.0), (2, 19.0), (3, math.nan)], "must be positive"),
    ],
)
def test_too_little_is_refused(measured, complaint):
    with pytest.raises(ValueError, match=complaint):
        fit_usl(measured)


def test_without_contention_the_law_is_linear():
    assert usl(7, 0, 0) == 7
    assert Usl(0.0, 0.0, 3.0, 0.0).throughput_per_s(4) == 12.0
