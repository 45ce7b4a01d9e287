"""What a stress test is run against: `null`, `delay:K=100,S=5ms`, `file:PATH`."""

from __future__ import annotations

import os
from typing import Any, Final, NamedTuple

from .. import units

KINDS: Final = ("null", "delay", "file")
FORMS: Final = "null, delay:K=100,S=5ms[,exponential], file or file:PATH"
NAME: Final = "stress0"
IMAGE_SIZE: Final = 64 << 20


class Device(NamedTuple):
    """A device, as the sweep names it.

    Attributes:
        kind: ``null``, ``delay`` or ``file``.
        servers: How many requests a `delay` works on at once.
        service_s: For how long each.
        variability: ``fixed`` or ``exponential``.
        path: Of the file; empty: one made for the time of the sweep.
    """

    kind: str
    servers: int | None = None
    service_s: float | None = None
    variability: str = "fixed"
    path: str = ""

    def __str__(self) -> str:
        if self.kind == "file":
            return f"file:{self.path}" if self.path else "file"
        if self.servers is None or self.service_s is None:
            return self.kind
        served = f"delay:K={self.servers},S={units.show_s(self.service_s)}"
        more = "" if self.variability == "fixed" else f",{self.variability}"
        return served.replace(" ", "") + more

    def most_per_s(self, in_flight: int) -> float | None:
        """Return the rate that Little's law allows, None where it sets no bound."""
        if self.servers is None or self.service_s is None:
            return None
        return min(in_flight, self.servers) / self.service_s

    def spawn_options(self, scratch: str) -> dict[str, Any]:
        """Return what `daemons.spawn` wants, with a file in `scratch` if need be."""
        if self.kind == "file":
            image = self.path or _image(scratch)
            return {"image": image, "name": NAME, "read_only": True}
        if self.kind == "null":
            return {"kind": "null", "name": NAME}
        return {
            "kind": "delay",
            "name": NAME,
            "servers": self.servers,
            "service_time": f"{round((self.service_s or 0) * 1e9)}ns",
            "distribution": self.variability,
        }


NULL: Final = Device("null")


def parse(text: str) -> Device:
    """Return the device that `text` names.

    Raises:
        ValueError: It names none.
    """
    kind, _, rest = text.partition(":")
    if kind == "file":
        return Device("file", path=rest)
    if kind == "null" and not rest:
        return Device("null")
    if kind == "delay":
        return _delay(text, rest)
    raise ValueError(f"{text!r} is no device: write {FORMS}")


def _delay(text: str, rest: str) -> Device:
    parts = [part.partition("=") for part in rest.split(",") if part]
    words = {name if eq else "variability": value or name for name, eq, value in parts}
    try:
        servers, service_s = int(words.pop("K")), units.seconds(words.pop("S"))
    except (KeyError, ValueError):
        raise ValueError(f"{text!r} is no device: write {FORMS}") from None
    variability = words.pop("variability", "fixed")
    if words or variability not in ("fixed", "exponential"):
        raise ValueError(f"{text!r} is no device: write {FORMS}")
    if servers < 1 or service_s <= 0:
        raise ValueError(f"{text!r}: K must be at least 1, and S above 0")
    return Device("delay", servers, service_s, variability)


def _image(scratch: str) -> str:
    path = os.path.join(scratch, "stress.img")
    if not os.path.exists(path):
        with open(path, "wb") as image:
            for _ in range(IMAGE_SIZE >> 20):
                image.write(os.urandom(1 << 20))
    return path
