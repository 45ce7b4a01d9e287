"""The page: whole, self-contained, escaped, and readable by everybody."""

import json
import re
from html import escape
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from rings.stress import page, report, style
from tests import sweeps

VOID = {"meta", "br"}
EVIL = "</script><script>alert('&')</script>\"'"


class Tree(HTMLParser):
    """What is open, what was closed, and all attributes and texts on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.seen)


def parsed(text: str) -> Tree:
    tree = Tree()
    tree.feed(text)
    tree.close()
    assert tree.open == []
    return tree


def failed() -> sweeps.Cell:
    """What a cell of which nothing could be measured looks like."""
    of = sweeps.parameters(order=5, batch=2)
    return {
        "key": sweeps.key(of), "parameters": of, "achieved_per_s": 0.0, "valid": False,
        "why_invalid": "OSError: no memory", "failed": True,
    }  # fmt: skip


def huge() -> sweeps.Result:
    cells = sweeps.over_slots()
    for power, cell in enumerate(cells):
        cell["achieved_per_s"] *= 1e6
        cell["latency_us"] = sweeps.latency(10.0 ** (1.5 * power), 3)
    return sweeps.result(cells)


def none_valid() -> sweeps.Result:
    return sweeps.result([sweeps.invalid(cell, "late") for cell in sweeps.over_slots()])


def odd() -> sweeps.Result:
    """Cells that lack what is optional, and one without latencies."""
    cells = sweeps.over_slots(range(3)) + sweeps.over_rate()[:3]
    for cell in cells:
        for name in ("predicted", "limit", "bytes_copied"):
            del cell[name]
    cells[1] = sweeps.invalid(cells[1], "fewer than 100 requests") | {"latency_us": {}}
    result = sweeps.result(cells)
    del result["advice"]
    return result


RESULTS = {
    "everything": sweeps.everything(),
    "two cells": sweeps.result(sweeps.over_slots(range(2))),
    "one cell": sweeps.result(sweeps.over_slots(range(1))),
    "no cell": sweeps.result([]),
    "none valid": none_valid(),
    "open loop only": sweeps.result(sweeps.over_rate()),
    "huge": huge(),
    "odd": odd(),
    "failed": sweeps.result(sweeps.over_slots()) | {
        "cells": [*sweeps.over_slots(), failed()]
    },
}  # fmt: skip


@pytest.mark.parametrize("name", RESULTS)
def test_a_page_is_whole_html(name):
    text = page.render(RESULTS[name])
    tree = parsed(text)
    assert text.startswith("<!doctype html>")
    assert tree.count("h1") == 1
    assert tree.count("figure") == tree.count("figcaption") == tree.count("svg")


def test_a_whole_page_has_every_kind_of_chart():
    tree = parsed(page.render(sweeps.everything()))
    assert tree.count("svg") == 6


@pytest.mark.parametrize("name", RESULTS)
def test_nothing_is_loaded_from_anywhere(name):
    text = page.render(RESULTS[name])
    assert not re.search(r"https?:|//|\bsrc=|\bhref=|url\(|@import", text)
    assert escape(page.POLICY) in text


@pytest.mark.parametrize("name", RESULTS)
def test_no_number_is_missing(name):
    body = page.render(RESULTS[name]).split("<body>")[1].split("<script>")[0]
    assert not re.search(r"\b(nan|None|Infinity|inf)\b", body)


def poisoned(value):
    if isinstance(value, dict):
        return {name: poisoned(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [poisoned(inner) for inner in value]
    known = value in ("closed", "open", "block", "slots", "auto")
    return EVIL if isinstance(value, str) and not known else value


def test_all_text_is_escaped():
    clean = parsed(page.render(sweeps.everything()))
    tree = parsed(page.render(poisoned(sweeps.everything())))
    assert tree.count("script") == clean.count("script") == 1
    assert any(EVIL in text for text in tree.texts)


def test_a_text_that_is_not_escaped_would_be_noticed():
    tree = parsed(f"<p>{EVIL.replace('</script>', '', 1)}</p>")
    assert tree.count("script") == 1


# -- pictures ------------------------------------------------------------------


def pictures(text: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(p) for p in re.findall(r"<svg.*?</svg>", text)]


@pytest.mark.parametrize("name", RESULTS)
def test_pictures_are_xml_with_a_title_and_a_description(name):
    found = pictures(page.render(RESULTS[name]))
    ids = [e.get("id") for svg in found for e in svg.iter() if e.get("id")]
    assert len(ids) == len(set(ids)) == 2 * len(found)
    for svg in found:
        assert svg.get("role") == "img"
        assert all(svg.find(part).text for part in ("title", "desc"))
        named = {svg.find("title").get("id"), svg.find("desc").get("id")}
        assert set(svg.get("aria-labelledby").split()) == named


@pytest.mark.parametrize("name", RESULTS)
def test_what_is_drawn_lies_in_its_picture(name):
    for svg in pictures(page.render(RESULTS[name])):
        _, _, width, height = map(float, svg.get("viewBox").split())
        for part in svg.iter():
            x, y = part.get("x") or part.get("cx"), part.get("y") or part.get("cy")
            if x and y:
                assert 0 <= float(x) <= width, ElementTree.tostring(part)
                assert 0 <= float(y) <= height, ElementTree.tostring(part)


def test_a_cell_that_is_not_valid_is_hollow_and_no_line_passes():
    def looks(result):
        (svg, _) = pictures(page.render(result))
        classes = [part.get("class", "") for part in svg.iter()]
        lines = [
            part.get("points").count(",")
            for part in svg.iter()
            if part.get("class") == "line most"
        ]
        return sum("hollow" in look for look in classes), lines

    cells = sweeps.over_slots()
    assert looks(sweeps.result(cells)) == (0, [7])
    cells[2] = sweeps.invalid(cells[2], "late")
    assert looks(sweeps.result(cells)) == (2, [6])


def test_an_invalid_cell_is_listed_with_its_reason():
    tree = parsed(page.render(RESULTS["failed"]))
    assert any("1,024 slots, " in t and t.endswith("OSError: no memory")
               for t in tree.texts)  # fmt: skip
    assert not any("not valid" in t for t in parsed(page.render(huge())).texts)


# -- the table -----------------------------------------------------------------


def table(result: sweeps.Result) -> ElementTree.Element:
    (found,) = re.findall(r'<table class="sorted">.*?</table>', page.render(result))
    return ElementTree.fromstring(found)


def test_the_table_has_every_cell_and_every_column():
    found = table(sweeps.everything())
    titles = found.findall("thead/tr/th")
    rows = found.findall("tbody/tr")
    assert all(title.get("scope") == "col" for title in titles)
    assert len(rows) == len(sweeps.everything()["cells"])
    assert {len(row) for row in rows} == {len(titles)}


def test_numbers_are_sorted_by_value_not_by_what_is_written():
    found = table(sweeps.result(sweeps.over_slots()))
    names = ["".join(title.itertext()) for title in found.findall("thead/tr/th")]
    at = names.index("p99")
    values = [float(row[at].get("data-value")) for row in found.findall("tbody/tr")]
    assert values == [c["latency_us"]["p99"] for c in sweeps.over_slots()]


# -- colours -------------------------------------------------------------------


def channels(colour: str) -> list[float]:
    return [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]


def luminance(parts: list[float]) -> float:
    linear = [
        p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
    ]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: list[float], other: list[float]) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("of", [style.LIGHT, style.DARK], ids=["light", "dark"])
def test_every_text_has_contrast(of):
    for ground in ("paper", "raised"):
        for ink in ("ink", "muted", "most", "late", "gone", "warning"):
            found = contrast(channels(of[ink]), channels(of[ground]))
            assert found >= 4.5, (ink, ground)


@pytest.mark.parametrize("of", [style.LIGHT, style.DARK], ids=["light", "dark"])
def test_numbers_in_a_heat_map_have_contrast_and_more_is_stronger(of):
    paper, most = channels(of["paper"]), channels(of["most"])
    mixed = []
    for level in range(style.LEVELS + 1):
        part = style.HEAT_LEAST + style.HEAT_STEP * level
        pairs = zip(paper, most, strict=True)
        mixed.append([(1 - part) * a + part * b for a, b in pairs])
        assert contrast(channels(of["ink"]), mixed[-1]) >= 4.5
    steps = [contrast(paper, ground) for ground in mixed]
    assert all(a < b for a, b in pairwise(steps))


def test_contrast_is_that_of_the_guideline():
    assert contrast(channels("#000000"), channels("#ffffff")) == pytest.approx(21)
    assert contrast(channels("#777777"), channels("#ffffff")) < 4.5


# -- the command ---------------------------------------------------------------


def command(*words: str) -> int:
    import argparse

    parser = argparse.ArgumentParser()
    report.add_arguments(parser)
    return report.run(parser.parse_args(words))


def test_a_report_is_written_and_said_where(tmp_path, capsys):
    saved, html = tmp_path / "sweep.json", tmp_path / "page.html"
    saved.write_text(json.dumps(sweeps.everything()))
    assert command(str(saved), "--html", str(html)) == 0
    assert capsys.readouterr().out == f"{html}\n"
    assert html.read_text() == page.render(sweeps.everything())


@pytest.mark.parametrize(
    ("content", "words", "complaint"),
    [
        ('{"version": 2, "cells": []}', ("--html", "x"), "is of version 2, not 1"),
        ("[]", ("--html", "x"), "is of version None"),
        ("no json", ("--html", "x"), "is no JSON: give a file that"),
        ("{}", (), "give --html FILE or --plots FOLDER"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path, capsys, content, words, complaint):
    saved = tmp_path / "sweep.json"
    saved.write_text(content)
    assert command(str(saved), *words) == 1
    assert complaint in capsys.readouterr().err
