"""Programs over the C headers alone: compiled as shipped, or broken on purpose.

A change to a header is text that must be there, so a control cannot outlive the
code that it breaks.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CSRC = HERE.parent / "rings" / "csrc"
FLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"]
FLAGS += ["-Wl,-z,now"]  # the first call of a function is as long as the others
PLAIN = ["-O2"]
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
