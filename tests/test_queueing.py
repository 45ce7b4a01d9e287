"""Queueing theory against tables, brute force, simulation, and itself."""

import itertools
import math
import statistics
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rings import queueing
from rings.station import Mixture, poisson

from .queue_simulator import simulate

# Traffic in erlangs that so many servers carry at 1 % blocking: the table every
# telephone engineer has on the wall.
ONE_PERCENT = {1: 0.0101, 2: 0.153, 5: 1.36, 10: 4.46, 20: 12.0, 50: 37.9, 100: 84.1}
# The share that waits, by (servers, use of each).
WAITING = {(1, 0.5): 0.5, (2, 0.5): 1 / 3, (5, 0.8): 0.554, (10, 0.8): 0.409}

rates = st.floats(0.01, 100.0)
services = st.floats(1e-6, 10.0)
counts = st.integers(1, 40)


@pytest.mark.parametrize(("servers", "load"), ONE_PERCENT.items())
def test_erlang_b_is_the_published_table(servers, load):
    """Half a unit of the last digit to either side is 1 % blocking."""
    half = 0.5 * 10.0 ** (math.floor(math.log10(load)) - 2)
    below = queueing.erlang_b(load - half, servers)
    assert below <= 0.01 <= queueing.erlang_b(load + half, servers)


@pytest.mark.parametrize(("of", "share"), WAITING.items())
def test_erlang_c_is_the_published_table(of, share):
    servers, used = of
    assert queueing.erlang_c(servers * used, servers) == pytest.approx(share, abs=6e-4)


def test_nobody_waits_less_than_always_when_overloaded():
    assert queueing.erlang_c(7.0, 7) == 1.0
    assert queueing.erlang_c(9.0, 7) == 1.0


# -- brute force -----------------------------------------------------------------


def birth_death(births, deaths):
    """The exact distribution, in fractions, from detailed balance."""
    weights = [Fraction(1)]
    for birth, death in zip(births, deaths, strict=True):
        weights.append(weights[-1] * Fraction(birth) / Fraction(death))
    return [float(weight / sum(weights)) for weight in weights]


@pytest.mark.parametrize("servers", [1, 3, 8])
@pytest.mark.parametrize("places", [1, 4, 30])
@pytest.mark.parametrize("rate", [0.5, 3.0, 12.0])
def test_mmck_is_the_birth_death_chain(rate, servers, places):
    station = queueing.mmck(rate, 0.5, servers, places)
    exact = birth_death(
        [rate] * places, [2 * min(n, servers) for n in range(1, places + 1)]
    )
    assert station.distribution == pytest.approx(exact, abs=1e-14)
    assert station.blocking == pytest.approx(exact[-1], rel=1e-12)


@pytest.mark.parametrize("think", [0.25, 4.0])
def test_a_closed_network_is_the_birth_death_chain(think):
    station = queueing.closed(9, 0.5, 4, think)
    exact = birth_death(
        [(9 - n) / think for n in range(9)], [2 * min(n, 4) for n in range(1, 10)]
    )
    assert station.distribution == pytest.approx(exact, abs=1e-14)
    assert station.mean_response_s == pytest.approx(
        9 / station.throughput_per_s - think, rel=1e-12
    )


@pytest.mark.parametrize("customers", [1, 99, 100, 101, 700])
def test_without_thinking_throughput_is_min_n_k_over_s(customers):
    station = queueing.closed(customers, 5e-3, 100)
    assert station.throughput_per_s == pytest.approx(min(customers, 100) / 5e-3)
    assert station.mean_number == customers


def brute_above(found, servers, service, time):
    """The same mixture by its definition, integrated in small steps."""
    rate, total = servers / service, 0.0
    for n, share in enumerate(found):
        if n < servers:
            total += share * math.exp(-time / service)
            continue
        stages, steps = n - servers + 1, 4000
        width = time / steps
        alive = sum(
            math.exp(i * math.log(rate * time) - rate * time - math.lgamma(i + 1))
            for i in range(stages)
        )
        for step in range(steps):
            s = (step + 0.5) * width
            density = rate * math.exp(
                (stages - 1) * math.log(rate * s) - rate * s - math.lgamma(stages)
            )
            alive += density * width * math.exp(-(time - s) / service)
        total += share * alive
    return total


