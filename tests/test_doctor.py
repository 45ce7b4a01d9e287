"""The doctor tells a healthy machine from each sick one, and what to do."""

import errno
import json
import os
import resource
import subprocess
import sys

import pytest

from rings import _core, doctor, kernel, machine
from rings.kernel import Row
from rings.machine import MIB


def test_every_check_of_the_module_is_run():
    defined = {
        function
        for module in (kernel, machine)
        for name, function in vars(module).items()
        if name.startswith("check_")
    }
    assert set(machine.CHECKS) == defined


@pytest.mark.parametrize("check", machine.CHECKS, ids=lambda c: c.__name__)
def test_every_check_answers_on_this_machine(check):
    row = check()
    assert row.name
    assert row.found
    assert row.status in ("ok", "warn", "fail")
    assert (row.status == "ok") == (row.fix == "")


@pytest.mark.parametrize(
    ("release", "status"),
    [
        ("6.18.44-generic", "ok"),
        ("6.1.0-13-amd64", "ok"),
        ("6.0.19-1", "warn"),
        ("4.19.0+", "warn"),
    ],
)
def test_kernel_release_is_compared_by_number(release, status):
    assert kernel.check_kernel(release).status == status


@pytest.mark.parametrize(
    ("number", "status", "words"),
    [
        (0, "ok", "succeeds"),
        (errno.EPERM, "warn", "EPERM"),
        (errno.ENOSYS, "warn", "ENOSYS"),
        (errno.ENOMEM, "warn", "ENOMEM"),
        (errno.EINVAL, "warn", "EINVAL"),
    ],
)
def test_io_urings_answer_is_told_by_name(number, status, words):
    row = kernel.check_io_uring(number)
    assert row.status == status
    assert words in row.found
    assert bool(row.fix) == (number != 0)


@pytest.mark.parametrize(
    ("text", "status"), [("0\n", "ok"), ("1\n", "warn"), ("2\n", "warn"), (None, "ok")]
)
def test_io_uring_disabled_is_read(tmp_path, text, status):
    path = tmp_path / "io_uring_disabled"
    if text is not None:
        path.write_text(text)
    assert kernel.check_io_uring_sysctl(str(path)).status == status


@pytest.mark.parametrize(
    ("text", "words"),
    [("Name:\tx\nSeccomp:\t0\n", "no filter"), ("Seccomp:\t2\n", "filter is inst")],
)
def test_seccomp_mode_is_told(tmp_path, text, words):
    path = tmp_path / "status"
    path.write_text(text)
    assert words in kernel.check_seccomp(str(path)).found


@pytest.mark.parametrize(
    ("permitted", "filtered", "status", "words"),
    [
        (True, False, "ok", "no full barrier"),
        (True, True, "ok", "no full barrier"),
        (False, True, "warn", "under a filter"),
        (False, False, "warn", "this kernel has none"),
    ],
)
def test_membarriers_are_told(permitted, filtered, status, words):
    row = kernel.check_membarrier(permitted, filtered)
    assert row.status == status
    assert words in row.found
    assert bool(row.fix) == (not permitted)


