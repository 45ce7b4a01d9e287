"""A front compiled from Xen's own headers, served by the daemon: blkif in the ring."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import daemons
from rings import layout
from rings.rendezvous import Session, open_session

from .served import ENGINES, HANG_S, require, ring

SOURCE = Path(__file__).with_name("xen_peer") / "xen_front_peer.c"
FLAGS = ["-std=gnu11", "-O2", "-fno-strict-aliasing"]
SECTORS = 1024
SHAPES = [(32, 0), (32, 2**31 - 2), (32, 2**32 - 2), (64, 2**32 - 70), (512, 2**32 - 2)]

pytestmark = [
    pytest.mark.skipif(
        not Path("/usr/include/xen/io/ring.h").exists(),
        reason="needs Debian's libxen-dev",
    ),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc"),
]


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("xen") / "front"
    subprocess.run(["gcc", *FLAGS, "-o", str(program), str(SOURCE)], check=True)
    return program


@pytest.fixture(scope="module", params=ENGINES)
def daemon(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[daemons.Daemon]:
    path = tmp_path_factory.mktemp("xen_daemon") / "disk.img"
    path.write_bytes(random.Random(6).randbytes(SECTORS * 512))
    with daemons.spawn(
        image=path, engine=require(request.param), timeout=HANG_S
    ) as daemon:
        yield daemon


def run(front: Path, session: Session, **more: int) -> subprocess.CompletedProcess[str]:
    shape = session.geometry
    fds = session.region.fd, session.channel.notify_fd, session.channel.fileno()
    numbers = {
        "memfd": fds[0],
        "kick-fd": fds[1],
        "call-fd": fds[2],
        "ring-offset": shape.ring_offset,
        "slots": shape.slots,
        "data-offset": shape.data_offset,
        "data-pages": shape.data_size // layout.PAGE,
        "start": shape.start,
        "sectors": SECTORS,
        **more,
    }
    words = [f"--{name}={value}" for name, value in numbers.items()]
    return subprocess.run(
        [str(front), *words],
        pass_fds=fds,
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )


@pytest.mark.parametrize(("slots", "start"), SHAPES)
def test_xens_front_is_served(
    front: Path, daemon: daemons.Daemon, slots: int, start: int
) -> None:
    with open_session(
        daemon.address,
        "disk0",
        slots=slots,
        start=start,
        ring_layout=layout.XEN,
        protocol=layout.PROTOCOL_BLKIF,
        data_size=256 * layout.PAGE,
    ) as session:
        assert session.geometry.slot_size == layout.BLKIF_SLOT_SIZE
        done = run(front, session, ops=1500, seed=slots, indirect=1)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        counted = ring(daemon.address)
    asked = told["reads"] + told["writes"] + told["flushes"] + told["discards"]
    assert counted["requests"] == counted["responses"] == asked == 1500 + SECTORS // 8
    assert counted["errors"] == counted["in_flight"] == 0
    assert min(told["indirect"], told["flushes"], told["discards"]) > 0
    assert told["verified"] > 1 << 20


def test_control_a_changed_image_is_noticed(
    front: Path, daemon: daemons.Daemon, tmp_path: Path
) -> None:
    """Two fronts write over one another's sectors: at least one must notice."""
    options = {
        "slots": 32,
        "ring_layout": layout.XEN,
        "protocol": layout.PROTOCOL_BLKIF,
        "data_size": 256 * layout.PAGE,
    }
    from concurrent.futures import ThreadPoolExecutor

    with (
        open_session(daemon.address, "disk0", **options) as one,
        open_session(daemon.address, "disk0", **options) as two,
        ThreadPoolExecutor(2) as pool,
    ):
        runs = [
            pool.submit(run, front, session, ops=20000, seed=seed)
            for seed, session in enumerate((one, two), 1)
        ]
        codes = [each.result(HANG_S).returncode for each in runs]
    assert 1 in codes
