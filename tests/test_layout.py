"""LAYOUT*.md, layout.py and the C structs say the same, and are held to it.

The markdown is the source: each table follows a comment that says what it is.
All pages are read as one.
"""

import re
import struct
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from rings import codec, layout
from rings.states import State

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").glob("LAYOUT*.md"))
TEXT = "\n".join(page.read_text() for page in PAGES)
MARKER = re.compile(r"^<!-- (.+) -->$")
# Sizes and flags that are told in prose beside the table they belong to.
NOT_OFFSETS = {"IO_REQUEST_SIZE", "IO_RESPONSE_SIZE", "REGION_HEADER_SIZE"}


class Row(NamedTuple):
    offset: int
    size: int  # 0: up to the end
    field: str
    writer: str


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def tables() -> dict[str, list[list[str]]]:
    """Each marked table's body, by its marker."""
    found: dict[str, list[list[str]]] = {}
    lines = iter(TEXT.splitlines())
    for line in lines:
        if match := MARKER.match(line):
            assert next(lines) == "", f"a blank line must follow {line}"
            rows = []
            for row in lines:
                if not row.startswith("|"):
                    break
                rows.append(cells(row))
            assert match[1] not in found, f"two tables are called {match[1]}"
            found[match[1]] = rows[2:]
    return found


TABLES = tables()


def rows(marker: str) -> list[Row]:
    return [
        Row(int(offset), int(size) if size.isdigit() else 0, field, writer)
        for offset, size, field, writer, _ in TABLES[marker]
    ]


def kinds(kind: str) -> list[str]:
    return [marker for marker in TABLES if marker.split()[0].rstrip(":") == kind]


OFFSET_TABLES = kinds("offsets")
RING_TABLES = kinds("ring")
BLKIF_TABLES = kinds("blkif")


def constants() -> dict[str, int]:
    told = [row for marker in kinds("constants") for row in TABLES[marker]]
    assert len({name for name, _, _ in told}) == len(told), "a constant is told twice"
    return {name: int(value, 0) for name, value, _ in told}


def test_every_kind_of_table_was_found():
    assert len(PAGES) >= 4
    assert len(OFFSET_TABLES) >= 14
    assert len(RING_TABLES) == 2
    assert len(BLKIF_TABLES) == 3
    assert constants()
    assert TABLES["orderings"]


def test_constants_are_what_the_page_says():
    assert {name: getattr(layout, name) for name in constants()} == constants()


def test_magic_spells_its_name():
    assert struct.pack("<Q", layout.MAGIC) == b"RINGSMEM"


@pytest.mark.parametrize("marker", OFFSET_TABLES)
def test_offsets_are_what_the_page_says(marker):
    prefix = marker.split()[1]
    for row in rows(marker):
        if row.field != "reserved" or hasattr(layout, prefix + "RESERVED"):
            assert getattr(layout, prefix + row.field.upper()) == row.offset, row


def test_every_number_of_layout_py_is_on_the_page():
    told = set(constants())
    for marker in OFFSET_TABLES:
        prefix = marker.split()[1]
        told |= {prefix + row.field.upper() for row in rows(marker)}
    ours = {
        name
        for name, value in vars(layout).items()
        if name.isupper() and isinstance(value, int)
    }
    assert ours - told == set()


@pytest.mark.parametrize("marker", OFFSET_TABLES + RING_TABLES + ["packet"])
def test_fields_neither_overlap_nor_leave_untold_bytes(marker):
    table = rows(marker)
    for before, after in pairwise(table):
        assert before.offset + before.size == after.offset, (before, after)
    for row in table:
        if row.size in (2, 4, 8):
            assert row.offset % row.size == 0, f"{row} is not aligned"


@pytest.mark.parametrize(
    ("marker", "size"),
    [
        ("offsets: REGION_", layout.REGION_HEADER_SIZE),
        ("offsets: GRANT_", layout.GRANT_SIZE),
        ("offsets: IO_", layout.IO_REQUEST_SIZE),
        ("offsets: SEGMENT_", layout.SEGMENT_SIZE),
        ("offsets: IO_RSP_", layout.IO_RESPONSE_SIZE),
        ("offsets: SPSC_RECORD_", layout.SPSC_RECORD_HEADER),
        ("offsets: ENTRY_", layout.ENTRY_SIZE),
        ("offsets: MPMC_OWNER_", layout.MPMC_OWNER_SIZE),
    ],
)
def test_table_ends_where_the_struct_ends(marker, size):
    last = rows(marker)[-1]
    assert last.offset + last.size == size


