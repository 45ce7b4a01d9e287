import errno
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from rings import (
    RegionMemoryError,
    layout,
    reserve,
)
from rings.memory import Region

HANG_S = 30
SIZE = 3 * layout.PAGE


def run(code, *args, fds=(), python=sys.executable):
    return subprocess.run(
        [python, "-c", textwrap.dedent(code), *map(str, args)],
        capture_output=True, text=True, timeout=HANG_S, pass_fds=fds,
    )  # fmt: skip


def test_more_than_there_is_is_an_exception_with_a_remedy():
    with pytest.raises(RegionMemoryError) as caught:
        Region.create(1 << 50)
    assert f"{1 << 50} bytes" in str(caught.value)
    assert "bytes free" in str(caught.value)
    assert "ask for less" in str(caught.value)
    assert isinstance(caught.value, MemoryError)


def test_the_file_size_limit_is_an_exception_too():
    code = """
        import resource
        from rings import RegionMemoryError
        from rings.memory import Region
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
        Region.create(65536).close()
        try:
            Region.create(1 << 20)
        except RegionMemoryError as error:
            print(error)
        import os
        print(len(os.listdir("/proc/self/fd")))
        """
    child = run(code)
    assert child.returncode == 0, child.stderr
    message, fds = child.stdout.splitlines()
    assert "1048576 bytes" in message
    assert "65536 bytes free" in message
    assert "ulimit -f" in message
    assert fds == "4"  # 0, 1, 2 and the directory itself: nothing was kept


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOMEM, errno.EDQUOT])
def test_the_kernels_own_refusal(monkeypatch, number):
    def full(fd, offset, size):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RegionMemoryError, match=f"cannot reserve {SIZE} bytes"):
        Region.create(SIZE)


def test_an_unexpected_refusal_stays_what_it_is(monkeypatch):
    def broken(fd, offset, size):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "posix_fallocate", broken)
    with pytest.raises(OSError, match="broken"):
        Region.create(SIZE)


def test_signals_during_the_reservation_are_served_and_it_goes_on():
    served = []
    before = signal.signal(signal.SIGALRM, lambda *_: served.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for _ in range(10):
            with Region.create(64 << 20) as region:
                assert os.fstat(region.fd).st_blocks * 512 >= region.size
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert served


def test_reservation_goes_by_chunks_that_cover_it_all(monkeypatch):
    calls = []
    monkeypatch.setattr(os, "posix_fallocate", lambda fd, *what: calls.append(what))
    monkeypatch.setattr(reserve, "CHUNK", 100)
    reserve.reserve(-1, 250)
    assert calls == [(0, 100), (100, 100), (200, 50)]


def kernel_files(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root / "proc"), str(root / "cgroup")


def test_the_room_of_machine_and_cgroups_v2(tmp_path):
    files = {
        "proc/meminfo": "MemAvailable:  100 kB\nSwapFree: 10 kB\nHugePages_Total: 0\n",
        "proc/self/cgroup": "0::/a/b\n",
        "cgroup/a/memory.max": "5000\n",
        "cgroup/a/memory.current": "4000\n",
        "cgroup/a/memory.stat": "anon 1\ninactive_file 30\nactive_file 4\n",
        "cgroup/a/b/memory.max": "max\n",
        "cgroup/a/b/memory.current": "4000\n",
    }
    rooms = reserve.memory_rooms(*kernel_files(tmp_path, files))
    assert [room.free for room in rooms] == [110 << 10, 1034]
    assert "memory.max" in rooms[1].remedy


def test_what_can_be_reclaimed_is_looked_up_only_if_it_is_needed(tmp_path):
    files = {
        "proc/self/cgroup": "0::/a\n",
        "cgroup/a/memory.max": "5000\n",
        "cgroup/a/memory.current": "4000\n",
        "cgroup/a/memory.stat": "inactive_file 30\n",
    }
    places = kernel_files(tmp_path, files)
    free = [reserve.memory_rooms(*places, wanted=n)[0].free for n in (1000, 1001)]
    assert free == [1000, 1030]


def test_the_room_of_cgroups_v1(tmp_path):
    files = {
        "proc/self/cgroup": "4:cpu,memory:/x\n3:cpuset:/\n",
        "cgroup/memory/memory.limit_in_bytes": "9000\n",
        "cgroup/memory/memory.usage_in_bytes": "9500\n",
    }
    rooms = reserve.memory_rooms(*kernel_files(tmp_path, files))
    assert [(room.free, "memory.limit_in_bytes" in room.remedy) for room in rooms] == [
        (0, True)
    ]


def test_without_proc_nothing_is_known_and_the_kernel_decides(tmp_path):
    assert reserve.memory_rooms(str(tmp_path), str(tmp_path)) == []


def test_a_cgroups_limit_refuses_before_a_page_is_taken(monkeypatch):
    def never(*_):
        raise AssertionError("a page was asked for")

    room = reserve.Room(SIZE - 1, "cgroup /x", "raise memory.max")
    monkeypatch.setattr(reserve, "memory_rooms", lambda **_: [room])
    monkeypatch.setattr(os, "posix_fallocate", never)
    with pytest.raises(RegionMemoryError, match=r"cgroup /x .* raise memory\.max"):
        Region.create(SIZE)


def test_too_little_address_space_is_an_exception():
    code = """
        import os, resource
        from rings import RegionMemoryError
        from rings.memory import Region
        region = Region.create(64 << 20)
        used = int(open("/proc/self/statm").read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + (16 << 20),) * 2)
        before = len(os.listdir("/proc/self/fd"))
        for use in (lambda: Region.create(64 << 20), lambda: Region.attach(region.fd)):
            try:
                use()
            except RegionMemoryError as error:
                print(error)
        assert before == len(os.listdir("/proc/self/fd"))
        """
    child = run(code)
    assert child.returncode == 0, child.stderr
    assert child.stdout.count(f"cannot map {64 << 20} bytes") == 2
    assert child.stdout.count("RLIMIT_AS") == 2
