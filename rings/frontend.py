"""The door for a worker: `connect` to a daemon, open its devices.

>>> disk = rings.connect().block("disk0")           # doctest: +SKIP
>>> disk.read(0, 4096)                              # doctest: +SKIP
"""

from __future__ import annotations

from functools import partial

from . import layout, rendezvous
from .block import Block
from .channel import BLOCK, Wait, parse
from .patience import Patience
from .rendezvous import DeviceFacts, default_address


class Connection:
    """A daemon that answers at an address.  Each device opened has its own session.

    Attributes:
        address: Path of the daemon's socket.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        timeout: float = 5.0,
        patience: float = 0.0,
    ) -> None:
        self.address = address or default_address()
        self._timeout = timeout
        self._patience = Patience(patience)
        self.devices()

    def devices(self) -> tuple[DeviceFacts, ...]:
        """Ask the daemon what it serves."""
        ask = partial(rendezvous.devices, self.address)
        return self._patience.ask(ask, self._timeout)

    def block(
        self,
        device: str,
        *,
        slots: int = 128,
        data_size: int = 4 << 20,
        grants: int = 1024,
        ring_layout: int = layout.PADDED,
        start: int = 0,
        wait: Wait | str = BLOCK,
        depth: int | str | None = None,
        timeout: float | None = None,
    ) -> Block:
        """Open a device.

        Args:
            device: Its name; see `devices`.
            slots: How many requests can be in flight; a power of two.
            data_size: Bytes of buffers to share with the device.
            grants: How many grants there can be at once.
            ring_layout: ``layout.PADDED`` or ``layout.XEN``.
            start: Index of the first request, for tests near the wrap.
            wait: A strategy, or its name: ``block``, ``spin:50``, ``busy``.
            depth: How many of the slots to use at most; "auto" to have it found
                while requests run: see docs/DEPTH.md.
            timeout: Seconds for the handshake; the connection's own by default.

        A connection outlives its daemon: ask for the same device again once its
        `Block` is broken.  With the patience of `connect` this waits for the next one.

        Raises:
            LookupError: The daemon has no such device.
            BusyError: A limit of the daemon is reached; the message says which.
            BrokenError: No daemon listens there any more.
            TimeoutError: It did not answer in time.
        """
        strategy = parse(wait) if isinstance(wait, str) else wait
        ask = partial(
            rendezvous.open_session,
            self.address,
            device,
            slots=slots,
            ring_layout=ring_layout,
            data_size=data_size,
            grants=grants,
            start=start,
        )
        session = self._patience.ask(ask, self._timeout if timeout is None else timeout)
        try:
            return Block(session, spin_us=strategy.spin_us, depth=depth)
        except BaseException:
            session.close()
            raise

    def __repr__(self) -> str:
        return f"<Connection to {self.address}>"


def connect(
    address: str | None = None, *, timeout: float = 5.0, patience: float = 0.0
) -> Connection:
    """Find the daemon at an address.

    Args:
        address: Path of its socket; by default ``$RINGS_SOCKET``, else the socket
            in ``$XDG_RUNTIME_DIR/rings``.
        timeout: Seconds for this and for each handshake.
        patience: Seconds to ask again, here and in `Connection.block`, while nobody
            listens there, or only a daemon that shuts down.  It comes back later than
            that only if ``timeout`` is longer.  Any other error is raised at once.

    Raises:
        BrokenError: No daemon listens there; the message says how to start one.
        PermissionError: It belongs to a user that this process does not trust.
        TimeoutError: It did not answer in time, all of the patience if that is longer.
        ValueError: That is no time to wait.
    """
    return Connection(address, timeout=timeout, patience=patience)
