import os
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest

posix_ipc = pytest.importorskip("posix_ipc")

from rings import BusyError, LayoutError, layout, named  # noqa: E402
from rings.header import FIELDS, Header, new_header  # noqa: E402

HANG_S = 30
SIZE = 3 * layout.PAGE


@pytest.fixture
def name(shm_name):
    name = shm_name()
    yield name
    if os.path.exists(f"/dev/shm/{name}"):
        named.unlink(name)


def run(code, *args, **options):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        capture_output=True, text=True, timeout=HANG_S, **options,
    )  # fmt: skip


def write_raw(name, content):
    with open(f"/dev/shm/{name}", "wb") as file:
        file.write(content)


def test_what_one_process_writes_by_name_another_reads(name):
    with named.create(name, SIZE, kind=layout.KIND_SPSC, generation=5) as region:
        region.buffer[SIZE - 1] = 77
        child = run(
            """
            import sys
            from rings import named
            region = named.attach(sys.argv[1], kind=2, size=int(sys.argv[2]))
            print(region.buffer[-1], region.generation)
            region.buffer[-2] = 78
            region.close()
            """,
            name, SIZE,
        )  # fmt: skip
        assert (child.stdout, child.stderr) == ("77 5\n", "")
        assert region.buffer[SIZE - 2] == 78


def test_only_its_user_may_open_it(name):
    with named.create(name, SIZE):
        assert os.stat(f"/dev/shm/{name}").st_mode & 0o777 == 0o600


def test_a_name_outlives_the_region_until_it_is_unlinked(name):
    named.create(name, SIZE).close()
    named.attach("/" + name).close()
    named.unlink(name)
    with pytest.raises(FileNotFoundError, match="create it first"):
        named.attach(name)
    with pytest.raises(FileNotFoundError):
        named.unlink(name)


def test_a_live_creator_keeps_its_name(name):
    with (
        named.create(name, SIZE),
        pytest.raises(BusyError, match=f"process {os.getpid()}, which is alive"),
    ):
        named.create(name, SIZE)


def test_a_dead_creators_name_is_taken_over(name):
    code = """
        import os, signal, sys
        from rings import named
        region = named.create(sys.argv[1], 12288)
        region.buffer[5000] = 1
        os.kill(os.getpid(), signal.SIGKILL)
        """
    assert run(code, name).returncode == -signal.SIGKILL
    with named.attach(name) as old, named.create(name, SIZE, generation=2) as region:
        assert old.buffer[5000] == 1
        assert region.buffer[5000] == 0
        with named.attach(name) as again:
            assert again.generation == 2


def test_another_process_of_the_same_pid_is_not_the_creator(name):
    header = new_header(SIZE, kind=0, generation=0)
    older = header._replace(creator_start=header.creator_start - 1)
    write_raw(name, FIELDS.pack(*older).ljust(SIZE, b"\0"))
    named.create(name, SIZE).close()


CRASHED = [
    pytest.param(b"", id="before its first page"),
    pytest.param(bytes(100), id="in its first page"),
    pytest.param(bytes(SIZE), id="before its header"),
    pytest.param(
        FIELDS.pack(*new_header(SIZE, kind=0, generation=0)._replace(magic=0)).ljust(
            SIZE, b"\0"
        ),
        id="before its magic",
    ),
]


@pytest.mark.parametrize("content", CRASHED)
def test_a_creation_that_died_is_recovered(name, content):
    write_raw(name, content)
    with pytest.raises(LayoutError, match="create it again"):
        named.attach(name)
    with named.create(name, SIZE) as region:
        assert region.size == SIZE
        named.attach(name).close()


@pytest.mark.parametrize("step", ["reserve", "write_header", "locked"])
def test_killed_at_each_step_of_creation(name, step):
    code = """
        import os, signal, sys
        from rings import named
        def die(*args, **options):
            os.kill(os.getpid(), signal.SIGKILL)
        setattr(named, sys.argv[2], die)
        named.create(sys.argv[1], 12288)
        """
    assert run(code, name, step).returncode == -signal.SIGKILL
    assert os.path.exists(f"/dev/shm/{name}")
    with named.create(name, SIZE), named.attach(name):
        pass


def test_a_creation_under_way_is_busy_and_then_not(name):
    code = """
        import sys
        from rings import named
        fill = named.write_header
        def pause(*args):
            print("filling", flush=True)
            sys.stdin.readline()
            fill(*args)
        named.write_header = pause
        with named.create(sys.argv[1], 12288):
            print("created", flush=True)
            sys.stdin.readline()
        """
    creator = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), name],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    )  # fmt: skip
    with creator:
        assert creator.stdout.readline() == "filling\n"
        with pytest.raises(BusyError, match="try again"):
            named.attach(name)
        with pytest.raises(BusyError, match="try again"):
            named.create(name, SIZE)
        creator.stdin.write("\n")
        assert creator.stdout.readline() == "created\n"
        named.attach(name).close()
        with pytest.raises(BusyError, match=f"process {creator.pid}"):
            named.create(name, SIZE)
        creator.stdin.write("\n")
    named.create(name, SIZE).close()


