"""Own-GIL interpreters on 3.12, 3.13 and 3.14, by one name each.

    with interpreters.create() as worker:
        worker.run("import rings; ...", fd=region.fileno(), size=region.size)

`run` occupies the calling thread until the script ends, so give each interpreter a
thread of its own.  Into the script go strings, bytes, numbers, booleans and None,
by name; a ring goes in as its file descriptors, which every interpreter of the
process shares, and each interpreter attaches a mapping of its own.

Signals reach only the main interpreter.  A script that waits without end never
sees Ctrl-C, and nothing can stop it from outside.  So give it an eventfd to stop
by, put that into whatever it polls, and run it beside the main thread:

    stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    with interpreters.create() as worker, ThreadPoolExecutor(1) as threads:
        try:
            threads.submit(worker.run, SCRIPT, stop=stop).result()
        except KeyboardInterrupt:
            os.eventfd_write(stop, 1)

The end of the `with` block waits for the script, which polls both and leaves when
`stop` is readable:

    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    poll.register(stop, select.POLLIN)
    while stop not in dict(poll.poll()):
        ...

Not `Thread.join`: on 3.12, Ctrl-C there makes it forget a thread that still runs.
A script that sleeps in `Atomics.wait` is stopped by a change of its word and a notify;
one in a ring's `get` or `put`, by closing the ring's other end.

Whatever ends of rings it holds are given back when it is destroyed, not before;
docs/INTERPRETERS.md says what its peers see.  Except on 3.13 it is destroyed too when
nothing refers to it any more; do not rely on that, close it.

Two rules of CPython's.  Never fork while an own-GIL interpreter lives: the child
hangs or crashes; start processes by spawn.  And import in it only what says that
it can: numpy, cffi and posix_ipc do not, and hashlib, ssl and asyncio break 3.12.1.

On 3.11 there is none of this: what it calls isolated shares the one GIL and may
not start threads.  Use processes there.

Source:
    PEP 684, A Per-Interpreter GIL; PEP 734, Multiple Interpreters in the Stdlib.
"""

from __future__ import annotations

import sys
from importlib import import_module
from threading import Lock
from types import TracebackType
from typing import Final

from .errors import BusyError, ClosedError, RingError

Shareable = str | bytes | int | float | bool | None

# 3.12 hangs in destroy when another thread than the present one first imported
# `threading` there: it waits for that thread's state, which goes last.
ADOPT: Final = """
import sys
_threading = sys.modules.get("threading")
if _threading is not None:
    _lock = _threading._main_thread._tstate_lock
    if _lock is not None and _lock.locked():
        _threading._main_thread._ident = _threading.get_ident()
"""


class ScriptError(RingError):
    """A script ended by an exception in its interpreter; the message says which."""


def _check_shareable(name: str, value: object) -> None:
    """Refuse what CPython 3.13 crashes on."""
    if type(value) is tuple:
        for part in value:
            _check_shareable(name, part)
        return
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise TypeError(f"{name} does not fit into 64 bits; pass it as a string")
    if value is not None and type(value) not in (str, bytes, int, float, bool):
        raise TypeError(
            f"{name} is a {type(value).__name__}, which cannot go into another"
            " interpreter; pass strings, bytes, numbers, booleans or None: of a ring"
            " the numbers of its handle(), to attach it there"
        )


def create() -> Interpreter:
    """Make an interpreter with a GIL of its own.

    Raises:
        NotImplementedError: Python is 3.11, which has none.
    """
    if sys.version_info < (3, 12):
        raise NotImplementedError(
            "own-GIL interpreters need Python 3.12 or newer: on 3.11 interpreters "
            "share one GIL and may not start threads; use a process instead"
        )
    return Interpreter()


class Interpreter:
    """One own-GIL interpreter; `create` makes it, `close` destroys it."""

    def __init__(self) -> None:
        self._api = _find_api()
        self.id = self._api.id
        self.closed = False
        self._running = Lock()

    def run(self, script: str, **names: Shareable) -> None:
        """Run `script` in the interpreter's `__main__`, with `names` bound there.

        Raises:
            ScriptError: The script raised; the message has its type and text.
            BusyError: Another thread is running a script in it.
            ClosedError: The interpreter was closed.
            TypeError: Something of `names` cannot go into another interpreter.
        """
        for name, value in names.items():
            _check_shareable(name, value)
        if not self._running.acquire(blocking=False):
            raise BusyError(
                f"interpreter {self.id} is running a script: wait for its end"
            )
        try:
            if self.closed:
                raise ClosedError("this interpreter was closed: create another")
            self._api.run(script, names)
        finally:
            self._running.release()

    def close(self, timeout: float | None = 0) -> None:
        """Destroy the interpreter; harmless the second time.

        Any thread may do it.  It waits, without `timeout`, for the threads that
        `threading` started there.  Those that `_thread` did get ClosedError out of
        their waits in rings and have a second to go: with one that stays, 3.12 and
        3.13 abort, and on 3.14 it stops for good.

        Args:
            timeout: Seconds to wait for a running script's end; None: for ever.

        Raises:
            BusyError: A script is still running in it: stop that first.
        """
        if not self._running.acquire(timeout=-1 if timeout is None else timeout):
            raise BusyError(
                f"interpreter {self.id} is running a script: stop it, then close"
            )
        try:
            if not self.closed:
                self._api.destroy()
                self.closed = True
        finally:
            self._running.release()

    def __enter__(self) -> Interpreter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(None)


def _find_api() -> _Api312 | _Api313 | _Api314:
    if sys.version_info < (3, 13):
        return _Api312()
    return _Api313() if sys.version_info < (3, 14) else _Api314()


class _Api312:
    """`_xxsubinterpreters`: a failed script is an exception, an id an object."""

    def __init__(self) -> None:
        self._module = import_module("_xxsubinterpreters")
        self._id = self._module.create(isolated=True)
        self.id = int(self._id)

    def run(self, script: str, names: dict[str, Shareable]) -> None:
        try:
            self._module.run_string(self._id, script, names)
        except self._module.RunFailedError as error:
            raise ScriptError(str(error)) from None

    def destroy(self) -> None:
        self._module.run_string(self._id, ADOPT)
        self._module.destroy(self._id)


class _Api313:
    """`_interpreters`: a failed script is a value, an id a number."""

    def __init__(self) -> None:
        self._module = import_module("_interpreters")
        self.id = int(self._module.create("isolated"))

    def run(self, script: str, names: dict[str, Shareable]) -> None:
        failure = self._module.run_string(self.id, script, names)
        if failure is not None:
            raise ScriptError(failure.formatted)

    def destroy(self) -> None:
        self._module.destroy(self.id)


class _Api314:
    """`concurrent.interpreters`, the public one."""

    def __init__(self) -> None:
        self._module = import_module("concurrent.interpreters")
        self._interpreter = self._module.create()
        self.id = int(self._interpreter.id)

    def run(self, script: str, names: dict[str, Shareable]) -> None:
        if names:  # none at all is refused
            self._interpreter.prepare_main(names)
        try:
            self._interpreter.exec(script)
        except self._module.ExecutionFailed as error:  # its str has a traceback too
            raise ScriptError(error.excinfo.formatted) from None

    def destroy(self) -> None:
        self._interpreter.close()
