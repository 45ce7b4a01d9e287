"""The one form that control messages have on the wire, checked on the way in.

A packet of the SOCK_SEQPACKET socket is 16 bytes {magic u32, version u16,
type u16, length u32, reserved u32 = 0} and one JSON object of `length` bytes in
UTF-8, at most 8192 bytes together.  The object has exactly the keys of the
message, each of its type and within its bounds: the peer is not trusted, and
whatever else it sends is a `RemoteProtocolError`.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Final, NoReturn, TypeAlias

from .errors import LayoutError, LocalProtocolError, RemoteProtocolError
from .messages import (
    Closed,
    Closing,
    Connected,
    DeviceFacts,
    Error,
    Hello,
    Message,
    Offer,
    Ready,
    Reconfigure,
    Reconfigured,
    Setup,
    Stat,
    StatReply,
    Switched,
    Unchanged,
)

MAGIC: Final = 0x31474E52  # b"RNG1"
VERSION: Final = 1
HEADER: Final = struct.Struct("=IHHII")
MAX_PACKET: Final = 8192
U32: Final = (1 << 32) - 1
U64: Final = (1 << 64) - 1
NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
MAX_TEXT: Final = 512
MAX_STAT_TEXT: Final = 3500  # doubled by escapes at worst, it still fits a packet

Check: TypeAlias = Callable[[Any], Any]


def plain_text(text: str) -> str:
    """Return any text cut and escaped to what a packet can carry."""
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _refuse(what: str) -> NoReturn:
    raise RemoteProtocolError(f"control packet refused: {what}")


def _number(limit: int) -> Check:
    def check(value: Any) -> int:
        if type(value) is not int or not 0 <= value <= limit:
            _refuse(f"wanted a number in 0..{limit}")
        return value

    return check


def _text(limit: int) -> Check:
    def check(value: Any) -> str:
        if type(value) is not str or len(value) > limit or _has_surrogate(value):
            _refuse(f"wanted a text of at most {limit} characters")
        return value

    return check


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _name(value: Any) -> str:
    if type(value) is not str or not NAME.fullmatch(value):
        _refuse("wanted a name of 1 to 64 characters out of A-Z a-z 0-9 . _ -")
    return value


def _names(value: Any) -> tuple[str, ...]:
    if type(value) is not list or len(value) > 32:
        _refuse("wanted a list of at most 32 names")
    return tuple(map(_name, value))


def _numbers(value: Any) -> Mapping[str, int]:
    if type(value) is not dict or len(value) > 16:
        _refuse("wanted an object of at most 16 numbers")
    return {_name(key): _number(U64)(number) for key, number in value.items()}


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        _refuse("wanted true or false")
    return value


def _device(value: Any) -> DeviceFacts:
    return DeviceFacts(**_checked(value, DEVICE_FIELDS, "device"))


DEVICE_FIELDS: Final[dict[str, Check]] = {
    "name": _name,
    "kind": _name,
    "size": _number(U64),
    "block_size": _number(U32),
    "read_only": _flag,
    "direct": _flag,
    "ops": _names,
}

# Every message: its type on the wire and what each of its keys must be.
MESSAGES: Final[dict[int, tuple[type[Message], dict[str, Check]]]] = {
    1: (Hello, {"device": _name, "features": _names}),
    2: (Offer, {"features": _names, "limits": _numbers, "device": _device}),
    3: (
        Setup,
        {
            "features": _names,
            "ring_layout": _number(U32),
            "protocol": _number(U32),
            "slots": _number(U32),
            "grants": _number(U32),
            "data_size": _number(U64),
            "start": _number(U32),
        },
    ),
    4: (Ready, {"geometry": _numbers, "generation": _number(U64)}),
    5: (Connected, {}),
    6: (Closing, {"reason": _text(MAX_TEXT)}),
    7: (Closed, {}),
    8: (Error, {"code": _name, "message": _text(MAX_TEXT)}),
    9: (Stat, {"offset": _number(U32)}),
    10: (
        StatReply,
        {"offset": _number(U32), "total": _number(U32), "text": _text(MAX_STAT_TEXT)},
    ),
    11: (Reconfigure, {"slots": _number(U32), "start": _number(U32)}),
    12: (Reconfigured, {"geometry": _numbers, "generation": _number(U64)}),
    13: (Switched, {}),
    14: (Unchanged, {"code": _name, "message": _text(MAX_TEXT)}),
}
TYPE_NUMBERS: Final = {cls: number for number, (cls, _) in MESSAGES.items()}


def encode(message: Message) -> bytes:
    """Return the packet that carries `message`.

    Raises:
        LocalProtocolError: It would be longer than a packet may be.
    """
    body = json.dumps(message, default=_plain, separators=(",", ":")).encode()
    if HEADER.size + len(body) > MAX_PACKET:
        raise LocalProtocolError(
            f"{type(message).__name__} needs {HEADER.size + len(body)} bytes; "
            f"a control packet has at most {MAX_PACKET}"
        )
    number = TYPE_NUMBERS[type(message)]
    return HEADER.pack(MAGIC, VERSION, number, len(body), 0) + body


def decode(packet: bytes) -> Message:
    """Return the message in `packet`, which an untrusted peer has sent.

    Raises:
        LayoutError: It is of another version of this protocol.
        RemoteProtocolError: It is anything but one well-formed message.
    """
    number = _header(packet)
    if number not in MESSAGES:
        _refuse(f"message type {number} does not exist")
    cls, checks = MESSAGES[number]
    message: Message = cls(**_checked(_parse(packet), checks, cls.__name__))
    return message


def _header(packet: bytes) -> int:
    if not HEADER.size <= len(packet) <= MAX_PACKET:
        _refuse(f"{len(packet)} bytes; {HEADER.size} to {MAX_PACKET} are allowed")
    magic, version, number, length, reserved = HEADER.unpack_from(packet)
    if magic != MAGIC:
        _refuse(f"magic {magic:#x}; {MAGIC:#x} was expected")
    if version != VERSION:
        raise LayoutError(
            f"the peer speaks control protocol version {version}, this process "
            f"version {VERSION}; install the same release of rings on both ends"
        )
    if reserved or length != len(packet) - HEADER.size:
        _refuse("its header contradicts itself")
    return int(number)


def _parse(packet: bytes) -> Any:
    try:
        return _JSON.decode(packet[HEADER.size :].decode())
    except (ValueError, RecursionError) as error:
        _refuse(f"not the JSON we speak ({error})")


def _checked(value: Any, checks: dict[str, Check], what: str) -> dict[str, Any]:
    if type(value) is not dict or value.keys() != checks.keys():
        _refuse(f"{what} must have exactly the keys {sorted(checks)}")
    return {key: check(value[key]) for key, check in checks.items()}


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key twice")
    return value


def _integer(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError("a number too long")
    return int(digits)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is not a number here")


_JSON: Final = json.JSONDecoder(
    object_pairs_hook=_pairs,
    parse_int=_integer,
    parse_float=_no_constant,
    parse_constant=_no_constant,
)


def _plain(value: Any) -> Any:
    return {field.name: getattr(value, field.name) for field in fields(value)}
