"""Control packets, the states of a connection, and what both ends compute."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rings import codec, layout, protocol, states
from rings.codec import (
    HEADER,
    MAGIC,
    MAX_PACKET,
    MAX_STAT_TEXT,
    MAX_TEXT,
    MESSAGES,
    VERSION,
    decode,
    encode,
    plain_text,
)
from rings.errors import (
    LayoutError,
    LocalProtocolError,
    RemoteProtocolError,
)
from rings.messages import (
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
from rings.states import Role, Side, State

names = st.from_regex(codec.NAME, fullmatch=True)
name_lists = st.lists(names, max_size=32).map(tuple)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
numbers = st.dictionaries(names, u64, max_size=12)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=MAX_TEXT)
device_facts = st.builds(
    DeviceFacts,
    name=names,
    kind=names,
    size=u64,
    block_size=u32,
    read_only=st.booleans(),
    direct=st.booleans(),
    ops=name_lists,
)
any_message: st.SearchStrategy[Message] = st.one_of(
    st.builds(Hello, device=names, features=name_lists),
    st.builds(Offer, features=name_lists, limits=numbers, device=device_facts),
    st.builds(
        Setup,
        features=name_lists,
        ring_layout=u32,
        protocol=u32,
        slots=u32,
        grants=u32,
        data_size=u64,
        start=u32,
    ),
    st.builds(Ready, geometry=numbers, generation=u64),
    st.just(Connected()),
    st.builds(Closing, reason=texts),
    st.just(Closed()),
    st.builds(Error, code=names, message=texts),
    st.builds(Stat, offset=u32),
    st.builds(
        StatReply,
        offset=u32,
        total=u32,
        text=st.text(st.characters(max_codepoint=126), max_size=MAX_STAT_TEXT),
    ),
    st.builds(Reconfigure, slots=u32, start=u32),
    st.builds(Reconfigured, geometry=numbers, generation=u64),
    st.just(Switched()),
    st.builds(Unchanged, code=names, message=texts),
)


def packet(number: int, body: bytes, **header: int) -> bytes:
    """Return a packet, right but for what `header` says."""
    told = {"magic": MAGIC, "version": VERSION, "length": len(body), "reserved": 0}
    told.update(header)
    words = (told["magic"], told["version"], number, told["length"], told["reserved"])
    return HEADER.pack(*words) + body


# -- packets --------------------------------------------------------------------


@given(any_message)
def test_what_is_encoded_is_decoded(message: Message) -> None:
    sent = encode(message)
    assert len(sent) <= MAX_PACKET
    assert decode(sent) == message


def test_header_bytes() -> None:
    assert encode(Connected()) == b"RNG1\1\0\5\0\2\0\0\0\0\0\0\0{}"


HELLO = {"device": "disk0", "features": []}
HOSTILE_BODIES: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"x",
    "not UTF-8": b'{"device":"\xff","features":[]}',
    "UTF-16": '{"device":"d","features":[]}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + json.dumps(HELLO).encode(),
    "two values": b"{}{}",
    "deep lists": b"[" * 8000,
    "deep objects": b'{"a":' * 1600,
    "a list": b"[]",
    "null": b"null",
    "duplicate key": b'{"device":"a","device":"b","features":[]}',
    "key missing": b'{"device":"a"}',
    "key too many": b'{"device":"a","features":[],"more":1}',
    "number for text": b'{"device":1,"features":[]}',
    "text for list": b'{"device":"a","features":"abc"}',
    "number in list": b'{"device":"a","features":[1]}',
    "object for list": b'{"device":"a","features":{}}',
    "NaN": b'{"device":NaN,"features":[]}',
    "Infinity": b'{"device":-Infinity,"features":[]}',
    "float": b'{"device":1.5,"features":[]}',
    "exponent": b'{"device":1e400,"features":[]}',
    "huge integer": b'{"device":' + b"9" * 5000 + b',"features":[]}',
    "lone surrogate": b'{"device":"\\ud800","features":[]}',
    "slash": b'{"device":"../a","features":[]}',
    "NUL": b'{"device":"a\\u0000","features":[]}',
    "newline at the end": b'{"device":"a\\n","features":[]}',
    "empty name": b'{"device":"","features":[]}',
    "long name": b'{"device":"' + b"a" * 65 + b'","features":[]}',
    "non-ASCII digit": '{"device":"٣","features":[]}'.encode(),
    "many features": json.dumps({**HELLO, "features": ["a"] * 33}).encode(),
}


@pytest.mark.parametrize("body", HOSTILE_BODIES.values(), ids=list(HOSTILE_BODIES))
def test_hostile_body_is_refused(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(packet(1, body))
    assert decode(packet(1, json.dumps(HELLO).encode())) == Hello("disk0", ())


@pytest.mark.parametrize(
    "value", [-1, 2**32, True, 1.0, "1", None, [], {}, 10**19], ids=repr
)
def test_number_out_of_bounds_is_refused(value: object) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(packet(9, json.dumps({"offset": value}).encode()))


@pytest.mark.parametrize("text", ["\ud800", "x" * (MAX_TEXT + 1)])
def test_hostile_text_is_refused(text: str) -> None:
    body = json.dumps({"reason": text}).encode()
    with pytest.raises(RemoteProtocolError):
        decode(packet(6, body))


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"RNG1",
        packet(1, b"{}")[:15],
        packet(5, b"{}", magic=0),
        packet(5, b"{}", length=3),
        packet(5, b"{}", length=0),
        packet(5, b"{}", length=2**32 - 1),
        packet(5, b"{}", reserved=1),
        packet(0, b"{}"),
        packet(15, b"{}"),
        packet(5, b"{}" + b" " * MAX_PACKET),
    ],
)
def test_wrong_header_is_refused(wrong: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(wrong)


def test_other_version_is_a_layout_error_naming_both() -> None:
    with pytest.raises(LayoutError, match=r"version 7.*version 1"):
        decode(packet(1, b"anything", version=7))


@given(st.binary(max_size=200))
@example(b"\0" * 16)
def test_random_bytes_raise_nothing_else(data: bytes) -> None:
    with pytest.raises((RemoteProtocolError, LayoutError)):
        decode(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["device", "features", "x"]), inner)
    ),
    max_leaves=12,
)


@given(st.sampled_from(sorted(MESSAGES)), json_values)
def test_random_json_is_a_message_or_a_ring_error(number: int, value: object) -> None:
    try:
        message = decode(packet(number, json.dumps(value).encode()))
    except RemoteProtocolError:
        return
    assert type(message) is MESSAGES[number][0]


@given(st.text(max_size=2000))
def test_plain_text_always_fits(text: str) -> None:
    assert isinstance(decode(encode(Error("code", plain_text(text)))), Error)


@pytest.mark.parametrize("text", ["\U0001f600" * 2000, '"' * 2000, "\0" * 2000])
def test_worst_text_fits_a_packet(text: str) -> None:
    sent = encode(Error("code", plain_text(text)))
    assert isinstance(decode(sent), Error)
    assert len(encode(StatReply(0, 1, '"' * MAX_STAT_TEXT))) <= MAX_PACKET


def test_message_too_long_is_our_own_fault() -> None:
    with pytest.raises(LocalProtocolError, match="at most 8192"):
        encode(Closing("\U0001f600" * 2000))


# -- states ---------------------------------------------------------------------

HANDSHAKE: list[tuple[Role, type[Message], State]] = [
    (Role.FRONTEND, Hello, State.INITIALISING),
    (Role.BACKEND, Offer, State.INIT_WAIT),
    (Role.FRONTEND, Setup, State.INITIALISED),
    (Role.BACKEND, Ready, State.CONNECTED),
    (Role.FRONTEND, Connected, State.CONNECTED),
]
REPLACEMENT: list[tuple[Role, type[Message], State]] = [
    (Role.FRONTEND, Reconfigure, State.RECONFIGURING),
    (Role.BACKEND, Reconfigured, State.RECONFIGURED),
    (Role.FRONTEND, Switched, State.CONNECTED),
]
ALL_STEPS = HANDSHAKE + REPLACEMENT
CHANGES = (Reconfigure, Reconfigured, Switched, Unchanged)
SPOKEN = (Hello, Offer, Setup, Ready, Connected, Closing, Closed, Error, *CHANGES)


def pair() -> dict[Role, Side]:
    return {role: Side(role) for role in Role}


def test_handshake_connects_both_ends() -> None:
    ends = pair()
    for role, kind, state in HANDSHAKE:
        ends[role].send(kind)
        ends[role.other].receive(kind)
        assert ends[role].mine == ends[role.other].peer == state
    assert all(end.connected for end in ends.values())


def test_a_replacement_ends_connected_again_and_again() -> None:
    ends = pair()
    for role, kind, state in ALL_STEPS + REPLACEMENT:
        ends[role].send(kind)
        ends[role.other].receive(kind)
        assert ends[role].mine == ends[role.other].peer == state
    states_now = {state for end in ends.values() for state in (end.mine, end.peer)}
    assert states_now == {State.CONNECTED}


@pytest.mark.parametrize("refuser", Role)
def test_a_replacement_that_either_end_declines_changes_nothing(refuser: Role) -> None:
    ends = pair()
    wanted = REPLACEMENT[: 1 if refuser is Role.BACKEND else 2]
    for role, kind, _ in HANDSHAKE + wanted:
        ends[role].send(kind)
        ends[role.other].receive(kind)
        assert (
            ends[role].connected or role is not Role.FRONTEND or kind in (Hello, Setup)
        )
    ends[refuser].send(Unchanged)
    ends[refuser.other].receive(Unchanged)
    states_now = {state for end in ends.values() for state in (end.mine, end.peer)}
    assert states_now == {State.CONNECTED}
    assert not ends[refuser].may_send(Unchanged)


@pytest.mark.parametrize("steps", range(len(ALL_STEPS) + 1))
def test_only_the_next_message_is_in_order(steps: int) -> None:
    ends = pair()
    for role, kind, _ in ALL_STEPS[:steps]:
        ends[role].send(kind)
        ends[role.other].receive(kind)
    due = [kind for _, kind, _ in (ALL_STEPS + REPLACEMENT)[steps : steps + 1]]
    for role, wrong, _ in ALL_STEPS:
        if [wrong] != due:
            with pytest.raises(LocalProtocolError, match=wrong.__name__):
                ends[role].send(wrong)
            with pytest.raises(RemoteProtocolError, match=wrong.__name__):
                ends[role.other].receive(wrong)


def test_nothing_is_said_after_the_end() -> None:
    for kind in SPOKEN:
        end = Side(Role.BACKEND)
        end.lost()
        assert end.closed
        assert not end.may_send(kind)


World = tuple[Any, ...]


class Product:
    """Both ends, what is on the way between them, and who has crashed.

    Each end may at any moment send whatever its table allows, take the next
    packet, or crash; a crash is an end of file behind the packets on the way.
    From wherever that leads, the ends must be able to get to Connected or Closed
    without any further crash or `Error`.
    """

    END = "end of file"
    ON_THE_WAY = 3

    def __init__(self, side: Callable[[Role], Side] = Side) -> None:
        self.side = side
        self.problems: list[str] = []
        self.next: dict[World, set[World]] = {}
        self.progress: dict[World, set[World]] = {}

    def explore(self) -> None:
        start = ((State.UNKNOWN, State.UNKNOWN, False), ()) * 2
        waiting = [start]
        while waiting:
            world = waiting.pop()
            if world not in self.next:
                self.progress[world] = set()
                self.next[world] = set(self.successors(world))
                waiting += self.next[world]
        self.problems += [
            f"stuck at {world}"
            for world, after in self.progress.items()
            if not after and not self.is_fine(world)
        ]
        self.problems += [f"no way on from {world}" for world in self.hopeless()]

    def is_over(self, world: World) -> bool:
        frontend, _, backend, _ = world
        return all(State.CLOSED in end[:2] or end[2] for end in (frontend, backend))

    def is_connected(self, world: World) -> bool:
        frontend, _, backend, _ = world
        both = (State.CONNECTED, State.CONNECTED)
        return bool(frontend[:2] == backend[:2] == both)

    def is_fine(self, world: World) -> bool:
        return self.is_over(world) or self.is_connected(world)

    def connects(self) -> bool:
        return any(map(self.is_connected, self.next))

    def hopeless(self) -> set[World]:
        """Return the worlds from which neither Connected nor Closed is reached."""
        before: dict[World, list[World]] = {world: [] for world in self.next}
        for world, after in self.progress.items():
            for following in after:
                before[following].append(world)
        good = {world for world in self.next if self.is_fine(world)}
        waiting = list(good)
        while waiting:
            for world in before[waiting.pop()]:
                if world not in good:
                    good.add(world)
                    waiting.append(world)
        return set(self.next) - good

    def successors(self, world: World) -> list[World]:
        found = []
        for turn in (0, 2):  # an end, then the packets on their way to it
            role = Role.FRONTEND if turn == 0 else Role.BACKEND
            end, inbox = world[turn], world[turn + 1]
            if end[2]:
                continue
            found += self.spoken(world, turn, role, end)
            found += self.heard(world, turn, role, end, inbox)
            found.append(self.crashed(world, turn, end))
        return found

    def load(self, role: Role, end: tuple[State, State, bool]) -> Side:
        side = self.side(role)
        side.mine, side.peer = end[:2]
        return side

    def spoken(self, world: World, turn: int, role: Role, end: Any) -> list[World]:
        found = []
        for kind in SPOKEN:
            side = self.load(role, end)
            on_the_way = world[(turn + 3) % 4]
            if side.may_send(kind) and len(on_the_way) < self.ON_THE_WAY:
                side.send(kind)
                after = self.changed(world, turn, side, sent=(*on_the_way, kind))
                found.append(after)
                if kind is not Error:
                    self.progress[world].add(after)
        return found

    def heard(
        self, world: World, turn: int, role: Role, end: Any, inbox: Any
    ) -> list[World]:
        if not inbox:
            return []
        side = self.load(role, end)
        if inbox[0] is self.END:
            side.lost()
        elif not side.closed:
            try:
                side.receive(inbox[0])
            except RemoteProtocolError as error:
                self.problems.append(str(error))
                side.lost()
        after = self.changed(world, turn, side, inbox=inbox[1:])
        self.progress[world].add(after)
        return [after]

    def crashed(self, world: World, turn: int, end: Any) -> World:
        after = list(world)
        after[turn] = (State.CLOSED, State.CLOSED, True)
        after[turn + 1] = ()
        after[(turn + 3) % 4] = (*world[(turn + 3) % 4], self.END)
        return tuple(after)

    def changed(
        self,
        world: World,
        turn: int,
        side: Side,
        *,
        inbox: Any = None,
        sent: Any = None,
    ) -> World:
        after = list(world)
        after[turn] = (side.mine, side.peer, False)
        if inbox is not None:
            after[turn + 1] = inbox
        if sent is not None:
            after[(turn + 3) % 4] = sent
        return tuple(after)


def test_no_pair_of_ends_gets_stuck_and_none_is_blamed() -> None:
    product = Product()
    product.explore()
    assert len(product.next) > 1000
    assert product.connects()
    assert not product.problems


def test_control_an_end_deaf_to_crossing_messages_is_found_out() -> None:
    class Deaf(Side):
        def receive(self, kind: type[Message]) -> None:
            state = self._step(self.role.other, self.peer, self.mine, kind, late=False)
            if state is None:
                raise RemoteProtocolError(kind.__name__)
            self.peer = state

    product = Product(Deaf)
    product.explore()
    assert product.problems


@pytest.mark.parametrize(
    ("role", "state", "kind"),
    [
        (role, state, kind)
        for role, rows in states.TRANSITIONS.items()
        for state, row in rows.items()
        for kind in row
        if kind in (Offer, Setup, Ready, Connected)
        or (role, state, kind) == (Role.BACKEND, State.CLOSING, Closed)
    ],
)
def test_control_a_table_without_an_entry_is_found_out(
    monkeypatch: pytest.MonkeyPatch, role: Role, state: State, kind: type[Message]
) -> None:
    monkeypatch.delitem(states.TRANSITIONS[role][state], kind)
    product = Product()
    product.explore()
    assert product.problems or not product.connects()


# -- what is agreed on ------------------------------------------------------------

OFFER = Offer(
    features=tuple(sorted(protocol.FEATURES)),
    limits={"slots": 256, "grants": 512, "data_size": 1 << 20},
    device=DeviceFacts("disk0", "block", 4096, 512, False, False, ("read",)),
)


def wanted(**changes: Any) -> Setup:
    numbers: dict[str, Any] = {
        "features": tuple(sorted(protocol.FEATURES)),
        "ring_layout": layout.PADDED,
        "protocol": layout.PROTOCOL_IO,
        "slots": 128,
        "grants": 64,
        "data_size": 1 << 16,
        "start": 0,
    }
    return Setup(**{**numbers, **changes})


def test_limits_are_the_lesser_of_both() -> None:
    chosen = protocol.choose(OFFER, wanted(slots=1024, grants=4096, data_size=2 << 20))
    assert (chosen.slots, chosen.grants, chosen.data_size) == (256, 512, 1 << 20)
    assert protocol.choose(OFFER, wanted()) == wanted()
    assert protocol.refusal(OFFER, chosen) is None


def test_features_are_what_both_know() -> None:
    assert protocol.agree({"a", "b"}, {"b", "c"}) == ("b",)
    less = Offer(("ring-padded", "protocol-io"), OFFER.limits, OFFER.device)
    with pytest.raises(LayoutError, match="ring-xen"):
        protocol.choose(less, wanted(ring_layout=layout.XEN))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"slots": 512}, "slots=512"),
        ({"grants": 513}, "grants=513"),
        ({"data_size": 2 << 20}, "data_size="),
        ({"slots": 3}, "power of two"),
        ({"slots": 0}, "power of two"),
        ({"grants": 0}, "grants"),
        ({"data_size": 5}, "multiple"),
        ({"ring_layout": 9}, "ring_layout"),
        ({"protocol": 9}, "protocol"),
        ({"features": ("unheard-of",)}, "never offered"),
        ({"features": ()}, "not agreed"),
    ],
)
def test_backend_refuses_what_it_did_not_offer(
    changes: dict[str, Any], reason: str
) -> None:
    assert reason in (protocol.refusal(OFFER, wanted(**changes)) or "")


@pytest.mark.parametrize("ring_layout", [layout.XEN, layout.PADDED])
@pytest.mark.parametrize("slots_protocol", [layout.PROTOCOL_IO, layout.PROTOCOL_BLKIF])
def test_parameters_lie_where_the_layout_says(
    start: int, ring_layout: int, slots_protocol: int
) -> None:
    shape = protocol.geometry(
        wanted(ring_layout=ring_layout, protocol=slots_protocol, start=start)
    )
    memory = memoryview(bytearray(shape.size))
    protocol.write_split(memory, shape)
    for name, value in shape._asdict().items():
        if name != "size":
            at = getattr(layout, f"SPLIT_{name.upper()}")
            wide = name.endswith(("_offset", "_size")) and name != "slot_size"
            code = "=Q" if wide else "=I"
            assert struct.unpack_from(code, memory, at) == (value,), name
    words = layout.RING_WORDS[ring_layout]
    for name, value in zip(
        ("req_prod", "rsp_prod", "req_event", "rsp_event"),
        (start, start, (start + 1) % 2**32, (start + 1) % 2**32),
        strict=True,
    ):
        at = shape.ring_offset + getattr(words, name)
        assert struct.unpack_from("=I", memory, at) == (value,), name
    assert protocol.read_split(memory, shape.size) == shape


def test_accounts_that_differ_are_a_layout_error() -> None:
    shape = protocol.geometry(wanted())
    protocol.same_geometry(shape, shape._asdict(), "Ready")
    with pytest.raises(LayoutError, match="Ready has slots=64, this end has 128"):
        protocol.same_geometry(shape, {**shape._asdict(), "slots": 64}, "Ready")
    with pytest.raises(LayoutError, match="Ready has extra=1"):
        protocol.same_geometry(shape, {**shape._asdict(), "extra": 1}, "Ready")