@pytest.mark.parametrize("kind", ["SPLIT_", "SPSC_", "BROADCAST_", "MPMC_"])
def test_params_follow_the_region_header_without_a_gap(kind):
    assert rows(f"offsets: {kind}")[0].offset == layout.REGION_PARAMS


@pytest.mark.parametrize("marker", RING_TABLES)
def test_ring_words_are_what_the_page_says(marker):
    words = layout.RING_WORDS[getattr(layout, marker.split()[1])]
    told = {row.field: row.offset for row in rows(marker) if row.field != "reserved"}
    assert words._asdict() == told


def test_padded_ring_has_one_writer_a_pair_of_cache_lines():
    words = rows(next(m for m in RING_TABLES if "PADDED" in m))
    for row in words:
        if row.writer in ("frontend", "backend"):
            assert (row.offset // 128 == 0) == (row.writer == "frontend"), row


# -- C ------------------------------------------------------------------------


def offsets_in_c(
    tmp_path: Path, includes: str, type_: str, fields: list[str]
) -> dict[str, int]:
    """What the compiler says: offsets of `fields`, and the size of the struct."""
    prints = "".join(
        f'printf("{field} %zu\\n", offsetof({type_}, {field}));' for field in fields
    )
    source = tmp_path / "offsets.c"
    source.write_text(
        f"#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n{includes}\n"
        f'int main(void) {{ {prints} printf("sizeof %zu\\n", sizeof({type_})); }}\n'
    )
    program = tmp_path / "offsets"
    folders = [f"-I{ROOT / top / 'csrc'}" for top in ("rings", "daemons")]
    command = ["gcc", "-std=gnu11", "-D_GNU_SOURCE", *folders]
    subprocess.run([*command, str(source), "-o", str(program)], check=True)
    out = subprocess.run([str(program)], check=True, capture_output=True, text=True)
    pairs = (line.split() for line in out.stdout.splitlines())
    return {name: int(value) for name, value in pairs}


@pytest.mark.parametrize("marker", RING_TABLES)
def test_ring_header_in_c_is_what_the_page_says(marker, tmp_path):
    _, _, _, struct_name, header = marker.split()
    table = rows(marker)
    named = {r.field: r.offset for r in table if r.field not in ("reserved", "slots")}
    in_c = offsets_in_c(
        tmp_path, f'#include "{header}"', f"struct {struct_name}", list(named)
    )
    assert in_c.pop("sizeof") == table[-1].offset
    assert in_c == named


@pytest.mark.parametrize(
    ("marker", "struct_name", "header"),
    [
        ("offsets: IO_", "wire_request", "request.h"),
        ("offsets: IO_RSP_", "wire_response", "request.h"),
        ("offsets: SEGMENT_", "wire_segment", "request.h"),
        ("offsets: GRANT_", "wire_grant", "request.h"),
        ("offsets: IO_", "io_request", "front.h"),
        ("offsets: IO_RSP_", "io_response", "front.h"),
        ("offsets: SEGMENT_", "io_segment", "front.h"),
    ],
)
def test_slots_in_c_are_what_the_page_says(marker, struct_name, header, tmp_path):
    table = rows(marker)
    in_c = offsets_in_c(
        tmp_path,
        f'#include "{header}"',
        f"struct {struct_name}",
        [row.field for row in table],
    )
    assert in_c.pop("sizeof") == table[-1].offset + table[-1].size
    assert in_c == {row.field: row.offset for row in table}


# `reserved` is called many things in C, and what lies behind a header is no member.
NOT_MEMBERS = {"reserved", "data"}


@pytest.mark.parametrize(
    ("marker", "struct_name", "header"),
    [
        ("offsets: SPSC_", "spsc_header", "spsc.h"),
        ("offsets: SPSC_RECORD_", "spsc_record", "spsc.h"),
        ("offsets: SPSC_REFERENCE_", "spsc_reference", "spsc.h"),
        ("offsets: END_", "owned_end", "owner.h"),
        ("offsets: BROADCAST_", "broadcast_header", "broadcast.h"),
        ("offsets: ENTRY_", "broadcast_entry", "broadcast.h"),
        ("offsets: BROADCAST_SLOT_", "broadcast_slot", "broadcast.h"),
    ],
)
def test_message_rings_in_c_are_what_the_page_says(
    marker, struct_name, header, tmp_path
):
    """Those of MPMC rings: tests/test_mpmc_layout.py."""
    named = {r.field: r.offset for r in rows(marker) if r.field not in NOT_MEMBERS}
    in_c = offsets_in_c(
        tmp_path, f'#include "{header}"', f"struct {struct_name}", list(named)
    )
    in_c.pop("sizeof")
    assert in_c == named


XEN_HEADER = Path("/usr/include/xen/io/blkif.h")


@pytest.mark.skipif(not XEN_HEADER.exists(), reason="needs libxen-dev")
@pytest.mark.parametrize("marker", BLKIF_TABLES)
def test_blkif_is_what_xens_header_says(marker, tmp_path):
    table = {row.field: row.offset for row in rows(marker)}
    in_c = offsets_in_c(
        tmp_path, "#include <xen/io/blkif.h>", marker.split(": ")[1], list(table)
    )
    size = in_c.pop("sizeof")
    assert in_c == table
    if marker.endswith("blkif_request"):
        assert size == layout.BLKIF_SLOT_SIZE


@pytest.mark.skipif(
    not XEN_HEADER.with_name("ring.h").exists(), reason="needs libxen-dev"
)
def test_xen_ring_page_is_what_xens_header_says(tmp_path):
    includes = (
        "#include <string.h>\n#include <xen/io/ring.h>\n"
        "struct req { char b[64]; }; struct rsp { char b[16]; };\n"
        "DEFINE_RING_TYPES(t, struct req, struct rsp);"
    )
    words = layout.XEN_WORDS._asdict()
    words["ring"] = words.pop("slots")
    in_c = offsets_in_c(tmp_path, includes, "struct t_sring", list(words))
    in_c.pop("sizeof")
    assert in_c == words


# -- orderings ----------------------------------------------------------------


def test_orderings_of_the_page_are_those_of_the_code():
    folders = [ROOT / "rings", ROOT / "daemons"]
    files = [
        p for f in folders for end in ("c", "h", "py") for p in f.rglob(f"*.{end}")
    ]
    code = "".join(path.read_text() for path in files)
    named = set(re.findall(r"\b(?:release|acquire|full barrier): (\w+-[a-z-]+)", code))
    assert named == {row[0] for row in TABLES["orderings"]}


# -- control packets ----------------------------------------------------------


def test_packet_header_is_what_the_page_says():
    table = rows("packet")
    widths = {1: "B", 2: "H", 4: "I", 8: "Q"}
    told = struct.Struct("=" + "".join(widths[row.size] for row in table))
    assert told.size == codec.HEADER.size
    assert told.format == codec.HEADER.format
    assert struct.pack("<I", codec.MAGIC) == b"RNG1"
    assert f"0x{codec.MAGIC:X}" in TEXT
    assert f"at most {codec.MAX_PACKET} bytes" in TEXT


def test_messages_are_what_the_page_says():
    told = {
        int(number): (name, [key for key in keys.split(", ") if key])
        for number, name, _, keys in TABLES["messages"]
    }
    spoken = {
        number: (message.__name__, list(keys))
        for number, (message, keys) in codec.MESSAGES.items()
    }
    assert told == spoken


def test_states_are_what_the_page_says():
    told = re.findall(
        r"(\d) (unknown|init\w*(?:-wait)?|connected|clos\w+|reconf\w+)\b", TEXT
    )
    for number, name in told:
        assert State[name.upper().replace("-", "_")] == int(number)
    assert {name for _, name in told} == {
        state.name.lower().replace("_", "-") for state in State
    }


# -- geometry -----------------------------------------------------------------


@pytest.mark.parametrize("ring_layout", [layout.XEN, layout.PADDED])
@pytest.mark.parametrize("slots", [1, 32, 128, layout.MAX_SLOTS])
def test_parts_of_a_split_region_follow_one_another(ring_layout, slots):
    g = layout.split_geometry(ring_layout=ring_layout, slots=slots)
    assert g.ring_offset == layout.REGION_HEADER_SIZE
    header = layout.RING_WORDS[ring_layout].slots
    assert g.ring_size >= header + slots * g.slot_size
    assert g.grants_offset == g.ring_offset + g.ring_size
    assert g.data_offset >= g.grants_offset + g.grants * layout.GRANT_SIZE
    assert g.size == g.data_offset + g.data_size
    parts = (g.ring_offset, g.ring_size, g.grants_offset, g.data_offset, g.size)
    assert all(part % layout.PAGE == 0 for part in parts)


@pytest.mark.parametrize(
    "wrong",
    [
        {"slots": 0},
        {"slots": 3},
        {"slots": layout.MAX_SLOTS * 2},
        {"slot_size": 8},
        {"slot_size": 20},
        {"slot_size": layout.MAX_SLOT_SIZE + 8},
        {"ring_layout": 2},
        {"grants": 0},
        {"grants": (1 << 20) + 1},
        {"start": -1},
        {"start": 1 << 32},
        {"data_size": 1},
        {"data_size": -layout.PAGE},
    ],
)
def test_impossible_numbers_are_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        layout.split_geometry(**wrong)
