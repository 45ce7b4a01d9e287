"""M/D/c approximations against the exact solution, and how far they are off."""

import math

import pytest

from rings import constant_service, queueing

from .queue_simulator import simulate

np = pytest.importorskip("numpy")

CASES = [
    (servers, used)
    for servers in (1, 2, 5, 20, 64)
    for used in (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
]


class Exact:
    """An M/D/c queue with service time 1: its chain from one service to the next.

    Those inside at t + 1 are those who waited at t and who came since; the time of a
    request then follows from how many wait (Franx 2001).
    """

    def __init__(self, load: float, servers: int) -> None:
        self.load, self.servers = load, servers
        states = int(servers + load + 30 * math.sqrt(load) + 40 / (1 - load / servers))
        arrivals = np.exp(
            [n * math.log(load) - load - math.lgamma(n + 1) for n in range(states)]
        )
        inside = np.zeros(states)
        inside[0] = 1.0
        change = 1.0
        while change > 1e-12:
            waiting = self.waiting(inside)
            after = np.convolve(waiting, arrivals)[:states]
            after /= after.sum()
            change, inside = np.abs(after - inside).max(), after
        self.wait_s = float(self.waiting(inside) @ np.arange(states)) / load
        self._at_most = np.cumsum(self.waiting(inside))

    def waiting(self, inside):
        waiting = np.zeros(len(inside))
        waiting[0] = inside[: self.servers + 1].sum()
        waiting[1 : len(inside) - self.servers] = inside[self.servers + 1 :]
        return waiting

    def below(self, time: float) -> float:
        """The share that waits at most `time`."""
        services = math.floor(time) + 1
        mean = self.load * (services - time)
        last, total = services * self.servers - 1, 0.0
        for n in range(last + 1):
            weight = math.exp(n * math.log(mean) - mean - math.lgamma(n + 1))
            index = min(last - n, len(self._at_most) - 1)
            total += self._at_most[index] * weight
        return total

    def quantile(self, share: float) -> float:
        low, high = 0.0, 1.0
        if self.below(0.0) >= share:
            return 0.0
        while self.below(high) < share:
            high *= 2
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (low, middle) if self.below(middle) >= share else (middle, high)
        return high


@pytest.mark.parametrize(("servers", "used"), CASES)
def test_waits_are_as_close_to_exact_as_the_module_says(servers, used):
    exact = Exact(servers * used, servers)
    wait_s = constant_service.wait_s(servers * used, 1.0, servers)
    if exact.wait_s >= 0.01:
        assert wait_s == pytest.approx(exact.wait_s, rel=0.015)
    else:
        assert wait_s == pytest.approx(exact.wait_s, abs=5e-4)
    p99 = constant_service.quantile_s(0.99, servers * used, 1.0, servers)
    assert p99 == pytest.approx(1 + exact.quantile(0.99), rel=0.06)


def test_the_exact_solution_is_that_of_one_server():
    """Pollaczek and Khinchine: the mean wait is rho / 2 (1 - rho)."""
    for used in (0.3, 0.8):
        assert Exact(used, 1).wait_s == pytest.approx(used / (2 * (1 - used)), rel=1e-4)


def test_exponential_waits_would_be_noticed():
    assert queueing.wait_s(16.0, 1.0, 20) > 1.5 * Exact(16.0, 20).wait_s


@pytest.mark.parametrize(
    ("rate", "servers", "places"),
    [(9.0, 10, 10), (9.0, 10, 12), (19.0, 20, 26), (30.0, 20, 40), (60.0, 64, 128)],
)
def test_a_finite_queue_loses_what_a_simulation_loses(rate, servers, places):
    run = simulate(
        60_000, rate_per_s=rate, service_s=1.0, servers=servers, slots=places,
        is_fixed=True, is_lossy=True,
    )  # fmt: skip
    station = constant_service.finite(rate, 1.0, servers, places)
    assert station.blocking == pytest.approx(run.lost, abs=0.02)
    assert station.throughput_per_s == pytest.approx(run.throughput_per_s, rel=0.03)
    assert station.quantile_s(0.99) == pytest.approx(run.quantile_s(0.99), rel=0.15)
    number = queueing.little(station.throughput_per_s, station.mean_response_s)
    assert station.mean_number == pytest.approx(number, rel=1e-9)


def test_without_a_queue_the_distribution_of_the_service_does_not_matter():
    station = constant_service.finite(9.0, 1.0, 10, 10)
    assert station.blocking == pytest.approx(queueing.erlang_b(9.0, 10))
    assert station.quantile_s(0.99) == 1.0
