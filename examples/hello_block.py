"""A worker reads a whole disk image through a ring, and its checksum is right.

The image is an ext4 file system if mke2fs is installed, else random bytes.  The
worker never opens it: it only knows the daemon's socket.

Prints::

    image          ... MiB of ...
    worker says    sha256 ...
    the file says  sha256 ..., equal
    frontend       ... requests, ... notifications, ... held off
    engine         ...
"""

import hashlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import daemons
import rings

IMAGE_SIZE = 64 << 20
CHUNK = 64 << 10
BATCH = 32


def make_image(path: Path) -> str:
    """Make an image of real content at `path`; return what is in it."""
    mke2fs = shutil.which("mke2fs", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if mke2fs is None:
        path.write_bytes(os.urandom(IMAGE_SIZE))
        return "random bytes (no mke2fs here)"
    content = path.parent / "content"
    shutil.copytree(Path(rings.__file__).parent, content)
    (content / "random").write_bytes(os.urandom(IMAGE_SIZE // 2))
    size = f"{IMAGE_SIZE >> 10}k"
    command = [mke2fs, "-q", "-F", "-t", "ext4", "-d", str(content), str(path), size]
    subprocess.run(command, check=True)
    return "ext4, made by mke2fs"


def checksum(address: str) -> tuple[str, rings.Statistics]:
    """In the worker: read the device from end to end, in batches."""
    digest = hashlib.sha256()
    with rings.connect(address) as connection, connection.block("disk0") as disk:
        for start in range(0, disk.size, BATCH * CHUNK):
            stop = min(start + BATCH * CHUNK, disk.size)
            wanted = [(offset, CHUNK) for offset in range(start, stop, CHUNK)]
            for data in disk.read_many(wanted):
                digest.update(data)
        return digest.hexdigest(), disk.statistics()


def main() -> int:
    """Serve the image, let a worker read it, compare."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "disk.img"
        kind = make_image(image)
        print(f"image          {image.stat().st_size >> 20} MiB of {kind}")
        spawn = multiprocessing.get_context("spawn")
        with daemons.spawn(image, name="disk0", read_only=True) as daemon:
            with ProcessPoolExecutor(1, mp_context=spawn) as workers:
                read, seen = workers.submit(checksum, daemon.address).result()
            engine = daemon.statistics()["engine"]
        real = hashlib.sha256(image.read_bytes()).hexdigest()
    verdict = "equal" if read == real else "DIFFERENT"
    print(f"worker says    sha256 {read}")
    print(f"the file says  sha256 {real}, {verdict}")
    print(
        f"frontend       {seen.requests} requests, {seen.notifications} notifications,"
        f" {seen.held_off} held off"
    )
    print(f"engine         {engine}")
    return 0 if read == real else 1


if __name__ == "__main__":
    sys.exit(main())