@pytest.mark.parametrize("servers", [1, 2, 5])
@pytest.mark.parametrize("time", [0.3, 2.0, 7.0])
def test_the_mixture_of_erlangs_is_its_definition(servers, time):
    found = queueing.mmck(servers * 0.9, 1.0, servers, servers + 9).found
    exact = brute_above(found, servers, 1.0, time)
    assert Mixture(found, servers, 1.0).above(time) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("share", [0.5, 0.99, 0.9999])
def test_one_server_answers_in_exponential_time(share):
    exact = -math.log(1 - share) / (10.0 - 7.0)
    assert queueing.quantile_s(share, 7.0, 0.1, 1) == pytest.approx(exact)
    long = queueing.mmck(7.0, 0.1, 1, 400)
    assert long.quantile_s(share) == pytest.approx(exact)


@pytest.mark.parametrize("servers", [2, 20, 300])
@pytest.mark.parametrize("used", [0.4, 0.9])
def test_an_endless_queue_is_the_limit_of_a_long_one(servers, used):
    rate = servers * used
    long = queueing.mmck(rate, 1.0, servers, servers + 600)
    for share in (0.5, 0.99):
        endless = queueing.quantile_s(share, rate, 1.0, servers)
        assert long.quantile_s(share) == pytest.approx(endless, rel=1e-8)
    wait_s = queueing.wait_s(rate, 1.0, servers)
    assert long.mean_wait_s == pytest.approx(wait_s, rel=1e-9)


def test_the_wait_for_a_service_as_long_as_a_departure_has_no_hole():
    """Where the wait's rate equals the service's, two terms cancel."""
    around = [queueing.quantile_s(0.99, 4.0 + d, 1.0, 5) for d in (-1e-8, 0, 1e-8)]
    assert around[0] == pytest.approx(around[1], rel=1e-6)
    assert around[1] == pytest.approx(around[2], rel=1e-6)


# -- sizes at which numbers overflow ------------------------------------------------


@pytest.mark.parametrize("used", [0.5, 0.98, 1.0, 1.3])
def test_thousands_of_servers_and_65536_places(used):
    station = queueing.mmck(used * 2048 / 1e-3, 1e-3, 2048, 65536)
    assert math.fsum(station.distribution) == pytest.approx(1.0)
    number = queueing.little(station.throughput_per_s, station.mean_response_s)
    assert station.mean_number == pytest.approx(number, rel=1e-9)
    p50_s, p99_s = station.quantile_s(0.5), station.quantile_s(0.99)
    assert 0 < p50_s < station.mean_response_s * 1.02
    assert p50_s < p99_s < 2 * 65536 / 2048 * 1e-3
    if used > 1:
        assert station.blocking == pytest.approx(1 - 1 / used, rel=1e-6)
        last_s = (65536 - 2048) / 2048 * 1e-3 + math.log(100) * 1e-3
        assert p99_s == pytest.approx(last_s, rel=0.02)


def test_the_very_busy_endless_queue_does_not_overflow():
    p99_s = queueing.quantile_s(0.99, 0.999999, 1.0, 1)
    assert p99_s == pytest.approx(math.log(100) / 1e-6, rel=1e-6)


@pytest.mark.parametrize("mean", [1e-9, 0.7, 40.0, 65536.0])
def test_poisson_weights_are_all_there(mean):
    first, weights = poisson(mean)
    assert math.fsum(weights) == pytest.approx(1.0)
    average = math.fsum(n * w for n, w in enumerate(weights, first))
    assert average == pytest.approx(mean, rel=1e-9)


# -- simulation ------------------------------------------------------------------


def agrees(samples, expected):
    """Whether a mean of 20 batches is within four of its own standard errors."""
    size = len(samples) // 20
    batches = [statistics.fmean(samples[i * size : (i + 1) * size]) for i in range(20)]
    error = statistics.stdev(batches) / math.sqrt(20)
    return abs(statistics.fmean(batches) - expected) < 4 * error, error


CASES = [(3.0, 4, 6), (18.0, 20, 60), (9.0, 8, 24), (5.0, 1, 4), (14.0, 16, 400)]


