"""The Universal Scalability Law: what more producers gain, and when they cost.

    X(n) = gamma n / (1 + sigma (n - 1) + kappa n (n - 1))

gamma is what one does alone; sigma the share that only one can do at a time
(contention); kappa what each pair costs by agreeing (coherency).  With kappa > 0
throughput falls again beyond N* = sqrt((1 - sigma) / kappa): a core too many.

Source: Neil Gunther, *Guerrilla Capacity Planning*, Springer 2007, chapters 4 and 5.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple


class Usl(NamedTuple):
    """A fitted law.

    Attributes:
        sigma: Contention, 0 or more.
        kappa: Coherency, 0 or more.
        gamma_per_s: Throughput of one producer.
        error: Root of the mean squared error of X, as a share of X.
    """

    sigma: float
    kappa: float
    gamma_per_s: float
    error: float

    @property
    def best_producers(self) -> float:
        """N*: beyond it throughput falls; infinite if it never does."""
        if self.kappa == 0:
            return math.inf
        return math.sqrt(max(0.0, 1 - self.sigma) / self.kappa)

    def throughput_per_s(self, producers: float) -> float:
        """Return what the law says of so many producers."""
        return usl(producers, self.sigma, self.kappa, self.gamma_per_s)


def usl(
    producers: float, sigma: float, kappa: float, gamma_per_s: float = 1.0
) -> float:
    """Return X(n); with gamma 1, the speed-up over one producer."""
    others = producers - 1
    return gamma_per_s * producers / (1 + sigma * others + kappa * producers * others)


def fit_usl(points: Iterable[tuple[float, float]]) -> Usl:
    """Fit the law to (producers, throughput per second) pairs.

    n / X is linear in 1/gamma, sigma/gamma and kappa/gamma, so this is one least
    squares of relative errors, with those of the three that would become negative
    held at zero (all of the eight choices are tried: the best that may be is taken).

    Raises:
        ValueError: Fewer than three different numbers of producers, or a number or
            throughput that is not positive.
    """
    measured = list(points)
    if len({n for n, _ in measured}) < 3:
        raise ValueError(
            f"a fit needs throughput at three different numbers of producers or more, "
            f"not {sorted({n for n, _ in measured})}"
        )
    if any(not (0 < n < math.inf and 0 < x < math.inf) for n, x in measured):
        raise ValueError("producers and throughput must be positive")
    fits = (_law(free, measured) for free in ((0,), (0, 1), (0, 2), (0, 1, 2)))
    return min((law for law in fits if law), key=lambda law: law.error)


def _law(free: Sequence[int], measured: Sequence[tuple[float, float]]) -> Usl | None:
    rows = [[_terms(n)[i] * x / n for i in free] for n, x in measured]
    solved = _solve(_normal(rows))
    if solved is None:
        return None
    whole = [0.0, 0.0, 0.0]
    for i, value in zip(free, solved, strict=True):
        whole[i] = value
    inverse, contention, coherency = whole
    if inverse <= 0 or contention < 0 or coherency < 0:
        return None
    law = Usl(contention / inverse, coherency / inverse, 1 / inverse, 0.0)
    return law._replace(error=_error(law, measured))


def _terms(producers: float) -> tuple[float, float, float]:
    return 1.0, producers - 1, producers * (producers - 1)


def _error(law: Usl, measured: Sequence[tuple[float, float]]) -> float:
    squares = ((law.throughput_per_s(n) / x - 1) ** 2 for n, x in measured)
    return math.sqrt(math.fsum(squares) / len(measured))


def _normal(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    """Normal equations of rows that should each sum, weighted, to one."""
    width = range(len(rows[0]))
    return [
        [
            *(math.fsum(r[i] * r[j] for r in rows) for j in width),
            math.fsum(_at(rows, i)),
        ]
        for i in width
    ]


def _at(rows: Sequence[Sequence[float]], column: int) -> Iterator[float]:
    return (row[column] for row in rows)


def _solve(matrix: list[list[float]]) -> list[float] | None:
    """Gauss with pivots on an augmented matrix; None if it is singular."""
    size = len(matrix)
    for i in range(size):
        best = max(range(i, size), key=lambda row: abs(matrix[row][i]))
        matrix[i], matrix[best] = matrix[best], matrix[i]
        if abs(matrix[i][i]) < 1e-300:
            return None
        for row in range(size):
            if row != i:
                factor = matrix[row][i] / matrix[i][i]
                matrix[row] = [
                    a - factor * b for a, b in zip(matrix[row], matrix[i], strict=True)
                ]
    return [matrix[i][size] / matrix[i][i] for i in range(size)]
