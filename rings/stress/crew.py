"""The workers of one cell: started, let go together, heard, and gone in the end."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import IO, Any, Final

from ..errors import BrokenError
from .worker import Job

MODULE: Final = (sys.executable, "-P", "-m", "rings.stress.worker")
PACKAGES: Final = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
START_S: Final = 30.0
SHOWN: Final = 2000


class Crew:
    """One process for each job; a context manager that leaves none behind."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with us
        self._workers = [_start(self._log) for _ in jobs]
        for worker, job in zip(self._workers, jobs, strict=True):
            _tell(worker, asdict(job))

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.communicate()
        self._log.close()

    @property
    def pids(self) -> list[int]:
        """Of the workers' processes."""
        return [worker.pid for worker in self._workers]

    def ready(self) -> list[dict[str, Any]]:
        """Wait until every worker has its ring; return what each says of it."""
        return self._hear(START_S)

    def go(self, start_ns: int, from_ns: int, until_ns: int) -> None:
        """Let them all begin at one moment."""
        moments = {"start_ns": start_ns, "from_ns": from_ns, "until_ns": until_ns}
        for worker in self._workers:
            _tell(worker, moments)

    def results(self, timeout_s: float) -> list[dict[str, Any]]:
        """Wait until every worker is through; return what each has counted."""
        return self._hear(timeout_s)

    def _hear(self, timeout_s: float) -> list[dict[str, Any]]:
        deadline = time.monotonic() + timeout_s
        return [self._line(worker, deadline) for worker in self._workers]

    def _line(self, worker: subprocess.Popen[bytes], deadline: float) -> dict[str, Any]:
        assert worker.stdout is not None
        left_s = max(0.0, deadline - time.monotonic())
        if not select.select([worker.stdout], [], [], left_s)[0]:
            raise TimeoutError(
                f"worker {worker.pid} said nothing in time: is the daemon alive?"
            )
        line = worker.stdout.readline()
        if not line:
            raise BrokenError(f"worker {worker.pid} is gone; its log:\n{self._told()}")
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise BrokenError(f"worker {worker.pid}: {message['error']}")
        return message

    def _told(self) -> str:
        self._log.seek(0)
        return self._log.read()[-SHOWN:].decode(errors="replace")


def _start(log: IO[bytes]) -> subprocess.Popen[bytes]:
    path = [PACKAGES, *(part for part in sys.path if part)]
    return subprocess.Popen(
        MODULE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(path))},
    )


def _tell(worker: subprocess.Popen[bytes], message: dict[str, Any]) -> None:
    assert worker.stdin is not None
    try:
        worker.stdin.write(json.dumps(message).encode() + b"\n")
        worker.stdin.flush()
    except BrokenPipeError:
        pass  # its own last words, or its log, say why
