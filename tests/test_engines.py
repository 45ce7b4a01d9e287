"""One behaviour, three engines: what a frontend asks and what it is answered."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import random
import shutil
import subprocess
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import daemons
import rings
from rings import layout
from rings.block import Block
from rings.ranges import SEGMENT
from rings.requester import REQUEST

from .served import ENGINES, HANG_S, raises, require, ring

SIZE = 8 << 20
BLOCK = 512
U64 = 2**64
KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return require(request.param)


@pytest.fixture(scope="module")
def image(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(engine) / "disk.img"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    path.with_name("cut.img").write_bytes(bytes(64 * KIB))
    return path


@pytest.fixture(scope="module")
def address(engine: str, image: Path) -> Iterator[str]:
    images = [f"disk0={image}", f"cut={image.with_name('cut.img')}"]
    with daemons.spawn(image=images, engine=engine, timeout=HANG_S) as daemon:
        yield daemon.address


@pytest.fixture
def disk(address: str) -> Iterator[Block]:
    with rings.connect(address).block("disk0", data_size=8 << 20) as block:
        yield block


# -- whole operations ----------------------------------------------------------

SIZES = [
    BLOCK,
    4 * KIB,
    64 * KIB - BLOCK,
    64 * KIB,
    64 * KIB + BLOCK,
    MIB,
    MIB + BLOCK,
    3 * MIB + 5 * BLOCK,
]


@pytest.mark.parametrize("size", SIZES)
def test_what_was_written_is_read(disk: Block, image: Path, size: int) -> None:
    data = random.Random(size).randbytes(size)
    before, after = 7 * BLOCK, SIZE - 7 * BLOCK - size
    for offset in (before, after):
        margin = disk.read(offset - BLOCK, BLOCK), disk.read(offset + size, BLOCK)
        assert disk.write(offset, data) == size
        assert disk.read(offset, size) == data
        out = bytearray(size)
        assert disk.readinto(out, offset) == size
        assert out == data
        with image.open("rb") as file:
            file.seek(offset - BLOCK)
            assert file.read(size + 2 * BLOCK) == margin[0] + data + margin[1]


@pytest.mark.parametrize("size", SIZES)
def test_grants_move_in_place(disk: Block, size: int) -> None:
    data = random.Random(size + 1).randbytes(size)
    with disk.pool.alloc(size) as source, disk.pool.alloc(size) as target:
        with source.view() as view:
            view[:] = data
        assert disk.write(BLOCK, source) == size
        assert disk.readinto(target, BLOCK) == size
        with target.view() as view:
            assert view == data
        assert source.pins == target.pins == 0


def test_buffers_of_any_kind(disk: Block) -> None:
    numbers = array("Q", range(1024))
    assert disk.write(0, numbers) == 8192
    out = array("Q", bytes(8192))
    assert disk.readinto(memoryview(out), 0) == 8192
    assert out == numbers
    with pytest.raises((TypeError, BufferError)):
        disk.readinto(b"read-only" * 512, 0)


@pytest.mark.parametrize("what", ["discard", "write_zeroes"])
def test_bytes_are_made_zero(disk: Block, image: Path, what: str) -> None:
    disk.write(64 * KIB, b"\xff" * (64 * KIB))
    getattr(disk, what)(68 * KIB, 9 * BLOCK)
    expected = bytearray(b"\xff" * (64 * KIB))
    expected[4 * KIB : 4 * KIB + 9 * BLOCK] = bytes(9 * BLOCK)
    assert disk.read(64 * KIB, 64 * KIB) == expected
    assert image.stat().st_size == SIZE


def test_flush(disk: Block) -> None:
    disk.write(0, b"x" * BLOCK)
    disk.flush()
    assert disk.submit_flush().result(HANG_S) == 0


# -- refusals ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (SIZE, BLOCK),
        (SIZE - BLOCK, 2 * BLOCK),
        (SIZE - MIB, MIB + BLOCK),
        (2**63, BLOCK),
        (U64 - BLOCK, BLOCK),
        (U64 - BLOCK, 2 * BLOCK),
    ],
)
def test_the_end_of_the_device(disk: Block, offset: int, length: int) -> None:
    untouched = disk.read(SIZE - BLOCK, BLOCK)
    for read in (disk.read, lambda at, size: disk.readinto(bytearray(size), at)):
        with raises(errno.ENXIO):
            read(offset, length)
    for change in (disk.discard, disk.write_zeroes):
        with raises(errno.ENOSPC):
            change(offset, length)
    if length <= 2 * BLOCK:
        with raises(errno.ENOSPC):
            disk.write(offset, b"!" * length)
        assert disk.read(SIZE - BLOCK, BLOCK) == untouched
    assert disk.statistics()["in_flight"] == 0


@pytest.mark.parametrize(("offset", "length"), [(1, BLOCK), (0, 1), (BLOCK, 700)])
def test_unaligned(disk: Block, offset: int, length: int) -> None:
    for ask in (disk.read, disk.discard, disk.write_zeroes):
        with raises(errno.EINVAL):
            ask(offset, length)
    with raises(errno.EINVAL):
        disk.write(offset, b"!" * length)


def test_empty(disk: Block) -> None:
    for ask in (disk.read, disk.discard, disk.write_zeroes):
        with raises(errno.EINVAL):
            ask(0, 0)
    with raises(errno.EINVAL):
        disk.write(0, b"")
    with disk.pool.alloc(BLOCK) as grant, pytest.raises(ValueError, match="0 bytes"):
        disk.submit_read(0, grant, length=0)


def test_read_only(engine: str, image: Path) -> None:
    other = image.with_name("fixed.img")
    other.write_bytes(b"fixed..." * 512)
    with (
        daemons.spawn(
            image=other, engine=engine, read_only=True, timeout=HANG_S
        ) as daemon,
        rings.connect(daemon.address).block("disk0") as disk,
    ):
        assert disk.read_only
        for change in (disk.discard, disk.write_zeroes):
            with raises(errno.EROFS):
                change(0, BLOCK)
        with raises(errno.EROFS):
            disk.write(0, b"!" * BLOCK)
        with disk.pool.alloc(BLOCK) as grant, raises(errno.EROFS):
            disk.write_many(array("Q", [0, BLOCK]), grant, length=BLOCK)
        disk.flush()
        assert disk.read(0, 4096) == b"fixed..." * 512
    assert other.read_bytes() == b"fixed..." * 512


def test_image_cut_short_under_the_daemon(address: str, image: Path) -> None:
    path = image.with_name("cut.img")
    with rings.connect(address).block("cut") as disk:
        os.truncate(path, 32 * KIB + BLOCK)
        for offset, length in ((60 * KIB, BLOCK), (32 * KIB, 2 * BLOCK), (0, 64 * KIB)):
            with raises(errno.EIO):
                disk.read(offset, length)
        assert disk.read(32 * KIB, BLOCK) == bytes(BLOCK)
        os.truncate(path, 64 * KIB)
        assert disk.read(0, 64 * KIB) == bytes(64 * KIB)


# -- what no honest frontend sends ---------------------------------------------


def ask(
    disk: Block,
    op: int,
    offset: int = 0,
    length: int = 0,
    *segments: tuple[int, int, int, int],
    flags: int = 0,
    count: int | None = None,
    reserved: int = 0,
) -> int:
    """Send the daemon these very bytes; return its answer."""
    count = len(segments) if count is None else count
    raw = REQUEST.pack(0, op, flags, count, reserved, offset, length)
    raw += b"".join(SEGMENT.pack(*segment) for segment in segments)
    raw = raw.ljust(layout.IO_REQUEST_SIZE, b"\0")
    return disk._requester.submit_raw(raw).result(HANG_S)


def test_forged_grants(disk: Block, image: Path) -> None:
    both = layout.RIGHT_DEVICE_READS | layout.RIGHT_DEVICE_WRITES
    before = disk.read(0, BLOCK)
    with (
        disk.pool.alloc(BLOCK, rights=both) as good,
        disk.pool.alloc(BLOCK, rights=layout.RIGHT_DEVICE_READS) as source,
        disk.pool.alloc(BLOCK, rights=layout.RIGHT_DEVICE_WRITES) as target,
    ):
        gone = disk.pool.alloc(BLOCK)
        gone.revoke()
        here = (good.gref, good.generation)
        grants = disk.session.geometry.grants
        forged = [
            ((grants, 1, 0, BLOCK), errno.EFAULT),
            ((layout.U32, 1, 0, BLOCK), errno.EFAULT),
            ((grants - 1, 0, 0, BLOCK), errno.EACCES),
            ((good.gref, good.generation + 1, 0, BLOCK), errno.EACCES),
            ((gone.gref, gone.generation, 0, BLOCK), errno.EACCES),
            ((*here, 1, BLOCK), errno.EFAULT),
            ((*here, BLOCK, BLOCK), errno.EFAULT),
            ((*here, layout.U32, BLOCK), errno.EFAULT),
            ((*here, 0, 0), errno.EFAULT),
        ]
        for segment, number in forged:
            for op in (layout.OP_READ, layout.OP_WRITE):
                with raises(number):
                    ask(disk, op, 0, BLOCK, segment)
        with raises(errno.EACCES):
            ask(
                disk, layout.OP_READ, 0, BLOCK, (source.gref, source.generation, 0, 512)
            )
        with raises(errno.EACCES):
            ask(
                disk,
                layout.OP_WRITE,
                0,
                BLOCK,
                (target.gref, target.generation, 0, 512),
            )
        assert ask(disk, layout.OP_READ, 0, BLOCK, (*here, 0, BLOCK)) == BLOCK
    assert disk.read(0, BLOCK) == before


def test_malformed_requests(disk: Block) -> None:
    with disk.pool.alloc(2 * MIB) as grant:
        whole = (grant.gref, grant.generation, 0, BLOCK)
        malformed = [
            {"segments": ()},
            {"segments": (whole,), "count": 3},
            {"segments": (whole,), "flags": 2},
            {"segments": (whole,), "reserved": 1},
            {"segments": (whole,), "flags": layout.IO_FLAG_INDIRECT, "count": 65},
            {"segments": (whole,), "flags": layout.IO_FLAG_INDIRECT, "count": 2},
            {"segments": (whole, whole)},
            {"segments": ((*whole[:3], 2 * MIB),), "length": 2 * MIB},
        ]
        for changes in malformed:
            given = {"segments": (), "length": BLOCK, **changes}
            segments, length = given.pop("segments"), given.pop("length")
            for op in (layout.OP_READ, layout.OP_WRITE):
                with raises(errno.EINVAL):
                    ask(disk, op, 0, length, *segments, **given)
        with raises(errno.EINVAL):
            ask(disk, layout.OP_FLUSH, 0, 0, whole)
        with raises(errno.EINVAL):
            ask(disk, layout.OP_DISCARD, 0, BLOCK, whole)


@pytest.mark.parametrize("op", [0, 8, 77, 255])
def test_unknown_operation(disk: Block, op: int) -> None:
    with raises(errno.EOPNOTSUPP):
        ask(disk, op, 0, BLOCK)


def test_a_disk_does_not_echo(disk: Block) -> None:
    with raises(errno.EOPNOTSUPP):
        ask(disk, layout.OP_ECHO, 0, 7)


# -- many blocks, many ranges --------------------------------------------------


@pytest.mark.parametrize("depth", [1, 8, 200])
@pytest.mark.parametrize("length", [BLOCK, 4 * KIB])
def test_many_blocks(disk: Block, depth: int, length: int) -> None:
    chance = random.Random(depth)
    places = chance.sample(range(SIZE // length), 300)
    offsets = array("Q", [place * length for place in places])
    data = chance.randbytes(300 * length)
    with disk.pool.alloc(300 * length) as grant:
        with grant.view() as view:
            view[:] = data
        assert disk.write_many(offsets, grant, length=length, depth=depth) == 300
        with grant.view() as view:
            view[:] = bytes(len(view))
        assert disk.read_many(offsets, grant, length=length, depth=depth) == 300
        with grant.view() as view:
            assert view == data
    for number, offset in enumerate(offsets):
        assert disk.read(offset, length) == data[number * length :][:length]


def test_a_window_is_used_round_and_round(disk: Block) -> None:
    disk.write(0, b"".join(bytes([n]) * BLOCK for n in range(100)))
    offsets = array("Q", [n * BLOCK for n in range(100)])
    with disk.pool.alloc(7 * BLOCK) as window:
        assert disk.read_many(offsets, window, length=BLOCK, depth=64) == 100
        with window.view() as view:
            for n in range(93, 100):
                assert view[n % 7 * BLOCK] == n


def test_many_stops_at_the_first_failure(disk: Block) -> None:
    offsets = array("Q", [*range(0, 50 * BLOCK, BLOCK), SIZE, *range(0, 25600, BLOCK)])
    with disk.pool.alloc(len(offsets) * BLOCK) as grant:
        with raises(errno.ENXIO):
            disk.read_many(offsets, grant, length=BLOCK, depth=8)
        assert grant.pins == 0
    assert disk.statistics()["in_flight"] == 0


@pytest.mark.parametrize("count", [1, 2, 3, 64])
def test_ranges(disk: Block, count: int) -> None:
    chance = random.Random(count)
    sizes = [chance.randrange(1, 5) * BLOCK - 7 * (n % 2) for n in range(count)]
    sizes[-1] += -sum(sizes) % BLOCK
    total = sum(sizes)
    data = chance.randbytes(total)
    with disk.pool.alloc(MIB) as first, disk.pool.alloc(MIB) as second:
        ranges, at = [], 0
        for number, size in enumerate(sizes):
            grant = (first, second)[number % 2]
            place = 4096 * number + number
            with grant.view() as view:
                view[place : place + size] = data[at : at + size]
            ranges.append((grant, place, size))
            at += size
        assert disk.submit_writev(BLOCK, ranges).result(HANG_S) == total
        assert disk.read(BLOCK, total) == data
        for grant in first, second:
            with grant.view() as view:
                view[:] = b"\xee" * MIB
        assert disk.submit_readv(BLOCK, ranges).result(HANG_S) == total
        at = 0
        for grant, place, size in ranges:
            with grant.view() as view:
                assert view[place : place + size] == data[at : at + size]
                assert view[place + size] == 0xEE
            at += size


def test_too_many_ranges(disk: Block) -> None:
    with disk.pool.alloc(65 * BLOCK) as grant:
        ranges = [(grant, n * BLOCK, BLOCK) for n in range(65)]
        for wrong in (ranges, []):
            with pytest.raises(ValueError, match="ranges"):
                disk.submit_readv(0, wrong)


def test_a_batch_is_one_notification(disk: Block, address: str) -> None:
    disk.write(0, b"".join(bytes([n]) * 4096 for n in range(64)))
    before = disk.statistics()["notifications"], ring(address)["requests"]
    with disk.pool.alloc(64 * 4096) as grant:
        with disk.batch() as batch:
            handles = [
                batch.submit_read(n * 4096, grant, at=n * 4096, length=4096)
                for n in range(64)
            ]
            assert disk.statistics()["in_flight"] == 64
            assert ring(address)["requests"] == before[1]
        assert [handle.result(HANG_S) for handle in handles] == [4096] * 64
        with grant.view() as view:
            assert bytes(view[::4096]) == bytes(range(64))
    assert disk.statistics()["notifications"] <= before[0] + 1
    assert grant.pins == 0


# -- other devices -------------------------------------------------------------


def test_null(engine: str) -> None:
    with (
        daemons.spawn(
            kind="null", size=1 << 40, engine=engine, timeout=HANG_S
        ) as daemon,
        rings.connect(daemon.address).block("null0") as disk,
    ):
        assert disk.size == 1 << 40
        assert disk.write(1 << 39, b"forgotten") == 9
        with disk.pool.alloc(4096) as grant:
            assert disk.readinto(grant, 12345) == 4096
            assert disk.submit_read(0, grant).result(HANG_S) == 4096
            assert disk.read_many(array("Q", range(500)), grant, length=64) == 500
        disk.flush()
        disk.discard(0, 1 << 40)
        with raises(errno.ENXIO):
            disk.read((1 << 40) - 1, 2)
        assert ask(disk, layout.OP_ECHO, 0, 99) == 99


def test_null_reads_zeroes(engine: str) -> None:
    with (
        daemons.spawn(kind="null", engine=engine, timeout=HANG_S) as daemon,
        rings.connect(daemon.address).block("null0", data_size=1 << 20) as disk,
    ):
        disk.write(0, b"\xff" * 4096)
        assert disk.read(0, 4096) == bytes(4096)


def test_echo(engine: str) -> None:
    with (
        daemons.spawn(kind="echo", engine=engine, timeout=HANG_S) as daemon,
        rings.connect(daemon.address).block("echo0") as disk,
    ):
        for length in (0, 1, 2**40, 2**63 - 1):
            assert ask(disk, layout.OP_ECHO, 5, length) == length
        with raises(errno.EINVAL):
            ask(disk, layout.OP_ECHO, 0, 0, (0, 0, 0, 1))
        with raises(errno.EOPNOTSUPP):
            disk.flush()


def test_direct(engine: str, image: Path) -> None:
    path = image.with_name("direct.img")
    data = random.Random(9).randbytes(4 * MIB)
    path.write_bytes(data)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_DIRECT))
    except OSError:
        pytest.skip("this file system has no O_DIRECT")
    with (
        daemons.spawn(image=path, engine=engine, direct=True, timeout=HANG_S) as daemon,
        rings.connect(daemon.address).block("disk0") as disk,
    ):
        assert disk.session.device.direct
        assert disk.read(0, 4 * MIB) == data
        disk.write(4096, data[: 3 * 4096])
        offsets = array("Q", range(0, 4 * MIB, 64 * KIB))
        with disk.pool.alloc(4096 * len(offsets)) as grant:
            disk.read_many(offsets, grant, length=4096)
        assert disk.read(4096, 3 * 4096) == data[: 3 * 4096]
        with raises(errno.EINVAL):
            disk.read(1, 4096)
    assert path.read_bytes()[4096 : 4 * 4096] == data[: 3 * 4096]


@pytest.mark.skipif(shutil.which("mke2fs") is None, reason="needs mke2fs")
def test_a_file_system_has_the_sum_of_its_file(engine: str, image: Path) -> None:
    path = image.with_name("ext4.img")
    command = ["mke2fs", "-q", "-F", "-t", "ext4", str(path), "16M"]
    subprocess.run(command, check=True, capture_output=True)
    wanted, found = hashlib.sha256(path.read_bytes()).hexdigest(), hashlib.sha256()
    with (
        daemons.spawn(
            image=path, engine=engine, read_only=True, timeout=HANG_S
        ) as daemon,
        rings.connect(daemon.address).block("disk0") as disk,
        disk.pool.alloc(MIB) as grant,
        grant.view() as view,
    ):
        for offset in range(0, disk.size, MIB):
            disk.readinto(grant, offset)
            found.update(view)
    assert found.hexdigest() == wanted


# -- any sequence, against a bytearray -----------------------------------------

SPAN = 64
blocks = st.integers(0, SPAN - 1)
counts = st.integers(1, 24)
step = st.one_of(
    st.tuples(st.sampled_from(["write", "write_grant", "writev"]), blocks, counts),
    st.tuples(st.sampled_from(["read", "read_grant", "readv"]), blocks, counts),
    st.tuples(st.sampled_from(["discard", "write_zeroes"]), blocks, counts),
    st.tuples(st.sampled_from(["write_many", "batch", "flush"]), blocks, counts),
)


class Model:
    """What the image must hold, and the steps that change and check it."""

    def __init__(self, disk: Block, content: bytes, seed: int) -> None:
        self.disk = disk
        self.content = bytearray(content)
        self.chance = random.Random(seed)

    def do(self, what: str, first: int, count: int) -> None:
        offset, size = first * BLOCK, min(count, SPAN - first) * BLOCK
        function: Callable[[int, int], None] = getattr(self, what)
        function(offset, size)

    def fresh(self, offset: int, size: int) -> bytes:
        data = self.chance.randbytes(size)
        self.content[offset : offset + size] = data
        return data

    def write(self, offset: int, size: int) -> None:
        self.disk.write(offset, self.fresh(offset, size))

    def write_grant(self, offset: int, size: int) -> None:
        with self.disk.pool.alloc(size) as grant:
            with grant.view() as view:
                view[:] = self.fresh(offset, size)
            self.disk.write(offset, grant)

    def split(self, size: int) -> list[int]:
        cuts = sorted({self.chance.randrange(size) for _ in range(5)} | {0, size})
        return [high - low for low, high in itertools.pairwise(cuts)]

    def writev(self, offset: int, size: int) -> None:
        with self.disk.pool.alloc(size) as grant:
            with grant.view() as view:
                view[:] = self.fresh(offset, size)
            ranges, at = [], 0
            for part in self.split(size):
                ranges.append((grant, at, part))
                at += part
            self.disk.submit_writev(offset, ranges).result(HANG_S)

    def read(self, offset: int, size: int) -> None:
        assert self.disk.read(offset, size) == self.content[offset : offset + size]

    def read_grant(self, offset: int, size: int) -> None:
        with self.disk.pool.alloc(size) as grant:
            self.disk.readinto(grant, offset)
            with grant.view() as view:
                assert view == self.content[offset : offset + size]

    def readv(self, offset: int, size: int) -> None:
        with self.disk.pool.alloc(2 * size + 4096) as grant:
            ranges, at, place = [], 0, 0
            for part in self.split(size):
                ranges.append((grant, place, part))
                place += part + self.chance.randrange(2) * 16
            self.disk.submit_readv(offset, ranges).result(HANG_S)
            with grant.view() as view:
                for _, place, part in ranges:
                    expected = self.content[offset + at : offset + at + part]
                    assert view[place : place + part] == expected
                    at += part

    def discard(self, offset: int, size: int) -> None:
        self.content[offset : offset + size] = bytes(size)
        self.disk.discard(offset, size)

    def write_zeroes(self, offset: int, size: int) -> None:
        self.content[offset : offset + size] = bytes(size)
        self.disk.write_zeroes(offset, size)

    def flush(self, offset: int, size: int) -> None:
        self.disk.flush()

    def write_many(self, offset: int, size: int) -> None:
        offsets = array("Q", range(offset, offset + size, BLOCK))
        with self.disk.pool.alloc(size) as grant:
            with grant.view() as view:
                view[:] = self.fresh(offset, size)
            self.disk.write_many(offsets, grant, length=BLOCK, depth=self.depth())
            self.disk.read_many(offsets, grant, length=BLOCK, depth=self.depth())
            with grant.view() as view:
                assert view == self.content[offset : offset + size]

    def depth(self) -> int:
        return self.chance.choice([1, 3, 16])

    def batch(self, offset: int, size: int) -> None:
        """Reads and writes in flight together, none over another."""
        with self.disk.pool.alloc(size) as grant:
            with self.disk.batch() as batch:
                handles = []
                for at in range(0, min(size, 4 * BLOCK), BLOCK):
                    if at % (2 * BLOCK):
                        handles.append(
                            batch.submit_read(offset + at, grant, at=at, length=BLOCK)
                        )
                        continue
                    with grant.view() as view:
                        view[at : at + BLOCK] = self.fresh(offset + at, BLOCK)
                    handles.append(
                        batch.submit_write(offset + at, grant, at=at, length=BLOCK)
                    )
            assert {handle.result(HANG_S) for handle in handles} == {BLOCK}
            with grant.view() as view:
                end = len(handles) * BLOCK
                assert view[:end] == self.content[offset : offset + end]


@pytest.mark.parametrize("kind", [layout.PADDED, layout.XEN], ids=["padded", "xen"])
@settings(max_examples=max(6, settings().max_examples // 6))
@given(steps=st.lists(step, min_size=1, max_size=25), seed=st.integers(0, 2**32))
def test_any_sequence_leaves_what_the_model_says(
    address: str,
    image: Path,
    kind: int,
    start: int,
    steps: list[tuple[str, int, int]],
    seed: int,
) -> None:
    connection = rings.connect(address)
    with connection.block("disk0", slots=4, ring_layout=kind, start=start) as disk:
        assert disk.session.geometry.slot_size == layout.IO_REQUEST_SIZE
        with image.open("rb") as file:
            model = Model(disk, file.read(SPAN * BLOCK), seed)
        for one in steps:
            model.do(*one)
        assert disk.statistics()["in_flight"] == 0
    with image.open("rb") as file:
        assert file.read(SPAN * BLOCK) == model.content
