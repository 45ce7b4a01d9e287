"""A sweep as one HTML file: advice, charts with their findings, every cell.

The file needs nothing else: no network, no script to be read, no plotting library.
Everything that came from a result is escaped, and a policy in the page forbids it
to load anything, whatever a result may contain.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

from . import charts, effects
from .cells_table import cells_table
from .findings import Result, curves, grids, label, measured, varied
from .growth import loads, scalings
from .quantities import duration, share
from .strips import strips
from .style import CSS, SCRIPT
from .svg import element

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

GLOSSARY = {
    "slots, order": "How many requests a ring holds; order n means 32 · 2ⁿ slots.",
    "batch": "How many requests are written before they are published at once.",
    "producer": "A thread that pushes requests; queues are rings, each its own worker.",
    "closed loop": "As many requests in flight as the ring allows, always.",
    "open loop": "Requests come at a rate of their own, whether answered or not; a "
    "latency counts from when the request was meant to start.",
    "knee": "The least ring within the objective: its share of the best throughput, "
    "and its p99 if one was set.",
    "p50, p99": "Half of all requests took at most this long; all but one in 100 did.",
    "blocked": "Share of the producers' time in which the ring had no room for them.",
    "Little's law": "Requests in flight = rate times time in the ring, always, so "
    "a cell where it does not was measured wrongly. With K servers of service time S "
    "it caps the rate at min(N, K) / S for N slots.",
    "M/M/c/K": "The queue with c servers and room for K requests, both arrivals and "
    "service by chance: what theory expects of an open loop.",
    "USL": "The universal scalability law: sigma is what producers wait for each "
    "other, kappa what each pair costs to agree.",
}
HOW_TO_READ = (
    "Each cell is one run with one set of parameters, measured from outside the ring.",
    "In every chart to the right means more, dashed lines are theory, and hollow "
    "markers are cells that failed their own check.",
    "The sentence above a chart says what it shows; the table at the end has it all.",
)


def render(result: Result) -> str:
    """Return the page of a result.

    Args:
        result: What `rings stress --json` wrote.
    """
    title = f"Ring sizing: {_devices(result)}"
    shown = measured(result)
    parts = [
        _opening(title, result),
        *_charts(shown),
        *_effects(shown),
        *_section("Cells that are not valid", _invalid(result)),
        *_section("Every cell", scrolled(cells_table(shown), "all cells")),
        *_section("Machine and command", _machine(result)),
        *_section("Words", _definitions(GLOSSARY.items())),
    ]
    about = (
        '<meta charset="utf-8">'
        + _void("meta", http_equiv="Content-Security-Policy", content=POLICY)
        + _void("meta", name="viewport", content="width=device-width,initial-scale=1")
        + element("title", escape(title))
        + f"<style>{CSS}</style>"
    )
    body = element("main", "\n".join(parts))
    return (
        f'<!doctype html>\n<html lang="en"><head>{about}</head>\n'
        f"<body>{body}<script>{SCRIPT}</script></body></html>\n"
    )


def _void(name: str, /, **attributes: str) -> str:
    return element(name, **attributes).removesuffix("/>") + ">"


def _section(title: str, content: str) -> list[str]:
    """Return a section, nothing if it has no content."""
    return [element("h2", escape(title)), content] if content else []


def _list(sentences: Iterable[str], **attributes: str) -> str:
    items = (element("li", escape(sentence)) for sentence in sentences)
    return element("ul", "".join(items), **attributes)


def _definitions(pairs: Iterable[tuple[str, object]]) -> str:
    return element(
        "dl",
        "".join(
            element("dt", escape(name)) + element("dd", escape(str(value)))
            for name, value in pairs
        ),
    )


def _devices(result: Result) -> str:
    names = dict.fromkeys(cell["parameters"]["device"] for cell in result["cells"])
    return ", ".join(names) or "no cell"


def _opening(title: str, result: Result) -> str:
    cells = result["cells"]
    bad = sum(not cell["valid"] for cell in cells)
    advice = result.get("advice") or ()
    names = [name for name in varied(cells) if name != "device"]
    over = f" over {', '.join(names)}" if names else ""
    what = (
        f"{len(cells)} cells{over} on {result['machine']['cpu']}, "
        f"{result['machine']['cores']} cores, {result['started']}"
    )
    what += f"; {bad} of them not valid." if bad else "; all valid."
    return "".join(
        [
            element("h1", escape(title)),
            element("p", escape(what), class_="muted"),
            _list(advice, class_="advice") if advice else "",
            element("p", escape(" ".join(HOW_TO_READ))),
        ]
    )


def _charts(result: Result) -> list[str]:
    """Return the figures under a heading each kind."""
    kinds: list[tuple[str, Sequence[Any], Callable[[str, Any], str]]] = [
        ("How big should the ring be?", curves(result), charts.over_slots),
        ("Ring or batch?", grids(result), charts.over_batch),
        ("How many should push?", scalings(result), charts.over_producers),
        ("How much can be offered?", loads(result), charts.over_load),
        ("How full were the rings?", strips(result), charts.occupancy),
    ]
    parts = []
    for number, (title, found, draw) in enumerate(kinds):
        if found:
            parts.append(element("h2", escape(title)))
        for place, one in enumerate(found):
            parts.append(_figure(one, draw(f"chart-{number}-{place}", one)))
    return parts


def _figure(one: Any, picture: str) -> str:
    return element(
        "figure",
        element("h3", escape(one.finding))
        + element("figcaption", escape(one.label))
        + picture,
    )


def _effects(result: Result) -> list[str]:
    """Return what others published beside ours, for the effects that were measured."""
    found = [row for row in effects.rows(result["cells"]) if row.measured]
    if len(found) < 2:  # that nothing overflowed is true of every sweep
        return []
    titles = ("effect", "published", "source", "ours")
    lines = [element("tr", "".join(_title(title) for title in titles))]
    for row in found:
        words = (row.name, row.theirs, row.source, row.ours)
        cells = (element("td", escape(word), class_="text") for word in words)
        lines.append(element("tr", "".join(cells)))
    table = element("table", "".join(lines), class_="wrap")
    return _section(
        "Beside what others published", scrolled(table, "published effects")
    )


def _title(words: str) -> str:
    return element("th", escape(words), scope="col", class_="text")


def scrolled(table: str, name: str) -> str:
    """Return a table that scrolls by itself where the page is too narrow."""
    look = {"class": "wide", "tabindex": "0", "role": "region", "aria_label": name}
    return element("div", table, **look) if table else ""


def _invalid(result: Result) -> str:
    bad = [cell for cell in result["cells"] if not cell["valid"]]
    names = ["slots", *(name for name in varied(result["cells"]) if name != "slots")]
    lines = [f"{label(c['parameters'], names)}: {c['why_invalid']}" for c in bad]
    return _list(lines) if lines else ""


def _machine(result: Result) -> str:
    objective = result.get("objective") or {}
    p99_s = objective.get("p99_s")
    wanted = f"{share(objective.get('share', 0.95))} of the best throughput"
    wanted += f", p99 at most {duration(p99_s * 1e6)}" if p99_s else ""
    facts = [*result["machine"].items(), ("objective", wanted)]
    facts.append(("took", f"{result['took_s']:.0f} s"))
    command = element("pre", escape(shlex.join(result["command"])))
    return _definitions(facts) + command
