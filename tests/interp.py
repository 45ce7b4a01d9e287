"""Children for tests: a script run by another Python, or in an interpreter of one.

The suite runs under one Python; own-GIL interpreters need 3.12 or later, and the
abi3 extension built for this one loads there too.  They are looked for on the path,
in pyenv's versions, and in RINGS_PYTHONS: names or paths with colons between.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HANG_S = 60
OWN_GIL = ("3.12", "3.13", "3.14")  # what has own-GIL interpreters
VERSIONS = ("3.11", *OWN_GIL)

# Runs SCRIPT (argv[1], with argv[2:] as `ints`) in an own-GIL interpreter, off the
# main thread as the library tells its users to.
DRIVER = """
import sys, threading
from rings import interpreters

failures = []

def main(script, ints):
    try:
        with interpreters.create() as worker:
            worker.run(f"ints = ({ints})\\n" + script)
    except BaseException as error:
        failures.append(error)

ints = "".join(f"{int(number)}, " for number in sys.argv[2:])
thread = threading.Thread(target=main, args=(sys.argv[1], ints))
thread.start()
thread.join()
if failures:
    raise failures[0]
"""


ASK = """
import sys, sysconfig
kind = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
print(*sys.version_info[:2], sep=".", end=kind)
"""


@cache
def find_python(version: str) -> str | None:
    """Return a Python `version` ("3.12") that really runs, or None."""
    for candidate in candidates(version):
        asked = [candidate, "-c", ASK]
        answer = subprocess.run(asked, capture_output=True, text=True, check=False)
        if answer.stdout == version:
            return candidate
    return None


def candidates(version: str) -> Iterator[str]:
    """Yield this Python, those of $RINGS_PYTHONS, that on the path, pyenv's."""
    yield sys.executable
    named = os.environ.get("RINGS_PYTHONS", "").split(":")
    yield from filter(None, map(shutil.which, [*named, f"python{version}"]))
    if shutil.which("pyenv"):
        asked = subprocess.run(["pyenv", "root"], capture_output=True, text=True)
        homes = Path(asked.stdout.strip() or "/nowhere", "versions")
        yield from map(str, sorted(homes.glob(f"{version}.*/bin/python3")))


def require_python(version: str) -> str:
    """Return a Python `version`, or skip the test."""
    python = find_python(version)
    if python is None:
        pytest.skip(f"needs a Python {version} beside this one: set RINGS_PYTHONS")
    return python


def child_environment() -> dict[str, str]:
    """Return an environment in which a child imports this tree's `rings`."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


def start_python(
    python: str, script: str, *args: object, fds: Sequence[int] = ()
) -> subprocess.Popen[str]:
    """Start `python -c script args`, with the descriptors `fds` kept open."""
    return subprocess.Popen(
        [
            python,
            "-u",
            "-c",
            script,
            *map(str, args),
        ],  # what interpreters print, in order
        env=child_environment(),
        pass_fds=tuple(fds),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(child: subprocess.Popen[str], timeout_s: float = HANG_S) -> str:
    """Return what `child` printed; fail the test if it failed or hangs."""
    try:
        output, _ = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        child.kill()
        output, _ = child.communicate()
        pytest.fail(f"child hangs; it printed:\n{output}")
    assert child.returncode == 0, f"exit status {child.returncode}:\n{output}"
    return output


def run_python(python: str, script: str, *args: object, fds: Sequence[int] = ()) -> str:
    """Return what `python -c script args` prints; it must succeed."""
    return finish(start_python(python, script, *args, fds=fds))


def start_in_interpreter(
    python: str, script: str, *ints: int, fds: Sequence[int] = ()
) -> subprocess.Popen[str]:
    """Start a child of `python` that runs `script` in an own-GIL interpreter.

    Args:
        python: The interpreter's program, 3.12 or newer; see `require_python`.
        script: What to run there; the tuple `ints` is bound in it.
        *ints: Numbers for the script, file descriptors mostly.
        fds: Descriptors that the child inherits under the same numbers.
    """
    return start_python(python, DRIVER, script, *ints, fds=fds)


def run_in_interpreter(
    python: str, script: str, *ints: int, fds: Sequence[int] = ()
) -> str:
    """Return what `script` prints in an own-GIL interpreter; it must succeed."""
    return finish(start_in_interpreter(python, script, *ints, fds=fds))
