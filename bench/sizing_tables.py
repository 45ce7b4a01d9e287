"""What stands in the regions of docs/SIZING.md, made from the results of sweeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rings.stress import effects
from rings.stress.findings import Cell, curves, grids, latency, p99
from rings.stress.growth import loads, lost, scalings
from rings.stress.quantities import SPACE, count, duration, rate, share, times

Results = Mapping[str, Any]
MESSAGE_EFFECT = "capacity of a message ring"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, the first column to the left and the others to the right."""
    marks = ["---", *["---:"] * (len(titles) - 1)]
    lines = [titles, marks, *rows]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return text.replace(SPACE, " ")


def said(sentence: str, marked: str) -> str:
    """Return a finding above its table."""
    return f"{sentence.replace(SPACE, ' ')}.\n\n{marked}"


def cells(results: Results, name: str) -> dict[Any, Cell]:
    """Return the cells of a sweep over slots, by slots."""
    return {cell["parameters"]["slots"]: cell for cell in results[name]["cells"]}


def sure(cell: Cell, text: str) -> str:
    """Return a figure, marked if its cell must not be believed."""
    return text if cell["valid"] else f"{text} (not valid)"


def size(results: Results) -> str:
    """How big: throughput and p99 over slots, for few and for many servers."""
    few, many = cells(results, "hundred"), cells(results, "many")
    knee = curves(results["hundred"])[0]
    rows = [
        [f"**{slots:,}**" if slots == knee.knee else f"{slots:,}"]
        + [word for cell in (few[slots], many[slots]) for word in _of_law(cell)]
        for slots in sorted(few.keys() & many.keys())
    ]
    titles = ["slots"]
    for servers in ("100", "1,500"):
        titles += [f"requests/s, {servers} servers", "of Little's law", "p99"]
    return said(knee.finding, table(titles, rows))


def _of_law(cell: Cell) -> list[str]:
    return [
        sure(cell, rate(cell["achieved_per_s"]).removesuffix("/s")),
        share(1 + cell["error"]),
        duration(p99(cell)),
    ]


def auto(results: Results) -> str:
    """What a limit inside a big ring does, beside the ring that is just right."""
    whole, limited = None, None
    for cell in results["auto"]["cells"]:
        if cell["parameters"]["depth"] == "auto":
            limited = cell
        else:
            whole = cell
    best = cells(results, "hundred").get(128)
    rows = []
    named = (("2,048 slots", whole), ("2,048 slots, depth auto", limited))
    for name, cell in (*named, ("128 slots", best)):
        if cell is not None:
            limit = (cell.get("limit") or {}).get("final")
            told = f"{limit:.0f}" if limit is not None else "-"
            times_ = [duration(latency(cell, n) or 0) for n in ("p50", "p99")]
            rows.append([name, sure(cell, rate(cell["achieved_per_s"])), *times_, told])
    return table(["100 servers, 5 ms", "rate", "p50", "p99", "limit at the end"], rows)


def rings(results: Results) -> str:
    """How many rings: throughput over producers and queues."""
    found = {
        (c["parameters"]["producers"], c["parameters"]["queues"]): c
        for c in results["rings"]["cells"]
    }
    queues = sorted({n for _, n in found})
    rows = [
        [str(crowd)]
        + [
            sure(c, rate(c["achieved_per_s"])) if (c := found.get((crowd, n))) else "-"
            for n in queues
        ]
        for crowd in sorted({n for n, _ in found})
    ]
    names = [f"{n} ring{'s'[: n != 1]}" for n in queues]
    return table(["producers", *names], rows)


def sizes(results: Results) -> str:
    """How much a second ring gains, by the bytes of a request."""
    found = {
        (c["parameters"]["size"], c["parameters"]["queues"]): c
        for c in results["sizes"]["cells"]
    }
    rows = []
    for length in sorted({length for length, _ in found}):
        one, two = found[length, 1], found[length, 2]
        gain = two["achieved_per_s"] / one["achieved_per_s"]
        both = [sure(cell, rate(cell["achieved_per_s"])) for cell in (one, two)]
        rows.append([f"{length:,} B", *both, f"{gain:.2f}"])
    return table(["request", "1 ring", "2 rings", "gain"], rows)


def push(results: Results) -> str:
    """How many cores push: throughput over producers on one ring, with its law."""
    found = results["push"]["cells"]
    rows = [
        [
            str(cell["parameters"]["producers"]),
            sure(cell, rate(cell["achieved_per_s"])),
            duration(cell["cpu_s_per_million"]["client"]),
            duration(p99(cell)),
        ]
        for cell in found
    ]
    law = scalings(results["push"])
    told = f"{law[0].finding} ({law[0].law})" if law else "No law fits"
    titles = ["producers", "rate", "client CPU a request", "p99"]
    return said(told, table(titles, rows))