def test_what_the_doctor_says_of_membarriers_is_what_an_end_does():
    program = (
        "from rings import kernel, sandbox\n"
        "print(kernel.check_membarrier().status, sandbox.permit_membarrier(False),"
        " kernel.check_membarrier().status)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    first = "ok" if _core.membarrier() else "warn"
    assert done.stdout.split() == [first, "False", "warn"]


@pytest.mark.parametrize("check", [machine.check_memlock, machine.check_nofile])
def test_limits_are_compared(check):
    assert check(resource.RLIM_INFINITY) == Row(check(0).name, "ok", "unlimited")
    assert check(16).status == "warn"
    assert check(8 * MIB).status == "ok"


@pytest.mark.parametrize(
    ("limit", "used", "status"),
    [("max", "1", "ok"), (f"{256 * MIB}", f"{MIB}", "ok"), (f"{MIB}", "5", "warn")],
)
def test_cgroup_memory_is_compared(tmp_path, limit, used, status):
    folder = tmp_path / "some" / "where"
    folder.mkdir(parents=True)
    (folder / "memory.max").write_text(limit + "\n")
    (folder / "memory.current").write_text(used + "\n")
    membership = tmp_path / "cgroup"
    membership.write_text("0::/some/where\n")
    row = machine.check_cgroup(str(membership), str(tmp_path))
    assert row.status == status


def test_missing_shm_is_a_warning(tmp_path):
    row = machine.check_shm(str(tmp_path / "none"))
    assert row.status == "warn"
    assert "ENOENT" in row.found


def test_one_core_is_a_warning():
    assert machine.check_cores(1).status == "warn"
    assert machine.check_cores(2).status == "ok"


def test_runtime_dir_must_be_ours_alone(tmp_path):
    assert machine.check_runtime_dir("").status == "warn"
    assert machine.check_runtime_dir(str(tmp_path / "none")).status == "fail"
    tmp_path.chmod(0o755)
    assert machine.check_runtime_dir(str(tmp_path)).status == "fail"
    tmp_path.chmod(0o700)
    assert machine.check_runtime_dir(str(tmp_path)).status == "ok"


@pytest.mark.parametrize(
    ("main", "extra", "uid", "status"),
    [
        ("[Login]\n#RemoveIPC=yes\n", None, 1000, "warn"),
        ("[Login]\nRemoveIPC=no\n", None, 1000, "ok"),
        ("[Login]\nRemoveIPC=no\n", "RemoveIPC=yes\n", 1000, "warn"),
        ("[Login]\n", None, 33, "ok"),
        (None, None, 1000, "ok"),
    ],
)
def test_logind_conf_is_read(tmp_path, main, extra, uid, status):
    folder = tmp_path / "etc" / "systemd"
    (folder / "logind.conf.d").mkdir(parents=True)
    if main is not None:
        (folder / "logind.conf").write_text(main)
    if extra is not None:
        (folder / "logind.conf.d" / "x.conf").write_text(extra)
    assert machine.check_remove_ipc(str(tmp_path), uid).status == status


def refuse(*_arguments):
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize(
    ("call", "check", "status"),
    [
        ("memfd_create", kernel.check_memfd, "fail"),
        ("posix_fallocate", kernel.check_memfd, "fail"),
        ("eventfd", kernel.check_eventfd, "fail"),
        ("pidfd_open", kernel.check_pidfd, "warn"),
    ],
)
def test_a_forbidden_call_is_told(monkeypatch, call, check, status):
    monkeypatch.setattr(os, call, refuse)
    row = check()
    assert row.status == status
    assert "EPERM" in row.found
    assert row.fix


def test_a_seal_that_does_not_hold_is_a_failure(monkeypatch):
    monkeypatch.setattr(os, "ftruncate", lambda fd, size: None)
    assert kernel.check_memfd().status == "fail"


def test_a_daemon_that_was_asked_for_must_answer(tmp_path):
    row = doctor.check_daemon(str(tmp_path / "none.sock"))
    assert row.status == "fail"
    assert "python -m daemons" in row.fix


def test_health_is_no_failure():
    assert doctor.is_healthy([Row("a", "ok", "x"), Row("b", "warn", "y", "z")])
    assert not doctor.is_healthy([Row("a", "ok", "x"), Row("b", "fail", "y", "z")])


def test_text_aligns_names_and_json_keeps_everything():
    rows = [Row("a", "ok", "fine"), Row("longer", "fail", "bad", "do this")]
    text = doctor.to_text(rows).splitlines()
    assert text[0].index("fine") == text[1].index("bad") == text[2].index("-> do this")
    assert json.loads(doctor.to_json(rows))[1]["fix"] == "do this"


def test_checks_leave_no_descriptor_behind():
    program = (
        "import os\nfrom rings import machine\n"
        "def fds(): return sorted(os.listdir('/proc/self/fd'))\n"
        "[c() for c in machine.CHECKS]\nbefore = fds()\n"
        "[c() for c in machine.CHECKS]\nassert fds() == before\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
