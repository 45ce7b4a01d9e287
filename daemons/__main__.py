"""`python -m daemons block --image disk.img`: serve, drain, end.

The order at the start is deliberate, so that confinement can be slotted in: parse,
open the images, bind, start the engine, and only then accept.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from types import FrameType
from typing import Final, NoReturn

from rings.address import default_address
from rings.codec import NAME
from rings.errors import RingError

from . import devices, supervisor
from .device import Device
from .endings import explained
from .listener import Listener
from .log import Log, log_to
from .options import limits, parse
from .server import Server

EXIT_USAGE: Final = 2
EXIT_UNDRAINED: Final = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon; return its exit code."""
    options = parse(argv)
    log = log_to(sys.stderr, options.log_level)
    with ExitStack() as stack:
        try:
            server = _prepare(options, log, stack)
        except (RingError, OSError, ValueError) as error:
            print(f"ringsd: {explained(error)}", file=sys.stderr)
            return EXIT_USAGE
        _obey_signals(server, stack)
        _tell_ready(options, server, log)
        server.run()
        log.info("stopped", drained=server.drained)
        if not server.drained:
            _leave(server, EXIT_UNDRAINED)
    return 0


def _leave(server: Server, code: int) -> NoReturn:
    """End at once; requests may still be in flight in memory we must not unmap."""
    server.listener.close()
    sys.stderr.flush()
    os._exit(code)


def _prepare(options: argparse.Namespace, log: Log, stack: ExitStack) -> Server:
    from .engine import Engine

    listener = _listen(options, log)
    stack.callback(listener.close)
    served = _open_devices(options, stack)
    engine = Engine(options.engine, spin_us=options.spin_us)
    engine.start()
    stack.callback(engine.stop)
    server = Server(
        listener,
        served,
        engine,
        log=log,
        limits=limits(options),
        allow_uids=options.allow_uid,
        hello_timeout=options.hello_timeout,
        drain_timeout=options.drain_timeout,
    )
    stack.callback(server.close)
    if options.exit_with is not None:
        _watch_parent(server, options.exit_with, stack)
    return server


def _listen(options: argparse.Namespace, log: Log) -> Listener:
    others = {*options.allow_uid} - {0, os.geteuid()}
    listener = Listener(options.socket or default_address(), shared=bool(others))
    if listener.reclaimed:
        log.warning("reclaimed", socket=listener.path, of="a dead daemon")
    return listener


def _open_devices(options: argparse.Namespace, stack: ExitStack) -> list[Device]:
    served: dict[str, Device] = {}
    for device in _devices(options):
        stack.callback(devices.close, device)
        if device.name in served:
            raise ValueError(
                f"two devices are called {device.name}; name them: --image NAME=PATH"
            )
        served[device.name] = device
    return list(served.values())


def _devices(options: argparse.Namespace) -> Iterator[Device]:
    if options.kind == "echo":
        yield devices.echo(options.name)
    elif options.kind == "null":
        yield devices.null(options.name, options.size)
    elif options.kind == "delay":
        yield devices.delay(
            options.name,
            servers=options.servers,
            service_ns=options.service_time,
            distribution=options.distribution,
            seed=options.seed,
            size=options.size,
        )
    elif options.kind == "python":
        yield devices.python(options.name, devices.load_backend(options.backend))
    else:
        yield from _images(options)


def _images(options: argparse.Namespace) -> Iterator[Device]:
    if options.name and len(options.image) > 1:
        raise ValueError("--name is for a single image; use --image NAME=PATH for each")
    for number, image in enumerate(options.image):
        name, path = _split(image)
        yield devices.open_block(
            name or options.name or f"disk{number}",
            path,
            read_only=options.read_only,
            direct=options.direct,
            block_size=options.block_size,
        )


def _split(image: str) -> tuple[str, str]:
    """Return name and path of `NAME=PATH`; a path alone may contain `=` as well."""
    name, equals, path = image.partition("=")
    return (name, path) if equals and NAME.fullmatch(name) else ("", image)


def _obey_signals(server: Server, stack: ExitStack) -> None:
    """Drain at the first SIGTERM or SIGINT, end at once at the second."""
    seen: list[int] = []

    def obey(number: int, _: FrameType | None) -> None:
        seen.append(number)
        if len(seen) > 1:
            _leave(server, 128 + number)
        supervisor.tell(supervisor.STOPPING)
        server.stop()

    stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(server.loop.wake_fd))
    for number in (signal.SIGTERM, signal.SIGINT):
        stack.callback(signal.signal, number, signal.signal(number, obey))


def _watch_parent(server: Server, pid: int, stack: ExitStack) -> None:
    if os.getppid() != pid:
        raise ProcessLookupError(f"pid {pid}, with which to end, is not the parent")
    pidfd = os.pidfd_open(pid)
    stack.callback(os.close, pidfd)
    server.loop.watch(pidfd, partial(_leave, server, EXIT_UNDRAINED))


def _tell_ready(options: argparse.Namespace, server: Server, log: Log) -> None:
    for device in server.devices.values():
        size = f" ({device.size} bytes)" if device.size else ""
        log.info(
            f"serving {device.name}{size} on {server.listener.path} with engine "
            f"{server.engine.name}",
        )
    if server.engine.why:
        log.warning("engine", name=server.engine.name, why=server.engine.why)
    supervisor.tell(supervisor.READY)
    if options.ready_fd is not None:
        os.write(options.ready_fd, b"1\n")
        os.close(options.ready_fd)


if __name__ == "__main__":
    sys.exit(main())
