"""A daemon's report as Prometheus reads it, in the text exposition format 0.0.4.

A number is a gauge or a counter by what it counts, and we do not say which: the type
is `untyped`, which every query takes.  Text is no sample; the texts of a row of a list,
and its numbers that only name it, are labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

ROWS: Final = {
    "devices": ("name", "kind"),
    "sessions": ("session", "pid", "uid", "device"),
}
KEYED: Final = {"stations": "device"}
ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

Labels = dict[str, str]


def exposition(report: Mapping[str, Any]) -> str:
    """Return every number of a report, a line each, those of one name together."""
    samples: dict[str, list[str]] = {}
    for name, labels, value in _samples("rings", report, {}):
        pairs = ",".join(f'{k}="{v.translate(ESCAPES)}"' for k, v in labels.items())
        line = f"{name}{{{pairs}}} {value}" if pairs else f"{name} {value}"
        samples.setdefault(name, [f"# TYPE {name} untyped"]).append(line)
    return "\n".join(line for lines in samples.values() for line in lines)


def _samples(
    name: str, facts: Mapping[str, Any], labels: Labels
) -> Iterator[tuple[str, Labels, float]]:
    for key, value in facts.items():
        path = f"{name}_{re.sub('[^a-zA-Z0-9_]', '_', str(key))}"
        if key in ROWS and isinstance(value, list):
            for row in value:
                told = {n: str(row[n]) for n in ROWS[key] if row.get(n) is not None}
                rest = {n: row[n] for n in row if n not in ROWS[key]}
                yield from _samples(path, rest, {**labels, **told})
        elif key in KEYED and isinstance(value, Mapping):
            for which, row in value.items():
                yield from _samples(path, row, {**labels, KEYED[key]: str(which)})
        elif isinstance(value, Mapping):
            yield from _samples(path, value, labels)
        elif isinstance(value, (bool, int, float)):
            yield path, labels, float(value) if isinstance(value, float) else int(value)
