"""How large a ring to use, and why.

    rings size --rate 50k --service 200us --servers 16 --pause 2ms --p99 2ms

Times are written 200us, 5ms or 2s, numbers 800, 50k or 1.2M.  Without --rate the ring
is always asked: as many requests as the device takes.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from .advice import Advice, advise
from .forecast import POLICIES, VARIABILITIES, Forecast
from .table import table
from .units import number, seconds, show_number, show_s


def _time(text: str) -> float:
    return _said(seconds, text)


def _number(text: str) -> float:
    return _said(number, text)


def _count(text: str) -> int:
    value = _number(text)
    if value != int(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(value)


def _said(parse: Callable[[str], float], text: str) -> float:
    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options, named as the arguments of `rings.advise`."""
    for name, kind, default, about in NUMBERS:
        option = "--" + name.removesuffix("_per_s").removesuffix("_s")
        word = {_time: "TIME", _number: "NUMBER", _count: "COUNT"}[kind]
        parser.add_argument(
            option, dest=name, type=kind, default=default, metavar=word, help=about,
            required=name == "service_s",
        )  # fmt: skip
    for name, choices, about in CHOICES:
        parser.add_argument(
            f"--{name}", choices=choices, default=choices[0], help=about
        )
    parser.add_argument("--wait", help="block, spin:US or busy; chosen if not said")
    parser.add_argument("--json", action="store_true", help="for programs")


NUMBERS = (
    ("rate_per_s", _number, None, "requests a second"),
    ("service_s", _time, None, "mean time the device works on a request"),
    ("servers", _count, None, "requests it works on at the same time"),
    ("pause_s", _time, 0.0, "the longest time for which the consumer stops"),
    ("p99_s", _time, None, "what 99 in 100 answers may take"),
    ("producers", _count, 1, "threads that push"),
    ("cores", _count, None, "cores that push; all that this process may use"),
    ("loss", _number, 0.05, "share that may be lost: 0.05"),
    ("wake_s", _time, 30e-6, "what it takes to wake a sleeper: 30us"),
    ("request_s", _time, 2e-6, "CPU time a request costs the busier end: 2us"),
)
CHOICES = (
    ("policy", POLICIES, "when the ring is full"),
    ("variability", VARIABILITIES, "of the service time"),
)


def run(options: argparse.Namespace) -> int:
    """Print the advice; 1 if no ring does what is asked."""
    names = inspect.signature(advise).parameters
    asked: dict[str, Any] = {name: getattr(options, name) for name in names}
    try:
        advice = advise(**asked)
    except ValueError as error:
        print(f"rings: {error}", file=sys.stderr)
        return 1
    print(to_json(advice) if options.json else to_text(advice))
    return 0


def to_json(advice: Advice) -> str:
    """Write advice for programs; what takes for ever is null."""
    facts = {field.name: getattr(advice, field.name) for field in fields(advice)}
    for name, value in facts.items():
        if isinstance(value, Forecast):
            facts[name] = {
                key: None if part == float("inf") else part
                for key, part in value._asdict().items()
            }
    return json.dumps(facts, indent=2)


def to_text(advice: Advice) -> str:
    """Write advice and what its neighbours would give as a small table."""
    around = [advice.smaller, advice.predicted, advice.bigger]
    rows = [_row(each, each is advice.predicted) for each in around if each]
    use = f"use {advice.slots} slots"
    if advice.queues > 1:
        use += f" in each of {advice.queues} rings"
    if advice.order is not None:
        use += f" (order {advice.order})"
    if advice.depth:
        use += f", at most {advice.depth} at a time (depth)"
    use += f", batches of {advice.batch}, wait {advice.wait!r}"
    return f"{use}\n\n{table(rows)}\n\n{advice.why}"


def _row(forecast: Forecast, is_advised: bool) -> dict[str, object]:
    return {
        "": "->" if is_advised else "",
        "slots": forecast.slots,
        "per second": show_number(forecast.throughput_per_s),
        "p50": show_s(forecast.p50_s),
        "p99": show_s(forecast.p99_s),
        "finds it full": f"{forecast.blocking:.2%}",
        "in flight": f"{forecast.in_flight:.1f}",
        "when full": show_s(forecast.full_s),
        "rides out": show_s(forecast.pause_s),
    }
