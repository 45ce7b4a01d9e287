"""The Xenbus states of a connection, as tables, and the machine they drive.

Each end announces its state by the messages it sends, so a connection is a pair
of states and both ends follow the same pair:

    frontend                                   backend
    UNKNOWN                                    UNKNOWN
      Hello: device, features     ------->
    INITIALISING
                                  <-------       Offer: features, limits, device
                                               INIT_WAIT
      Setup: the chosen numbers   ------->
    INITIALISED
                                  <-------       Ready: geometry and three fds
                                               CONNECTED
      Connected                   ------->
    CONNECTED

A connected frontend may have its ring replaced by one of another size:

    CONNECTED                                  CONNECTED
      Reconfigure: slots          ------->
    RECONFIGURING
                                  <-------       Reconfigured: geometry and two fds
                                               RECONFIGURED
      Switched                    ------->
    CONNECTED                                  CONNECTED

`Unchanged` from either end takes both back to CONNECTED with the ring they have.

Either end may say `Closing` once it has spoken; the backend drains and answers
`Closed`.  `Error` ends the connection from any state.  A message may cross the
other end's `Closing` on the way, so an end that is closing still accepts what
its peer was entitled to send before it knew.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Final

from .errors import LocalProtocolError, RemoteProtocolError
from .messages import (
    Closed,
    Closing,
    Connected,
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


class State(IntEnum):
    """Xenbus states, with Xen's numbers."""

    UNKNOWN = 0
    INITIALISING = 1
    INIT_WAIT = 2
    INITIALISED = 3
    CONNECTED = 4
    CLOSING = 5
    CLOSED = 6
    RECONFIGURING = 7
    RECONFIGURED = 8


class Role(Enum):
    """Which end of a connection this is."""

    FRONTEND = "frontend"
    BACKEND = "backend"

    @property
    def other(self) -> Role:
        """The peer's role."""
        return Role.BACKEND if self is Role.FRONTEND else Role.FRONTEND


# What an end in a state may send, and the state it is in afterwards.
TRANSITIONS: Final[dict[Role, dict[State, dict[type[Message], State]]]] = {
    Role.FRONTEND: {
        State.UNKNOWN: {Stat: State.UNKNOWN, Hello: State.INITIALISING},
        State.INITIALISING: {Setup: State.INITIALISED, Closing: State.CLOSING},
        State.INITIALISED: {Connected: State.CONNECTED, Closing: State.CLOSING},
        State.CONNECTED: {
            Reconfigure: State.RECONFIGURING,
            Closing: State.CLOSING,
        },
        State.RECONFIGURING: {
            Switched: State.CONNECTED,
            Unchanged: State.CONNECTED,
            Closing: State.CLOSING,
        },
        State.CLOSING: {},
        State.CLOSED: {},
    },
    Role.BACKEND: {
        State.UNKNOWN: {
            StatReply: State.UNKNOWN,
            Offer: State.INIT_WAIT,
            Closing: State.CLOSING,
            Closed: State.CLOSED,
        },
        State.INIT_WAIT: {
            Ready: State.CONNECTED,
            Closing: State.CLOSING,
            Closed: State.CLOSED,
        },
        State.CONNECTED: {
            Reconfigured: State.RECONFIGURED,
            Unchanged: State.CONNECTED,
            Closing: State.CLOSING,
            Closed: State.CLOSED,
        },
        State.RECONFIGURED: {Closing: State.CLOSING, Closed: State.CLOSED},
        State.CLOSING: {Closed: State.CLOSED},
        State.CLOSED: {},
    },
}

# The states the other end may be in; messages not listed may always be sent.
REQUIRES: Final[dict[type[Message], tuple[State, ...]]] = {
    Hello: (State.UNKNOWN,),
    Stat: (State.UNKNOWN,),
    StatReply: (State.UNKNOWN,),
    Offer: (State.INITIALISING,),
    Setup: (State.INIT_WAIT,),
    Ready: (State.INITIALISED,),
    Connected: (State.CONNECTED,),
    Reconfigure: (State.CONNECTED,),
    Reconfigured: (State.RECONFIGURING,),
    Switched: (State.RECONFIGURED,),
    Unchanged: (State.RECONFIGURING, State.RECONFIGURED),
}

# Messages that end a reconfiguration for both ends.
SETTLING: Final = (Switched, Unchanged)
CHANGING: Final = (State.RECONFIGURING, State.RECONFIGURED)


class Side:
    """One end's view of a connection: what may be said and heard next.

    It does no I/O: the caller sends what `send` approved and passes in what came.

    Attributes:
        role: Which end this is.
        mine: This end's state.
        peer: The other end's state, as far as it has announced it.
    """

    def __init__(self, role: Role) -> None:
        self.role = role
        self.mine = State.UNKNOWN
        self.peer = State.UNKNOWN

    @property
    def closed(self) -> bool:
        """True once either end has finished; nothing may be said any more."""
        return State.CLOSED in (self.mine, self.peer)

    @property
    def connected(self) -> bool:
        """True while requests may be put into the ring."""
        usable = (State.CONNECTED, *CHANGING)
        return self.mine in usable and self.peer in usable

    def may_send(self, kind: type[Message]) -> bool:
        """Return whether a message of this kind is in order now."""
        return self._step(self.role, self.mine, self.peer, kind, late=False) is not None

    def send(self, kind: type[Message]) -> None:
        """Move as sending a message of this kind moves this end.

        Raises:
            LocalProtocolError: The table does not allow it in this state.
        """
        state = self._step(self.role, self.mine, self.peer, kind, late=False)
        if state is None:
            raise LocalProtocolError(self._refusal("may not send", kind))
        self.mine = state
        self._settle(kind)

    def receive(self, kind: type[Message]) -> None:
        """Move as receiving a message of this kind moves the peer.

        Raises:
            RemoteProtocolError: The peer may not send it in its state.
        """
        state = self._step(self.role.other, self.peer, self.mine, kind, late=True)
        if state is None:
            raise RemoteProtocolError(self._refusal("may not be sent", kind))
        self.peer = state
        self._settle(kind)

    def lost(self) -> None:
        """The connection is gone, whoever dropped it."""
        self.mine = self.peer = State.CLOSED

    def _settle(self, kind: type[Message]) -> None:
        if kind in SETTLING:
            if self.mine in CHANGING:
                self.mine = State.CONNECTED
            if self.peer in CHANGING:
                self.peer = State.CONNECTED

    def _step(
        self,
        sender: Role,
        state: State,
        other: State,
        kind: type[Message],
        *,
        late: bool,
    ) -> State | None:
        if self.closed:
            return None
        if kind is Error:
            return State.CLOSED
        if kind is Closed and State.CLOSING not in (state, other):
            return None
        required = REQUIRES.get(kind, (other,))
        if other not in required and not (late and other == State.CLOSING):
            return None
        return TRANSITIONS[sender][state].get(kind)

    def _refusal(self, verb: str, kind: type[Message]) -> str:
        return (
            f"{kind.__name__} {verb} now: {self.role.value} is {self.mine.name}, "
            f"its peer {self.peer.name}"
        )
