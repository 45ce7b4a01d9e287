"""Why a connection ends, and what its client is told."""

from __future__ import annotations

from typing import Final

from rings.codec import plain_text
from rings.errors import (
    BusyError,
    LayoutError,
    RegionMemoryError,
    RemoteProtocolError,
    RingError,
)
from rings.messages import Error
from rings.peer import OUT_OF_FDS

CODES: Final[dict[type[Exception], str]] = {
    RemoteProtocolError: "protocol",
    LayoutError: "version",
    BusyError: "limit",
    RegionMemoryError: "memory",
}
MORE_FDS: Final = (
    "close sessions, or raise the daemon's RLIMIT_NOFILE (ulimit -n 4096, or "
    "LimitNOFILE=4096 in its unit)"
)


class Refused(RingError):
    """What the client asks for is not given.

    Attributes:
        code: Tells the client which kind of refusal it is.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Gone(RingError):
    """The client has died, hung up, or does not read."""


class Leaves(RingError):
    """The client has said `Closing`."""


def _lacks_fds(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in OUT_OF_FDS


def explained(error: Exception) -> str:
    """Say what an error is, and what to do about it if it does not say so itself."""
    text = str(error) or type(error).__name__
    return f"{text}; {MORE_FDS}" if _lacks_fds(error) else text


def error_code(error: Exception) -> str:
    """Return the code by which a client is told of an error."""
    if isinstance(error, Refused):
        return error.code
    return "limit" if _lacks_fds(error) else CODES.get(type(error), "failed")


def error_message(error: Exception) -> Error:
    """Return the message by which a client is told of an error."""
    return Error(error_code(error), plain_text(explained(error)))
