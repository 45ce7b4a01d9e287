"""The daemon's command line."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import fields
from decimal import Decimal
from typing import Final

import rings

from .devices import DISTRIBUTIONS
from .limits import Limits, option
from .server import DRAIN_TIMEOUT_S, HELLO_TIMEOUT_S

ENGINES: Final = ("auto", "uring", "threads", "mock")
LEVELS: Final = ("debug", "info", "warning", "error")
PLACES: Final = "$RINGS_SOCKET, or rings/ringsd.sock in $XDG_RUNTIME_DIR"
MAX_SECONDS: Final = 1e6
UNITS_NS: Final = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}
TIME: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|ms|s)", re.ASCII)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; what is wrong with it ends the process."""
    return _parser().parse_args(argv)


def limits(options: argparse.Namespace) -> Limits:
    """Return the limits that the options set."""
    names = [field.name for field in fields(Limits)]
    return Limits(**{name: getattr(options, f"max_{name}") for name in names})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ringsd", description="Serve devices through rings in shared memory."
    )
    version = f"ringsd {rings.__version__}"
    parser.add_argument("--version", action="version", version=version)
    kinds = parser.add_subparsers(dest="kind", required=True)

    def add(kind: str, purpose: str, needs: str = "") -> argparse.ArgumentParser:
        usage = f"%(prog)s {needs}[options]   (%(prog)s --help lists them)"
        return kinds.add_parser(kind, usage=usage, help=purpose, description=purpose)

    _add_images(add("block", "serve files or block devices", "--image [NAME=]PATH "))
    add("echo", "serve a device that answers at once").set_defaults(name="echo0")
    null = add("null", "serve a device that forgets and reads zeroes")
    null.set_defaults(name="null0")
    purpose = "serve a null device that takes its time"
    delay = add("delay", purpose, "--servers K --service-time 5ms ")
    delay.set_defaults(name="delay0")
    for kind in (null, delay):
        size = "how large it is; by default %(default)s"
        kind.add_argument(
            "--size", type=_natural, default=1 << 40, metavar="BYTES", help=size
        )
    _add_servers(delay)
    python = add("python", "serve a daemons.Backend", "--backend MODULE:CLASS ")
    python.set_defaults(name="python0")
    python.add_argument(
        "--backend",
        required=True,
        metavar="MODULE:CLASS",
        help="a subclass of daemons.Backend, to be made without arguments",
    )
    for kind in kinds.choices.values():
        _add_common(kind)
        _add_times(kind)
        _add_limits(kind)
    return parser


def _add_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--image",
        action="append",
        required=True,
        metavar="[NAME=]PATH",
        help="a file or block device to serve; may be given several times",
    )
    parser.add_argument("--read-only", action="store_true", help="refuse writes")
    parser.add_argument("--direct", action="store_true", help="by-pass the page cache")
    parser.add_argument(
        "--block-size",
        type=int,
        metavar="BYTES",
        help="unit of offsets; by default 512 if the size is a multiple, else 1",
    )


def _add_servers(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--servers",
        type=_natural,
        required=True,
        metavar="K",
        help="how many requests are served at once, of all rings together",
    )
    add(
        "--service-time",
        type=_nanoseconds,
        required=True,
        metavar="TIME",
        help="how long each is held: 250us, 5ms, 1s",
    )
    add(
        "--distribution",
        choices=DISTRIBUTIONS,
        default=DISTRIBUTIONS[0],
        help="of the service time; by default %(default)s",
    )
    add("--seed", type=_natural, default=0, metavar="N", help="of exponential times")


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 up")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= MAX_SECONDS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of seconds above 0 and up to {MAX_SECONDS:g}"
        )
    return value


def _nanoseconds(text: str) -> int:
    parts = TIME.fullmatch(text)
    if parts is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time; write a number and one of {', '.join(UNITS_NS)}: 5ms"
        )
    return int(Decimal(parts[1]) * UNITS_NS[parts[2]])


def _open_fd(text: str) -> int:
    fd = _natural(text)
    try:
        os.fstat(fd)
    except OSError:
        raise argparse.ArgumentTypeError(
            f"{fd} is no open descriptor; have the parent pass it on"
        ) from None
    return fd


def _add_common(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--name", help="what frontends ask for")
    add("--socket", metavar="PATH", help=f"where to listen; by default {PLACES}")
    add(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="auto: io_uring, or threads where that is forbidden; mock: for tests",
    )
    add(
        "--spin-us",
        type=_natural,
        default=0,
        metavar="N",
        help="look at the rings for N microseconds before sleeping (0: sleep at once)",
    )
    add(
        "--allow-uid",
        type=_natural,
        action="append",
        default=[],
        metavar="UID",
        help="a user allowed beside this one and root; may be given several times",
    )
    add("--log-level", choices=LEVELS, default="info", help="by default %(default)s")
    add(
        "--ready-fd",
        type=_open_fd,
        metavar="FD",
        help="write a line there when accepting",
    )
    add("--exit-with", type=int, metavar="PID", help="end when the parent PID does")


def _add_times(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--hello-timeout",
        type=_seconds,
        default=HELLO_TIMEOUT_S,
        metavar="SECONDS",
        help="for a handshake; by default %(default)g",
    )
    add(
        "--drain-timeout",
        type=_seconds,
        default=DRAIN_TIMEOUT_S,
        metavar="SECONDS",
        help="for what is in flight at the end; by default %(default)g",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    limits = parser.add_argument_group("limits of a connection, a user, and in total")
    for field in fields(Limits):
        limits.add_argument(
            option(field.name),
            type=int,
            default=field.default,
            metavar="N",
            help="by default %(default)s",
        )
