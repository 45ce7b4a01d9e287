"""The notification protocol, checked over every interleaving and store-buffer delay."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import rings

from .rigging import MODELS, needs_spin, verify

MODEL = MODELS / "notify.pml"
LIGHT = MODELS / "light.pml"
ROOM = MODELS / "room.pml"
HEADER = Path(rings.__file__).with_name("csrc") / "xen.h"
SPSC = HEADER.with_name("spsc.h")
MPMC = HEADER.with_name("mpmc.h")
MPMC_CALL = HEADER.with_name("mpmc_call.h")
GUILTY = {
    MODEL: [
        "NO_PRODUCER_BARRIER",
        "NO_CONSUMER_BARRIER",
        "NO_FINAL_CHECK",
        "CHECK_BEFORE_ARMING",
        "ONLY_THE_NEWEST",
    ],
    LIGHT: [
        "NO_HEAVY_BARRIER",
        "HEAVY_BEFORE_ARMING",
        "LOOK_BEFORE_ARMING",
        "NO_PAUSE",
        "NOT_REGISTERED",
        "LIGHT_IN_SECRET",
        "TURN_WITHOUT_BARRIER",
        "PLAIN_PUBLISH",
        "PLAIN_ANNOUNCEMENT",
        "NO_SECOND_LOOK",
    ],
    ROOM: [
        "NO_SECOND_LOOK",
        "NO_SECOND_LOOK_AT_ALL",
        "NOTIFY_BEFORE_ADVANCE",
        "NOTE_EVEN_IF_FULL",
        "NO_LOOK_AFTER_A_RUN",
        "NO_BARRIER_AFTER_A_RUN",
        "OWN_ONLY",
    ],
}
ORDERING = re.compile(r"(release|acquire|full barrier): ([a-z]+-[a-z]+)")
STATEMENT = re.compile(r"/\* ((?:xen|spsc|mpmc)_\w+): (.*?) \*/")


@needs_spin
def test_the_protocol_never_sleeps_beside_work(tmp_path):
    errors, states, said = verify(tmp_path, MODEL)
    assert errors == 0, said
    assert states > 1000
    assert "unreached in proctype back\n\t(0 of" in said, "a statement never ran"
    assert "unreached in proctype front\n\t(0 of" in said, "a statement never ran"


@needs_spin
@pytest.mark.parametrize(
    ("model", "variant"),
    [(model, variant) for model in GUILTY for variant in GUILTY[model]],
    ids=lambda value: value.stem if isinstance(value, Path) else value,
)
def test_each_variant_loses_a_wake_up(tmp_path, model, variant):
    errors, _, said = verify(tmp_path, model, variant)
    assert errors == 1
    assert "invalid end state" in said


@needs_spin
def test_a_sleeper_with_the_barrier_of_both_never_sleeps_beside_work(tmp_path):
    errors, states, said = verify(tmp_path, LIGHT)
    assert errors == 0, said
    assert states > 1_000_000
    for end in ("producer", "consumer"):
        ran = f"unreached in proctype {end}\n\t(0 of"
        assert ran in said, "a statement never ran"


@needs_spin
@pytest.mark.parametrize("runs", [[], ["PUT_RUNS"]], ids=["alone", "runs"])
def test_who_waits_for_room_or_messages_is_told(tmp_path, runs):
    errors, states, said = verify(tmp_path, ROOM, *runs)
    assert errors == 0, said
    assert states > 1_000_000
    assert not re.search(r'state \d+, "(?!-end-)', said), "a statement never ran"


LARGER = [
    "SLOTS=3 EACH=5",
    "SLOTS=3 EACH=5 PUT_RUNS",
    "SLOTS=3 EACH=5 FEW=1",
    "SLOTS=3 EACH=5 FEW=3",
]


@needs_spin
@pytest.mark.soak
@pytest.mark.parametrize("sizes", LARGER)
def test_who_waits_is_told_in_a_larger_ring(tmp_path, sizes):
    errors, states, said = verify(tmp_path, ROOM, *sizes.split())
    assert errors == 0, said
    print(states)


def body(function: str, *headers: Path) -> str:
    """The text of a function of the headers, from its name to its closing brace."""
    text = "".join(header.read_text() for header in headers or [HEADER])
    [found] = re.findall(
        rf"^static inline [^;{{]*\b{function}\(.*?^}}", text, re.M | re.S
    )
    return found


FUNCTIONS = {
    MODEL: {"xen_push", "xen_back_final_check"},
    LIGHT: {
        "spsc_await_message",
        "spsc_begin",
        "spsc_publish",
        "spsc_settle_peer",
        "spsc_turn",
    },
    ROOM: {
        "mpmc_advance",
        "mpmc_get_alone",
        "mpmc_must_notify",
        "mpmc_must_notify_room",
        "mpmc_put_at",
        "mpmc_roomy",
        "mpmc_run_end",
        "mpmc_run_get",
        "mpmc_run_put",
    },
}


@pytest.mark.parametrize(
    ("model", "headers"),
    [(MODEL, [HEADER]), (LIGHT, [SPSC]), (ROOM, [MPMC, MPMC_CALL])],
    ids=lambda value: value.stem if isinstance(value, Path) else "",
)
def test_statements_stand_in_the_header_in_the_models_order(model, headers):
    stated: dict[str, list[str]] = {}
    for function, statement in STATEMENT.findall(model.read_text()):
        stated.setdefault(function, []).append(statement)
    assert set(stated) == FUNCTIONS[model]
    for function, statements in stated.items():
        text = body(function, *headers)
        places = [text.index(statement) for statement in statements]
        assert places == sorted(places), function


def test_orderings_have_the_headers_names_in_the_headers_order():
    model = MODEL.read_text()
    front, back = model[model.index("proctype front()") :].split("proctype back()")
    assert ORDERING.findall(front) == ORDERING.findall(body("xen_front_publish"))
    header = body("xen_back_ready") + body("xen_back_final_check")
    assert ORDERING.findall(back) == ORDERING.findall(header)


def test_the_front_waits_as_the_back_does():
    """The model has one direction; the other must be the same code."""

    def skeleton(function: str) -> list[str]:
        return re.findall(r"\b(?:store|load)_\w+|final_check|_ready\(", body(function))

    back, front = map(skeleton, ("xen_back_final_check", "xen_front_final_check"))
    assert [each for each in front if each != "load_acquire"] == back
    assert "xen_push(" in body("xen_front_publish")
    assert "xen_push(" in body("xen_back_publish")


def test_light_orderings_have_the_headers_names():
    model = LIGHT.read_text()
    producer, consumer = model[model.index("proctype producer()") :].split(
        "proctype consumer()"
    )
    publish = body("spsc_publish", SPSC) + body("spsc_turn", SPSC)
    assert set(ORDERING.findall(producer)) == set(ORDERING.findall(publish))
    names = "spsc_ready", "spsc_await_message", "spsc_settle_peer"
    await_message = "".join(body(name, SPSC) for name in names)
    assert set(ORDERING.findall(consumer)) == set(ORDERING.findall(await_message))


@pytest.mark.parametrize(
    ("publish", "word"), [("spsc_publish", "prod"), ("spsc_release", "cons")]
)
def test_both_ends_publish_and_await_alike(publish, word):
    """The model has one direction; the other must be the same code."""
    text = body(publish, SPSC).replace(f"{word}_", "").replace(f"->{word}", "->word")
    other = body("spsc_publish", SPSC).replace("prod_", "").replace("->prod", "->word")
    calls = re.compile(r"\b(?:store|load|barrier|spsc)_\w+\([^()]*->\w+")
    assert calls.findall(text) == calls.findall(other)
    await_room = re.findall(
        r"(spsc_nap|store_seq_cst|spsc_settle_peer|spsc_r\w+)\(",
        body("spsc_await_room", SPSC),
    )
    assert await_room == ["spsc_nap", "store_seq_cst", "spsc_settle_peer", "spsc_room"]