def batch(results: Results) -> str:
    """What a batch gains, by the size of the ring."""
    (grid,) = grids(results["batch"])
    fields = grid.fields(lambda cell: cell["achieved_per_s"])
    rows = [
        [f"{slots:,}", *(rate(f.value) if f else "-" for f in row)]
        for slots, row in zip(grid.slots, fields, strict=True)
    ]
    titles = ["slots", *(f"batch {n}" for n in grid.batches)]
    return said(grid.finding, table(titles, rows))


def depth(results: Results) -> str:
    """What requests in flight gain over one at a time."""
    rows = [
        [
            str(cell["parameters"]["depth"]),
            sure(cell, rate(cell["achieved_per_s"])),
            duration(latency(cell, "p50") or 0),
            f"{cell['per_request']['syscalls']:.3f}",
        ]
        for cell in results["depth"]["cells"]
    ]
    return table(["in flight", "rate", "p50", "system calls a request"], rows)


def load(results: Results) -> str:
    """How much can be offered: p99 over the rate, beside theory."""
    rows = []
    for cell in results["load"]["cells"]:
        theory = (cell.get("predicted") or {}).get("p99_us")
        rows.append(
            [
                rate(cell["parameters"]["rate_per_s"]),
                sure(cell, rate(cell["achieved_per_s"])),
                duration(latency(cell, "p50") or 0),
                duration(p99(cell)),
                duration(theory) if theory else "-",
            ]
        )
    (curve,) = loads(results["load"])
    titles = ["offered", "served", "p50", "p99", "p99 of M/M/c/K"]
    return said(curve.finding, table(titles, rows))


def full(results: Results) -> str:
    """What when full: each policy below and above what the device can do."""
    rows = [
        [
            f"{rate(cell['parameters']['rate_per_s'])}, "
            f"`{cell['parameters']['policy']}`",
            sure(cell, rate(cell["achieved_per_s"])),
            share(lost(cell)),
            duration(latency(cell, "p50") or 0),
            duration(p99(cell)),
        ]
        for cell in results["full"]["cells"]
    ]
    return table(["offered, policy", "served", "lost", "p50", "p99"], rows)


def capacity(results: Results) -> str:
    """What room for messages gains, beside Eio and the standard library."""
    curves_ = results["capacity"]
    places = sorted({int(n) for curve in curves_.values() for n in curve})
    rows = []
    for name, curve in curves_.items():
        values = [curve.get(str(n)) for n in places]
        known = [value for value in values if value is not None]
        shown = [duration(value) if value else "-" for value in values]
        rows.append([name, *shown, times(known[0] / known[-1])])
    names = [f"{n:,} slot{'s'[: n != 1]}" for n in places]
    return table(["a message, 64 bytes", *names, "first over last"], rows)


def published(results: Results) -> str:
    """What others published, and what we see of it."""
    every = [c for name in NEEDED for c in results.get(name, {}).get("cells", ())]
    elsewhere = {}
    if known := results.get("capacity"):
        curve = known["rings SPSC, block"]
        first, last = min(curve, key=int), max(curve, key=int)
        gain = times(curve[first] / curve[last])
        elsewhere[MESSAGE_EFFECT] = f"{gain} from {first} to {int(last):,} slots"
    found = effects.rows(every, elsewhere)
    rows = [
        [row.name, f"{row.theirs} ({row.source})", row.ours or "-", row.note]
        for row in found
    ]
    marked = table(["effect", "published", "ours", ""], rows)
    return marked.replace("---:", "---")


def machine(results: Results) -> str:
    """Where all of this was measured."""
    known = results["hundred"]["machine"]
    kernel = ".".join(known["kernel"].split(".")[:2])
    engines = (r.get("machine", {}).get("engine") for r in results.values())
    requests = sum(
        cell["requests"] for name in NEEDED if name in results
        for cell in results[name]["cells"] if "requests" in cell
    )  # fmt: skip
    return (
        f"{known['cpu']}, {known['cores']} cores, Linux {kernel}, CPython "
        f"{known['python']}, engine {next(filter(None, engines), 'not told')}; "
        f"{count(requests)} requests in all.".replace(SPACE, " ")
    )


NEEDED = (
    "hundred", "many", "auto", "rings", "push", "batch", "depth", "sizes", "load",
    "full",
)  # fmt: skip
REGIONS: dict[str, tuple[tuple[str, ...], Callable[[Results], str]]] = {
    "machine": (("hundred",), machine),
    "size": (("hundred", "many"), size),
    "auto": (("auto",), auto),
    "depth": (("depth",), depth),
    "rings": (("rings",), rings),
    "sizes": (("sizes",), sizes),
    "push": (("push",), push),
    "batch": (("batch",), batch),
    "load": (("load",), load),
    "full": (("full",), full),
    "capacity": (("capacity",), capacity),
    "published": ((), published),
}
