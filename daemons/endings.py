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

CODES: Final[dict[type[Exception], str]] = {
    RemoteProtocolError: "protocol",
    LayoutError: "version",
    BusyError: "limit",
    RegionMemoryError: "memory",
}


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


def error_code(error: Exception) -> str:
    """Return the code by which a client is told of an error."""
    if isinstance(error, Refused):
        return error.code
    return CODES.get(type(error), "failed")


def error_message(error: Exception) -> Error:
    """Return the message by which a client is told of an error."""
    return Error(error_code(error), plain_text(str(error) or type(error).__name__))
