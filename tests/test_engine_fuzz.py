"""The engine against a hostile frontend, under ASan and UBSan, with its controls."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FUZZ = ROOT / "tests" / "sanitize" / "engine_fuzz.c"
SOURCES = (
    "attach", "backend", "delay", "engine", "exec_mock", "exec_threads", "exec_uring",
    "notify", "request", "serve", "station", "uring",
)  # fmt: skip
FLAGS = [
    "-std=gnu11", "-g", "-O1", "-fsanitize=address,undefined", "-Werror", "-Wall",
    "-fno-sanitize-recover=all", "-Wno-unused-function", "-Wno-unused-variable",
]  # fmt: skip

# What is taken out, and from which file; each of these must be noticed.
MUTANTS = {
    "no overflow check": (
        "rings/csrc/xen.h",
        "if (ready <= back->ring.nr_slots - (back->req_cons - back->rsp_published))",
        "if (true)",
    ),
    "grant's bounds not checked": (
        "daemons/csrc/request.c",
        "!within(segment->offset, segment->length, length) || ",
        "",
    ),
    "grant may lie in the ring": (
        "daemons/csrc/request.c",
        "if (offset < memory->data_offset || !within(offset, length, memory->size))",
        "if (!within(offset, length, memory->size))",
    ),
    "indirect table not copied": (
        "daemons/csrc/request.c",
        "if (wire->segments[0].length != wire->nr_segments * sizeof table[0])",
        "if (false)",
    ),
    "device's range not checked": (
        "daemons/csrc/request.c",
        "if (!within(req->offset, req->length, device->size))",
        "if (false)",
    ),
    "blkif sectors not checked": (
        "daemons/csrc/request.c",
        "if (segment->first_sect > segment->last_sect || segment->last_sect > 7)",
        "if (false)",
    ),
    "ring let go with requests at a station": (
        "daemons/csrc/attach.c",
        "delay_drop(ring, req);",
        "give_back(ring, req);",
    ),
    "ring let go with I/O in flight": (
        "daemons/csrc/attach.c",
        "if (!ring->detached || ring->operations > 0 || ring->dirty)",
        "if (!ring->detached)",
    ),
}


def build(tree: Path, target: Path) -> None:
    csrc = tree / "daemons" / "csrc"
    command = ["gcc", *FLAGS, f"-I{csrc}", f"-I{tree / 'rings' / 'csrc'}", str(FUZZ)]
    command += [str(csrc / f"{name}.c") for name in SOURCES]
    done = subprocess.run(
        [*command, "-lpthread", "-lm", "-o", str(target)],
        capture_output=True,
        text=True,
    )
    if "cannot find" in done.stderr and "asan" in done.stderr:
        pytest.skip("gcc has no sanitizer runtime here")
    assert done.returncode == 0, done.stderr


def run(
    program: Path, seed: int, states: int, limit_s: float | None = 110
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program), str(seed), str(states)],
        capture_output=True,
        text=True,
        timeout=limit_s,
    )


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("fuzz") / "engine_fuzz"
    build(ROOT, target)
    return target


@pytest.mark.parametrize("seed", [1, 2])
def test_a_hostile_frontend_harms_only_its_own_ring(program: Path, seed: int) -> None:
    done = run(program, seed, 500_000)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("ok")


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3, 11))
def test_a_hostile_frontend_for_longer(program: Path, seed: int) -> None:
    assert run(program, seed, 5_000_000, None).returncode == 0


@pytest.mark.parametrize("name", MUTANTS)
def test_the_fuzzer_notices(name: str, tmp_path: Path) -> None:
    path, old, new = MUTANTS[name]
    for part in ("daemons", "rings"):
        shutil.copytree(ROOT / part / "csrc", tmp_path / part / "csrc")
    text = (tmp_path / path).read_text()
    assert text.count(old) == 1
    (tmp_path / path).write_text(text.replace(old, new))
    build(tmp_path, tmp_path / "mutant")
    for seed in range(1, 6):
        try:
            if run(tmp_path / "mutant", seed, 200_000).returncode != 0:
                return
        except subprocess.TimeoutExpired:
            return
    pytest.fail("200,000 states with each of 5 seeds, and nothing was noticed")