def test_many_creators_of_one_stale_name_agree_on_one(name):
    write_raw(name, b"")
    code = """
        import sys
        from rings import BusyError, named
        sys.stdin.readline()
        try:
            region = named.create(sys.argv[1], 12288)
        except BusyError:
            print("busy", flush=True)
        else:
            print("mine", flush=True)
        sys.stdin.readline()
        """
    creators = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )
        for _ in range(4)
    ]  # fmt: skip
    for creator in creators:
        creator.stdin.write("\n")
    answers = [creator.stdout.readline() for creator in creators]
    for creator in creators:
        creator.communicate("\n", timeout=HANG_S)
    assert answers.count("mine\n") == 1
    assert answers.count("busy\n") == 3


def test_a_name_lost_before_its_lock_is_made_again(name, monkeypatch):
    opened, lost = named.opened, []

    def lose_the_first(path, flags):
        fd = opened(path, flags)
        if not lost:
            lost.append(path)
            named.reclaim(path)
        return fd

    monkeypatch.setattr(named, "opened", lose_the_first)
    with named.create(name, SIZE) as region, named.attach(name) as other:
        region.buffer[5000] = 4
        assert other.buffer[5000] == 4


def test_a_name_that_changed_hands_is_not_removed(name, monkeypatch):
    write_raw(name, b"")
    check, regions = named.check_owner, []

    def change_hands(path, fd):
        check(path, fd)
        if not regions:
            posix_ipc.unlink_shared_memory(path)
            regions.append(named.create(name, SIZE))

    monkeypatch.setattr(named, "check_owner", change_hands)
    with pytest.raises(BusyError, match="alive"):
        named.create(name, SIZE)
    named.attach(name).close()
    regions[0].close()


def test_memory_that_is_no_region_is_left_alone(name):
    write_raw(name, b"somebody else's data".ljust(SIZE, b"."))
    with pytest.raises(LayoutError, match="magic"):
        named.attach(name)
    with pytest.raises(LayoutError, match="choose another name"):
        named.create(name, SIZE)
    with open(f"/dev/shm/{name}", "rb") as file:
        assert file.read(8) == b"somebody"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_another_users_memory_is_a_trap(name):
    header = Header(*new_header(SIZE, kind=0, generation=0))
    write_raw(name, FIELDS.pack(*header).ljust(SIZE, b"\0"))
    os.chown(f"/dev/shm/{name}", 65534, 65534)
    for use in (named.attach, lambda name: named.create(name, SIZE)):
        with pytest.raises(LayoutError, match="belongs to user 65534"):
            use(name)


@pytest.mark.parametrize("bad", ["", "/", "a/b", "..", "a" * 201, "é", "a b", "//a"])
def test_impossible_names(bad):
    with pytest.raises(ValueError, match="no name for a region"):
        named.create(bad, SIZE)


def test_without_posix_ipc_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "posix_ipc", None)
    with pytest.raises(ImportError, match="pip install"):
        named.create("x", SIZE)


def test_no_resource_tracker_is_started(name):
    child = run(
        """
        import sys
        from rings import named
        named.create(sys.argv[1], 12288).close()
        assert "multiprocessing.resource_tracker" not in sys.modules
        named.unlink(sys.argv[1])
        """,
        name,
    )
    assert (child.returncode, child.stderr) == (0, "")


SMALL = """
    mount -t tmpfs -o size=64k rings-test /dev/shm &&
    exec "$0" -c '
import os
from rings import RegionMemoryError, named
try:
    named.create("small", 1 << 20)
except RegionMemoryError as error:
    print(error)
print(os.listdir("/dev/shm"))
first = named.create("first", 40960)
try:
    named.create("second", 40960)
except RegionMemoryError as error:
    print(error)
print(os.listdir("/dev/shm"))
from rings import reserve
room, answers = reserve.mount_room, [reserve.Room(1 << 40, "", "")]
reserve.mount_room = lambda path: answers.pop() if answers else room(path)
try:
    named.create("third", 40960)
except RegionMemoryError as error:
    print(error)
print(os.listdir("/dev/shm"))
'
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare"
)
def test_a_full_mount_is_an_exception_and_never_a_signal():
    child = subprocess.run(
        ["unshare", "-m", "sh", "-c", SMALL, sys.executable],
        capture_output=True, text=True, timeout=HANG_S,
    )  # fmt: skip
    if "mount" in child.stderr or "unshare" in child.stderr:
        pytest.skip(child.stderr)
    assert child.returncode == 0, child.stderr
    lines = child.stdout.splitlines()
    assert "1048576 bytes" in lines[0]
    assert "/dev/shm has 65536 bytes free" in lines[0]
    assert "--shm-size" in lines[0]
    assert lines[1] == "[]"
    assert "/dev/shm has 24576 bytes free" in lines[2]
    assert lines[3] == "['first']"
    assert lines[4].startswith("cannot reserve 40960 bytes")
    assert "/dev/shm has 24576 bytes free" in lines[4]
    assert lines[5] == "['first']"
