"""layout.py and the C headers name the same bytes of an MPMC ring."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from rings import layout

CSRC = Path(__file__).parent.parent / "rings" / "csrc"

NAMES = {
    "WORDS(side[0].index)": "MPMC_PROD",
    "WORDS(side[0].sleeps)": "MPMC_PUT_SLEEPS",
    "WORDS(side[1].index)": "MPMC_CONS",
    "WORDS(side[1].sleeps)": "MPMC_GET_SLEEPS",
    "WORDS(side[1].shut)": "MPMC_SHUT",
    "WORDS(owners)": "MPMC_OWNERS_OFFSET",
    "MPMC_HEADER_OFFSET": "MPMC_HEADER_OFFSET",
    "MPMC_SLOTS_OFFSET": "MPMC_SLOTS_OFFSET",
    "MPMC_LIMIT_OFFSET": "MPMC_LIMIT",
    "MPMC_OWNERS": "MPMC_OWNERS",
    "MPMC_MAX_SLOTS": "MPMC_MAX_SLOTS",
    "MPMC_MAX_SLOT_SIZE": "MPMC_MAX_SLOT_SIZE",
    "SHUT_PUTS": "MPMC_SHUT_PUTS",
    "SHUT_GETS": "MPMC_SHUT_GETS",
    "sizeof(struct mpmc_owner)": "MPMC_OWNER_SIZE",
    "OWNER(word)": "MPMC_OWNER_WORD",
    "OWNER(start_time)": "MPMC_OWNER_START_TIME",
    "OWNER(pid_space)": "MPMC_OWNER_PID_SPACE",
    "OWNER(messages_put)": "MPMC_OWNER_PUT",
    "OWNER(messages_got)": "MPMC_OWNER_GOT",
    "OWNER(tombstones)": "MPMC_OWNER_TOMBSTONES",
    "OWNER(in_doubt)": "MPMC_OWNER_IN_DOUBT",
    "OWNER(lost)": "MPMC_OWNER_LOST",
    "sizeof(struct mpmc_slot)": "MPMC_SLOT_HEADER",
    "SLOT(word)": "MPMC_SLOT_WORD",
    "SLOT(length)": "MPMC_SLOT_LENGTH",
    "SLOT(data)": "MPMC_SLOT_DATA",
    "mpmc_stride(1)": "MPMC_SLOT_UNIT",
}

SOURCE = """
#include <stdio.h>
#include "mpmc.h"
#define WORDS(m) (MPMC_HEADER_OFFSET + offsetof(struct mpmc_header, m))
#define OWNER(m) offsetof(struct mpmc_owner, m)
#define SLOT(m) offsetof(struct mpmc_slot, m)
int main(void)
{
    size_t values[] = {VALUES};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        printf("%zu ", values[i]);
}
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_layout_and_headers_agree(tmp_path):
    source = SOURCE.replace("VALUES", ", ".join(NAMES))
    (tmp_path / "offsets.c").write_text(source)
    command = ["gcc", "-std=gnu11", f"-I{CSRC}", "offsets.c", "-o", "offsets"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run(["./offsets"], cwd=tmp_path, capture_output=True, check=True)
    in_c = dict(zip(NAMES.values(), map(int, done.stdout.split()), strict=True))
    assert in_c == {name: getattr(layout, name) for name in NAMES.values()}


def test_every_name_of_layout_is_compared():
    ours = {name for name in vars(layout) if name.startswith("MPMC_")}
    params = {"MPMC_SLOTS", "MPMC_SLOT_SIZE", "MPMC_START"}
    assert ours - params == set(NAMES.values())
