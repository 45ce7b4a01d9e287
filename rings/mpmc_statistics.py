"""What the members of an MPMC ring have counted, added up by whoever asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from . import layout

U64: Final = (1 << 64) - 1
LOSSES_SHIFT: Final = 40
LOST_SHIFT: Final = 24


class MemberFacts(NamedTuple):
    """One living member, as its entry has it."""

    owner: int
    pid: int
    messages_put: int
    messages_got: int
    lost: int


class Statistics(NamedTuple):
    """Counts since the ring was made; those of messages lag by what is in motion.

    Attributes:
        size: Messages in the ring.
        messages_put: Messages put.
        messages_got: Messages got.
        tombstones: Messages that died with their producers.
        in_doubt: Messages taken by consumers that died before get returned.
        recovered: Members found dead and settled.
        lost: Messages dropped by a policy or skipped by ``latest``, exactly.
        members: The entries in use, some perhaps of dead members not yet found.
    """

    size: int
    messages_put: int
    messages_got: int
    tombstones: int
    in_doubt: int
    recovered: int
    lost: int
    members: tuple[MemberFacts, ...]


def owner_entries(buffer: memoryview) -> Iterator[tuple[int, ...]]:
    """Yield the words of every entry of the owner table."""
    first = layout.MPMC_OWNERS_OFFSET
    last = first + layout.MPMC_OWNERS * layout.MPMC_OWNER_SIZE
    words = buffer[first:last].cast("Q")
    per_entry = layout.MPMC_OWNER_SIZE // 8
    for at in range(0, len(words), per_entry):
        yield tuple(words[at : at + per_entry])


def read_statistics(buffer: memoryview, slots: int) -> Statistics:
    """Add up the owner table."""
    entries = list(owner_entries(buffer))
    prod = int.from_bytes(buffer[layout.MPMC_PROD : layout.MPMC_PROD + 8], "little")
    cons = int.from_bytes(buffer[layout.MPMC_CONS : layout.MPMC_CONS + 8], "little")
    ahead = (prod - cons) & U64
    return Statistics(
        size=min(ahead, slots) if ahead < 1 << 63 else 0,
        messages_put=sum(entry[3] for entry in entries),
        messages_got=sum(entry[4] for entry in entries),
        tombstones=sum(entry[5] >> LOSSES_SHIFT for entry in entries),
        in_doubt=sum(entry[6] >> LOSSES_SHIFT for entry in entries),
        recovered=sum(entry[0] >> 23 & 0x7FFFF for entry in entries),
        lost=sum(entry[7] >> LOST_SHIFT for entry in entries),
        members=tuple(
            MemberFacts(
                number, entry[0] >> 42, entry[3], entry[4], entry[7] >> LOST_SHIFT
            )
            for number, entry in enumerate(entries, 1)
            if entry[0] & 7
        ),
    )
