"""Whether a process is dead: the kernel's word for each fate, and no guesses."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.rigging import HANG_S, PLAIN, compile_rig

SKIPPED = 77
CASES = [
    "self", "life", "leader", "reused", "hidden", "forbidden", "exhausted", "blind",
]  # fmt: skip

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return compile_rig(tmp_path_factory.mktemp("process"), "process", PLAIN, ())


def ask(program, case):
    """Return what was wrong; skip what this machine does not allow."""
    command = [str(program), case]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S)
    if done.returncode == SKIPPED:
        pytest.skip(f"{case}: not to be had here")
    assert done.returncode == (1 if done.stdout else 0), done
    return done.stdout


@pytest.mark.parametrize("case", CASES)
def test_the_verdict_is_right(program, case):
    assert ask(program, case) == ""


#: What is broken, and the case that notices.
BROKEN = {
    "start times do not count": ("now != start", "false", "self"),
    "a reused pid is the owner": ("now != start", "false", "reused"),
    "a zombie is alive": ("poll(&ended, 1, 0) == 1", "ended.fd < -1", "life"),
    "the name may hold no bracket": ("strrchr(text, ')')", "strchr(text, ')')", "self"),
    "what is forbidden is dead": (
        "pidfd < 0 && errno == ESRCH", "pidfd < 0", "forbidden",
    ),
    "what is not to be had is dead": (
        "pidfd < 0 && errno == ESRCH", "pidfd < 0", "exhausted",
    ),
    "what is not seen is dead": ("now != 0 && ", "", "hidden"),
    "without pidfds nobody dies": ("kill((pid_t)pid, 0) < 0", "false", "blind"),
    "a zombie's first thread is all": (
        "pidfd_is_dead(pidfd) ?", "kill((pid_t)pid, 0) < 0 ?", "life",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_control_a_wrong_verdict_is_noticed(tmp_path, what):
    old, new, case = BROKEN[what]
    broken = compile_rig(tmp_path, "process", PLAIN, [("process.h", old, new)])
    assert ask(broken, case) != ""
