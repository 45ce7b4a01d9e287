"""How much one connection, one user and all together may use, and who uses it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from typing import Final

from rings.errors import BusyError
from rings.layout import MAX_SLOTS, PAGE

RESOURCES: Final = ("connections", "slots", "grants", "data_size")


def option(limit: str) -> str:
    """Return the command-line option that sets a limit."""
    return f"--max-{limit.replace('_', '-')}"


@dataclass(frozen=True)
class Limits:
    """Upper bounds: plain names for one connection, then per user, then in total."""

    slots: int = 4096
    grants: int = 65536
    data_size: int = 64 << 20
    connections_per_uid: int = 128
    slots_per_uid: int = 32768
    grants_per_uid: int = 1 << 18
    data_size_per_uid: int = 1 << 30
    connections_total: int = 256
    slots_total: int = 65536
    grants_total: int = 1 << 20
    data_size_total: int = 2 << 30

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"{option(field.name)} must be at least 1")
        if self.slots & (self.slots - 1) or self.slots > MAX_SLOTS:
            raise ValueError(
                f"--max-slots must be a power of two up to {MAX_SLOTS}, "
                f"not {self.slots}"
            )
        if self.data_size % PAGE:
            raise ValueError(f"--max-data-size must be a multiple of {PAGE} bytes")
        if self.grants > 1 << 20:
            raise ValueError(f"--max-grants must be at most {1 << 20}")


class Quota:
    """Counts what is in use and refuses what would exceed a limit."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._total: Counter[str] = Counter()
        self._of_uid: dict[int, Counter[str]] = {}

    def take(self, uid: int, amounts: dict[str, int]) -> None:
        """Book all of `amounts` for a user, or nothing.

        Raises:
            BusyError: A limit is reached; the message names the option to raise.
        """
        mine = self._of_uid.get(uid, Counter())
        for name, amount in amounts.items():
            self._check(f"{name}_per_uid", f"uid {uid} uses", mine[name], amount)
            self._check(f"{name}_total", "all use", self._total[name], amount)
        self._total.update(amounts)
        self._of_uid.setdefault(uid, Counter()).update(amounts)

    def give(self, uid: int, amounts: dict[str, int]) -> None:
        """Return what `take` booked."""
        self._total.subtract(amounts)
        mine = self._of_uid[uid]
        mine.subtract(amounts)
        if not any(mine.values()):
            del self._of_uid[uid]

    def used(self) -> dict[str, int]:
        """Return the totals."""
        return {name: self._total[name] for name in RESOURCES}

    def _check(self, limit: str, who: str, used: int, amount: int) -> None:
        allowed: int = getattr(self.limits, limit)
        if used + amount > allowed:
            name = limit.partition("_per_")[0].removesuffix("_total")
            raise BusyError(
                f"{who} {used} of {allowed} {name}, {amount} more is too much; close "
                f"sessions, or start the daemon with a higher {option(limit)}"
            )
