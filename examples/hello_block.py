"""A worker reads a whole disk image through a ring, and its checksum is right.

The image is an ext4 file system if mke2fs is installed, else random bytes.  The
worker never opens it: it only knows the daemon's socket.

Prints::

    image          64 MiB of ...
    worker says    sha256 ...
    the file says  sha256 ... (equal)
    frontend       1024 requests, ... notifications, ... held off
    daemon         ... engine...
"""

import hashlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from array import array
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import daemons
import rings
from rings.rendezvous import query

IMAGE_SIZE = 64 << 20
CHUNK = 64 << 10
BATCH = 32
Counts = dict[str, int]


def make_image(path: Path) -> str:
    """Make an image of real content at `path`; return what is in it."""
    mke2fs = shutil.which("mke2fs", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if mke2fs is None:
        path.write_bytes(os.urandom(IMAGE_SIZE))
        return "random bytes (there is no mke2fs here)"
    content = path.parent / "content"
    shutil.copytree(Path(rings.__file__).parent, content)
    (content / "random").write_bytes(os.urandom(IMAGE_SIZE // 2))
    with path.open("wb") as image:
        image.truncate(IMAGE_SIZE)
    command = [mke2fs, "-q", "-F", "-t", "ext4", "-d", str(content), str(path)]
    subprocess.run(command, check=True)
    return "ext4, made by mke2fs"


def checksum(address: str) -> tuple[str, Counts]:
    """In the worker: read the device from end to end, a batch at a time."""
    digest = hashlib.sha256()
    disk = rings.connect(address).block("disk0")
    with disk, disk.pool.alloc(BATCH * CHUNK) as grant:
        for start in range(0, disk.size, BATCH * CHUNK):
            stop = min(start + BATCH * CHUNK, disk.size)
            offsets = array("Q", range(start, stop, CHUNK))
            disk.read_many(offsets, grant, length=CHUNK)
            with grant.view() as view:
                digest.update(view[: stop - start])
        return digest.hexdigest(), disk.statistics()


def read_in_a_worker(image: Path) -> tuple[str, Counts, dict[str, object]]:
    """Serve the image and let another process read it all."""
    spawn = multiprocessing.get_context("spawn")
    with daemons.spawn(image=image, name="disk0", read_only=True) as daemon:
        with ProcessPoolExecutor(1, mp_context=spawn) as workers:
            digest, counts = workers.submit(checksum, daemon.address).result()
        return digest, counts, query(daemon.address)["engine"]


def main() -> int:
    """Make an image, read it twice, compare."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "disk.img"
        kind = make_image(image)
        print(f"image          {image.stat().st_size >> 20} MiB of {kind}", flush=True)
        digest, counts, engine = read_in_a_worker(image)
        real = hashlib.sha256(image.read_bytes()).hexdigest()
    verdict = "equal" if digest == real else "DIFFERENT"
    print(f"worker says    sha256 {digest}")
    print(f"the file says  sha256 {real} ({verdict})")
    print(
        "frontend       {requests} requests, {notifications} notifications,"
        " {held_off} held off".format(**counts)
    )
    why = f" ({engine['why']})" if engine["why"] else ""
    print(f"daemon         {engine['name']} engine{why}, {engine['enters']} enters")
    return 0 if digest == real else 1


if __name__ == "__main__":
    sys.exit(main())
