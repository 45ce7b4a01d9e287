"""Start a daemon as a child process, for tests, notebooks and short programs."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from rings.errors import BrokenError

from . import supervisor

MODULE: Final = (sys.executable, "-P", "-m", "daemons")
PACKAGES: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LOG_NAME: Final = "daemon.log"
LOG_SHOWN: Final = 2000


class Daemon:
    """A daemon that this process started.

    Attributes:
        address: The path of its socket, for `rings.connect()`.
        pid: Its process id.
        process: Its `subprocess.Popen`.
    """

    def __init__(
        self, address: str, process: subprocess.Popen[bytes], log_path: str
    ) -> None:
        self.address = address
        self.process = process
        self._log_path = log_path

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def log(self) -> str:
        """Return what it has logged so far."""
        with open(self._log_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def kill(self) -> None:
        """Kill it with SIGKILL and wait until it is dead."""
        self.process.kill()
        self.process.wait()

    def stop(self, timeout: float = 30.0) -> int:
        """Let it drain and end; return its exit code.

        Raises:
            TimeoutError: It has not ended in time; it has been killed.
        """
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(
                f"the daemon (pid {self.pid}) did not end {timeout:g} s after SIGTERM "
                f"and was killed; its log:\n{self.log()[-LOG_SHOWN:]}"
            ) from None


@contextmanager
def spawn(
    *,
    image: str | os.PathLike[str] | None = None,
    kind: str | None = None,
    name: str | None = None,
    engine: str = "auto",
    socket: str | None = None,
    timeout: float = 30.0,
    program: Sequence[str] = MODULE,
    **options: object,
) -> Iterator[Daemon]:
    """Run a daemon for the time of a `with` block.

    It lives in a private directory that is removed afterwards, and it ends when
    this process does, however this process ends.

    Args:
        image: Serve this file as a block device.
        kind: "block", "echo", "null", "delay" (with ``servers=100`` and
            ``service_time="5ms"``) or "python" (with ``backend="module:Class"``);
            by default "block" if there is an image, else "null".
        name: What frontends ask for; by default "disk0", "echo0", "null0", "delay0"
            or "python0".
        engine: "auto", "uring", "threads" or "mock".
        socket: Listen there instead of in the private directory.
        timeout: Seconds it may take to start.
        program: The command that is the daemon.
        options: Other options of the command line: `read_only=True`,
            `max_slots=64`, `allow_uid=[1000]`.

    Raises:
        BrokenError: It did not start; the message ends with its log.
        TimeoutError: It did not start in time.
    """
    directory = tempfile.mkdtemp(prefix="rings-")
    address = socket or os.path.join(directory, "ringsd.sock")
    kind = kind or ("null" if image is None else "block")
    given = {"socket": address, "engine": engine, "name": name, "image": image}
    arguments = [kind, *_arguments({**given, **options})]
    try:
        daemon = _start([*program, *arguments], address, directory, timeout)
        try:
            yield daemon
        finally:
            with suppress(TimeoutError):
                daemon.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _arguments(options: dict[str, object]) -> list[str]:
    words: list[str] = []
    for key, value in options.items():
        word = f"--{key.replace('_', '-')}"
        if value is True:
            words.append(word)
        elif value is not None and value is not False:
            values = value if isinstance(value, (list, tuple)) else [value]
            words += [f"{word}={item}" for item in map(_text, values)]
    return words


def _text(value: object) -> str:
    return os.fsdecode(value) if isinstance(value, os.PathLike) else str(value)


def _environment() -> dict[str, str]:
    """Have the child import what this process would, from wherever it is started.

    It is not this process, so it has nothing to tell this one's supervisor.
    """
    path = [PACKAGES, *(part for part in sys.path if part)]
    inherited = {k: v for k, v in os.environ.items() if k != supervisor.VARIABLE}
    return {**inherited, "PYTHONPATH": os.pathsep.join(dict.fromkeys(path))}


def _start(command: list[str], address: str, directory: str, timeout: float) -> Daemon:
    log_path = os.path.join(directory, LOG_NAME)
    ready, ready_write = os.pipe2(os.O_CLOEXEC)
    try:
        with open(log_path, "wb") as log:
            process = subprocess.Popen(
                [*command, f"--ready-fd={ready_write}", f"--exit-with={os.getpid()}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[ready_write],
                env=_environment(),
            )
    except BaseException:
        os.close(ready)
        raise
    finally:
        os.close(ready_write)
    daemon = Daemon(address, process, log_path)
    try:
        _await(daemon, ready, timeout)
    except BaseException:
        daemon.kill()
        raise
    finally:
        os.close(ready)
    return daemon


def _await(daemon: Daemon, ready: int, timeout: float) -> None:
    """Wait for the daemon's word, or the end of file that its death is."""
    poller = select.poll()
    poller.register(ready, select.POLLIN)
    deadline = time.monotonic() + timeout
    while not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
        if time.monotonic() >= deadline:
            raise TimeoutError(
                f"the daemon (pid {daemon.pid}) was not ready after {timeout:g} s; "
                f"its log:\n{daemon.log()[-LOG_SHOWN:]}"
            )
    if not os.read(ready, 16):
        code = daemon.process.wait()
        raise BrokenError(
            f"the daemon ended with code {code} before it was ready; its log:\n"
            f"{daemon.log()[-LOG_SHOWN:]}"
        )
