"""Takes rings out of service: on a thread each time, as it may take long."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from .loop import Loop
from .spec import EngineLike

Then: TypeAlias = Callable[[Exception | None], None]


class Detaching:
    """Detaches rings, and reports back through the loop."""

    def __init__(self, engine: EngineLike, loop: Loop) -> None:
        self._engine = engine
        self._loop = loop
        self._threads: dict[int, threading.Thread] = {}

    def begin(
        self, rings: Sequence[int], then: Then, *, drain: bool, timeout_s: float | None
    ) -> None:
        """Detach rings, then do ``then`` with the error, if any, in the loop.

        A ring may be on its way out already: to drop it now hurries that on, and both
        end when it has ended.
        """
        before = [self._threads[ring] for ring in rings if ring in self._threads]
        arguments = (rings, before, then, drain, timeout_s)
        thread = threading.Thread(target=self._detach, args=arguments, daemon=True)
        self._threads.update((ring, thread) for ring in rings)
        thread.start()

    def _detach(
        self,
        rings: Sequence[int],
        before: Sequence[threading.Thread],
        then: Then,
        drain: bool,
        timeout_s: float | None,
    ) -> None:
        problem = None
        try:
            for ring in rings:
                self._engine.detach(ring, drain=drain, timeout_s=timeout_s)
            for thread in before:
                thread.join()
        except Exception as error:
            problem = error
        self._loop.post(partial(self._done, rings, then, problem))

    def _done(self, rings: Sequence[int], then: Then, error: Exception | None) -> None:
        for ring in rings:
            self._threads.pop(ring, None)
        then(error)