@pytest.mark.parametrize(("rate", "servers", "places"), CASES)
def test_mmck_is_what_a_simulation_does(rate, servers, places):
    run = simulate(
        60_000, rate_per_s=rate, service_s=1.0, servers=servers, slots=places,
        is_lossy=True, seed=places,
    )  # fmt: skip
    station = queueing.mmck(rate, 1.0, servers, places)
    p90_s, p99_s = station.quantile_s(0.9), station.quantile_s(0.99)
    for samples, expected in (
        (run.response_s, station.mean_response_s),
        (run.wait_s, station.mean_wait_s),
        ([t > p90_s for t in run.response_s], 0.1),
        ([t > p99_s for t in run.response_s], 0.01),
    ):
        close, error = agrees(samples, expected)
        assert close
        wrong, _ = agrees(samples, expected + 6 * error)
        assert not wrong
    assert run.lost == pytest.approx(station.blocking, abs=0.01)


def test_a_closed_loop_is_what_a_simulation_does():
    run = simulate(60_000, rate_per_s=None, service_s=1.0, servers=10, slots=25)
    station = queueing.closed(25, 1.0, 10)
    assert run.throughput_per_s == pytest.approx(station.throughput_per_s, rel=0.02)
    for share in (0.5, 0.99):
        limit_s = station.quantile_s(share)
        above = [time > limit_s for time in run.response_s]
        assert agrees(above, 1 - share)[0]


# -- what holds for all numbers -----------------------------------------------------


@given(rates, services, counts, st.integers(1, 80))
def test_littles_law(rate, service, servers, places):
    station = queueing.mmck(rate, service, servers, places)
    number = queueing.little(station.throughput_per_s, station.mean_response_s)
    assert station.mean_number == pytest.approx(number, rel=1e-9)


@given(counts, services, counts, st.floats(1e-3, 1e3))
def test_littles_law_in_a_closed_network(customers, service, servers, think):
    station = queueing.closed(customers, service, servers, think * service)
    number = queueing.little(station.throughput_per_s, station.mean_response_s)
    assert station.mean_number == pytest.approx(number, rel=1e-9)
    cycle_s = think * service + station.mean_response_s
    assert station.throughput_per_s * cycle_s == pytest.approx(customers, rel=1e-9)
    assert station.throughput_per_s <= min(customers, servers) / service * (1 + 1e-12)


@given(rates, services, counts, st.integers(1, 80))
def test_one_place_more_loses_less_and_waits_longer(rate, service, servers, places):
    fewer = queueing.mmck(rate, service, servers, places)
    more = queueing.mmck(rate, service, servers, places + 1)
    assert more.blocking <= fewer.blocking
    assert more.throughput_per_s >= fewer.throughput_per_s * (1 - 1e-12)
    assert more.mean_wait_s >= fewer.mean_wait_s * (1 - 1e-12)
    assert 0 <= more.blocking <= 1
    assert more.throughput_per_s <= min(rate, servers / service) * (1 + 1e-9)


@settings(max_examples=40)
@given(rates, services, counts, st.integers(1, 80))
def test_quantiles_rise_and_the_tail_falls_to_what_they_say(
    rate, service, servers, places
):
    station = queueing.mmck(rate, service, servers, places)
    shares = (0.1, 0.5, 0.9, 0.99, 0.999)
    times = [station.quantile_s(share) for share in shares]
    assert all(a < b for a, b in itertools.pairwise(times))
    mixture = Mixture(station.found, servers, service)
    for share, time in zip(shares, times, strict=True):
        assert mixture.above(time) == pytest.approx(1 - share, rel=1e-6)


@given(st.floats(0.01, 200), counts)
def test_erlang_b_falls_with_servers_and_c_is_above_it(load, servers):
    lost = queueing.erlang_b(load, servers)
    assert queueing.erlang_b(load, servers + 1) < lost
    assert lost <= queueing.erlang_c(load, servers) <= 1


def test_the_pause_rule_is_the_network_cards():
    """4096 descriptors at 14.8 million packets a second last 277 us."""
    assert queueing.pause_slots(14.8e6, 277e-6) == pytest.approx(4096, rel=2e-3)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: queueing.mmck(0.0, 1.0, 1, 1), "arrival_per_s must be positive"),
        (lambda: queueing.mmck(1.0, math.inf, 1, 1), "service_s must be positive"),
        (lambda: queueing.closed(0, 1.0, 1), "customers must be positive"),
        (lambda: queueing.wait_s(9.0, 1.0, 8), "8 servers of 1.0 s serve 8/s at most"),
        (lambda: queueing.quantile_s(1.0, 1.0, 1.0, 8), "a share lies between"),
    ],
)
def test_what_makes_no_sense_is_refused(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()
