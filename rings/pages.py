"""Which pages of an area are free: runs in address order, and loose single pages.

Runs are found by first fit and merge with their neighbours when they come back.
Single pages, the usual size of a request, come and go through a stack instead:
no search, and the page used last is the one still warm.  When no run is long
enough the stack is merged into the runs, and the search is done once more.
"""

from __future__ import annotations

from bisect import bisect_left


class FreePages:
    """The free pages of an area of ``pages`` pages, all of them at first."""

    __slots__ = ("_counts", "_loose", "_starts", "free")

    def __init__(self, pages: int) -> None:
        self.free = pages
        self._starts = [0] if pages else []
        self._counts = [pages] if pages else []
        self._loose: list[int] = []

    def take(self, count: int) -> int | None:
        """Take ``count`` pages in a row; return the first one's number, or None."""
        if count == 1 and self._loose:
            first: int | None = self._loose.pop()
        else:
            first = self._first_fit(count)
            if first is None and self._loose:
                self._merge_loose()
                first = self._first_fit(count)
        if first is not None:
            self.free -= count
        return first

    def give(self, first: int, count: int) -> None:
        """Give back pages that were taken together."""
        self.free += count
        if count == 1:
            self._loose.append(first)
        else:
            self._insert(first, count)

    def longest(self) -> int:
        """Return how many pages in a row can be had."""
        self._merge_loose()
        return max(self._counts, default=0)

    def _first_fit(self, count: int) -> int | None:
        for at, run in enumerate(self._counts):
            if run >= count:
                return self._cut(at, count)
        return None

    def _cut(self, at: int, count: int) -> int:
        first = self._starts[at]
        if self._counts[at] == count:
            del self._starts[at], self._counts[at]
        else:
            self._starts[at] += count
            self._counts[at] -= count
        return first

    def _merge_loose(self) -> None:
        loose, self._loose = self._loose, []
        for page in loose:
            self._insert(page, 1)

    def _insert(self, first: int, count: int) -> None:
        at = bisect_left(self._starts, first)
        if at < len(self._starts) and self._starts[at] == first + count:
            count += self._counts[at]
            del self._starts[at], self._counts[at]
        if at and self._starts[at - 1] + self._counts[at - 1] == first:
            self._counts[at - 1] += count
        else:
            self._starts.insert(at, first)
            self._counts.insert(at, count)
