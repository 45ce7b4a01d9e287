"""Programs over the C headers alone: compiled as shipped, or broken on purpose.

A change to a header is text that must be there, so a control cannot outlive the
code that it breaks.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
MODELS = HERE / "model"
CSRC = HERE.parent / "rings" / "csrc"
FLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"]
FLAGS += ["-Wl,-z,now"]  # the first call of a function is as long as the others
PLAIN = ["-O2"]
THREAD = ["-fsanitize=thread", "-O1", "-fno-builtin"]  # inlined memcpy is not seen
ADDRESS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1"]
TSAN_REPORTED = 66
HANG_S = 100

#: A header, what stands in it, and what stands there instead.
Change = tuple[str, str, str]


def compile_rig(
    place: Path, name: str, flags: Iterable[str], changes: Iterable[Change]
) -> Path:
    """Return tests/rigs/`name`.c compiled over a changed copy of the headers."""
    headers = place / "csrc"
    headers.mkdir()
    for header in CSRC.glob("*.h"):
        shutil.copy(header, headers)
    for file, old, new in changes:
        text = (headers / file).read_text()
        assert old in text, f"the mutant is out of date: {old!r} is not in {file}"
        (headers / file).write_text(text.replace(old, new))
    source, program = HERE / "rigs" / f"{name}.c", place / name
    command = ["gcc", *FLAGS, *flags, f"-I{headers}", str(source), "-o", str(program)]
    subprocess.run(command, check=True)
    return program


def run_rig(
    program: Path, *arguments: object, status: int = 0, timeout: float | None = HANG_S
) -> dict[str, Any]:
    """Run a rig, which must end with `status`; return what it counted."""
    command = [str(program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == status, (done.stdout, done.stderr[-2000:])
    counts: dict[str, Any] = json.loads(done.stdout or "{}")
    return counts


def run_sanitized(
    program: Path, *arguments: object, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, or to what ThreadSanitizer finds first."""
    options = f"halt_on_error=1 exitcode={TSAN_REPORTED}"
    return subprocess.run(
        [str(program), *map(str, arguments)],
        env={**os.environ, "TSAN_OPTIONS": options},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def require_sanitizer(place: Path, flags: list[str]) -> None:
    """Skip where gcc has no such runtime, or this kernel does not run it."""
    (place / "probe.c").write_text("int main(void) { return 0; }\n")
    command = ["gcc", *flags, str(place / "probe.c"), "-o", str(place / "probe")]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip(f"gcc has no runtime for {flags[0]}")
    if run_sanitized(place / "probe").returncode:
        pytest.skip(f"a program with {flags[0]} does not run here")


needs_spin = pytest.mark.skipif(
    not (shutil.which("spin") and shutil.which("gcc")),
    reason="needs spin (Debian's package) and gcc",
)


def verify(folder: Path, model: Path, *variant: str) -> tuple[int, int, str]:
    """Return Spin's errors, the states it stored, and what it said."""
    defines = [f"-D{name}" for name in variant]
    for command in (
        ["spin", *defines, "-a", str(model)],
        ["gcc", "-w", "-O2", "-DSAFETY", "-DCOLLAPSE", "-o", "pan", "pan.c"],
    ):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    run = ["./pan", "-m100000"]
    said = subprocess.run(run, cwd=folder, check=True, capture_output=True, text=True)
    [errors] = re.findall(r"errors: (\d+)", said.stdout)
    [states] = re.findall(r"(\d+) states, stored", said.stdout)
    assert "max search depth too small" not in said.stdout
    return int(errors), int(states), said.stdout
