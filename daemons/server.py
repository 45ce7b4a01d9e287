"""The control plane: one thread, one selector, one step for each ready descriptor.

Nothing here waits for a client: sends do not block, a handshake has a deadline,
and what must wait for the engine (taking a ring out of service) has a thread of
its own that reports back through `post`.  The engine's thread and the signal
handlers come in the same way.

A session ends at the first of: its socket hangs up, its process dies, it breaks
the protocol, its ring is broken, its handshake takes too long.  Then its ring is
detached, and only when nothing is in flight any more its memory is unmapped.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from rings.errors import RingError
from rings.messages import Closed, Closing, Error, Message

from .client import Client, Service
from .detaching import Detaching
from .device import Device
from .door import Door
from .endings import Gone, Leaves, error_message
from .limits import Limits, Quota
from .listener import Listener
from .log import Log
from .loop import Loop
from .report import described, report, who
from .spec import EngineLike

HELLO_TIMEOUT_S: Final = 5.0
DRAIN_TIMEOUT_S: Final = 10.0
CANCEL_TIMEOUT_S: Final = 5.0


class Server:
    """Serves devices on one address until it is stopped.

    Args:
        listener: The socket to accept on; the caller closes it afterwards.
        devices: What is served; the caller closes them afterwards.
        engine: Does the work; the caller has started it, and stops it afterwards.
        log: Where events go.
        limits: What clients may use.
        allow_uids: Users allowed beside this one and root.
        hello_timeout: Seconds a client has until it is connected.
        drain_timeout: Seconds that requests have to be answered when a session closes;
            then they are cancelled.

    Attributes:
        listener: Where it accepts.
        loop: Runs the server's steps, and others that are watched or posted.
        drained: False once a session could not finish in the time it had; then the
            engine may still be at work in its memory.
        stuck: Clients whose rings could not be detached; their memory stays mapped.
    """

    def __init__(
        self,
        listener: Listener,
        devices: Iterable[Device],
        engine: EngineLike,
        *,
        log: Log,
        limits: Limits | None = None,
        allow_uids: Iterable[int] = (),
        hello_timeout: float = HELLO_TIMEOUT_S,
        drain_timeout: float = DRAIN_TIMEOUT_S,
    ) -> None:
        self.devices = {device.name: device for device in devices}
        self.engine = engine
        self.drained = True
        self._log = log
        self._allowed = frozenset({0, os.geteuid(), *allow_uids})
        self._hello_timeout = hello_timeout
        self._drain_timeout = drain_timeout
        self._quota = Quota(limits or Limits())
        self._service = Service(self.devices, engine, self._quota, self._report)
        self._clients: set[Client] = set()
        self._handshakes: dict[Client, float] = {}
        self._rings: dict[int, Client] = {}
        self.stuck: list[Client] = []
        self._accepted = 0
        self._stop_at: float | None = None
        self._since = time.monotonic()
        self.listener = listener
        self.loop = Loop()
        self._detaching = Detaching(engine, self.loop)
        self._door = Door(listener, self.loop, log, self._enter)
        engine.on_broken = self._on_broken

    def run(self) -> None:
        """Serve until `stop`, and until every session has ended or time is up."""
        while self._stop_at is None or self._clients:
            if self._stop_at is not None and time.monotonic() >= self._stop_at:
                self.drained = False
                break
            self.loop.turn(self._patience())
            self._expire()
        for client in self._clients:
            self._log.warning("undrained", session=client.number, **who(client))

    def stop(self) -> None:
        """Take no more clients, let the sessions finish.  For any thread."""
        self.loop.post(self._begin_stop)

    def close(self) -> None:
        """Drop every session at once and close the loop."""
        for client in tuple(self._clients):
            if not client.rings.numbers or self.drained:
                self._release(client, None)
        self._door.close()
        self.loop.close()

    # -- the loop's steps -----------------------------------------------------

    def _patience(self) -> float | None:
        """Return how long the loop may sleep."""
        moments = list(self._handshakes.values())[:1]
        if self._stop_at is not None:
            moments.append(self._stop_at)
        if self._door.opens_at is not None:
            moments.append(self._door.opens_at)
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _expire(self) -> None:
        now = time.monotonic()
        for client, deadline in tuple(self._handshakes.items()):
            if deadline > now:
                break
            text = f"no connection within {self._hello_timeout:g} s"
            self._retire(client, text, Error("late", text))
        self._door.open_when_due()

    def _enter(self, sock: socket.socket) -> None:
        self._accepted += 1
        try:
            client = Client(self._accepted, sock, self._service)
        except Gone as error:
            self._log.debug("vanished", session=self._accepted, reason=error)
            return
        self._admit(client)

    def _admit(self, client: Client) -> None:
        try:
            client.admit(self._allowed)
        except RingError as error:
            self._log.warning(
                "refused", session=client.number, **who(client), reason=error
            )
            client.farewell(error_message(error))
            client.release()
            return
        self._clients.add(client)
        self._handshakes[client] = client.since + self._hello_timeout
        self.loop.watch(
            client.socket.fileno(), partial(self._guarded, client, client.step)
        )
        if client.pidfd >= 0:
            self.loop.watch(client.pidfd, partial(self._retire, client, "died"))
        self._log.debug("accepted", session=client.number, **who(client))

    def _guarded(self, client: Client, step: Callable[[], None]) -> None:
        """Do something for a client; what goes wrong ends its session."""
        try:
            step()
        except Leaves as error:
            self._retire(client, str(error), Closed(), drain=True)
        except Gone as error:
            self._retire(client, str(error))
        except (RingError, OSError, ValueError) as error:
            self._retire(client, str(error), error_message(error))
        except Exception as error:
            self._log.error("failed", trace=True, session=client.number)
            self._retire(client, repr(error), error_message(error))
        else:
            self._follow(client)

    def _follow(self, client: Client) -> None:
        """Keep up with the rings that a step has brought or sent off."""
        self._rings.update(dict.fromkeys(client.rings.numbers, client))
        while client.outgoing:
            event, ring = client.outgoing.pop()
            gone = partial(self._let_go, client, ring)
            self._detaching.begin([ring], gone, drain=True, timeout_s=None)
            self._log.info(event, **described(client))
        if client.rings.numbers and client in self._handshakes:
            del self._handshakes[client]
            self._log.info("connected", **described(client))

    def _let_go(self, client: Client, ring: int, error: Exception | None) -> None:
        """Forget a ring that another has replaced; unless the session ends anyway."""
        if client.leaving:
            return
        if error is not None:
            return self._retire(client, f"ring {ring} is stuck: {error}")
        del self._rings[ring]
        client.rings.let_go(ring)
        self._guarded(client, client.reconfigure)

    def _on_broken(self, ring: int, reason: str) -> None:
        self.loop.post(partial(self._broken, ring, reason))

    def _broken(self, ring: int, reason: str) -> None:
        if client := self._rings.get(ring):
            text = f"your ring is broken: {reason}"
            self._retire(client, f"ring broken: {reason}", Error("broken", text))

    # -- the end of a session -------------------------------------------------

    def _retire(
        self,
        client: Client,
        reason: str,
        last: Message | None = None,
        *,
        drain: bool = False,
    ) -> None:
        """End a session: say why if it is an error, detach, release."""
        if client.leaving:
            return
        client.leaving = True
        self._handshakes.pop(client, None)
        self.loop.unwatch(client.socket.fileno())
        self.loop.unwatch(client.pidfd)
        if isinstance(last, Error):
            client.farewell(last)
        quiet = self._log.debug if client.asks else self._log.info
        level = self._log.warning if isinstance(last, Error) else quiet
        level("ending", session=client.number, **who(client), reason=reason)
        if not client.rings.numbers:
            return self._release(client, last)
        gone, limit = partial(self._detached, client, last), self._drain_timeout
        self._detaching.begin(client.rings.numbers, gone, drain=drain, timeout_s=limit)

    def _detached(
        self, client: Client, last: Message | None, error: Exception | None
    ) -> None:
        """Let the session go, or keep the memory of a ring that may still be in use."""
        if error is None:
            return self._release(client, last)
        self._log.error("detach-failed", session=client.number, reason=repr(error))
        self._clients.discard(client)
        self.stuck.append(client)

    def _release(self, client: Client, last: Message | None) -> None:
        if isinstance(last, Closed):
            client.farewell(last)
        self._rings = {n: one for n, one in self._rings.items() if one is not client}
        self._clients.discard(client)
        try:
            client.release()
        except (RingError, OSError) as error:
            self._log.error("release-failed", session=client.number, reason=error)
        self._log.debug("ended", session=client.number)

    def _begin_stop(self) -> None:
        if self._stop_at is not None:
            return
        self._stop_at = time.monotonic() + self._drain_timeout + CANCEL_TIMEOUT_S
        self._door.close()
        self._log.info("stopping", sessions=len(self._clients))
        for client in tuple(self._clients):
            if not client.leaving:
                client.farewell(Closing("the daemon shuts down"))
                self._retire(client, "shutdown", Closed(), drain=True)

    def _report(self) -> str:
        return report(
            address=self.listener.path,
            since=self._since,
            engine=self.engine,
            quota=self._quota,
            devices=self.devices.values(),
            clients=self._clients,
        )
