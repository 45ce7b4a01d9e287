"""The memory beside a queue's ring, for messages that do not fit a slot.

How blocks are claimed, handed over and collected stands in csrc/blocks.h.
"""

from __future__ import annotations

import struct
from typing import Final

from . import layout
from .errors import LayoutError
from .memory import Region

BLOCK_SIZE: Final = 4096
MAX_BLOCKS: Final = 1 << 20


class Blocks:
    """A region of blocks, all free at first.

    Attributes:
        region: The memory.
        blocks: How many there are.
        block_size: Bytes of each.
    """

    __slots__ = ("block_size", "blocks", "region")

    def __init__(self, region: Region) -> None:
        """Own a region that holds blocks."""
        self.region = region
        self.blocks, self.block_size = read_numbers(region)

    @classmethod
    def create(cls, size: int, *, name: str = "rings-blocks") -> Blocks:
        """Make at least ``size`` bytes of blocks.

        Raises:
            RegionMemoryError: There is not that much memory.
            ValueError: The size is out of range.
        """
        most = MAX_BLOCKS * BLOCK_SIZE
        if not 1 <= size <= most:
            raise ValueError(f"pool_size must be in 1..{most} bytes, not {size}")
        count = layout.round_up(size, BLOCK_SIZE) // BLOCK_SIZE
        total = region_size(count, BLOCK_SIZE)
        region = Region.create(total, kind=layout.KIND_BLOCKS, name=name)
        struct.pack_into("=II", region.buffer, layout.BLOCKS_COUNT, count, BLOCK_SIZE)
        return cls(region)

    @classmethod
    def attach(cls, fd: int) -> Blocks:
        """Attach blocks by the descriptor of their region, which stays the caller's."""
        return cls(Region.attach(fd, kind=layout.KIND_BLOCKS))

    @property
    def buffer(self) -> memoryview:
        """All bytes of the region."""
        return self.region.buffer

    @property
    def size(self) -> int:
        """Bytes of all blocks."""
        return self.blocks * self.block_size


def region_size(count: int, block_size: int) -> int:
    """Return the bytes of a region for so many blocks."""
    words = layout.round_up(layout.BLOCKS_WORDS + 8 * count)
    return layout.round_up(words + count * block_size)


def read_numbers(region: Region) -> tuple[int, int]:
    """Return the count and the size of a region's blocks, having checked them."""
    count, size = struct.unpack_from("=II", region.buffer, layout.BLOCKS_COUNT)
    if (
        not 1 <= count <= MAX_BLOCKS
        or not size
        or region_size(count, size) > region.size
    ):
        raise LayoutError(
            f"a region of {region.size} bytes does not hold {count} blocks of {size}"
        )
    return count, size
