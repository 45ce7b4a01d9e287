"""The wheel holds what it should, for every Python since 3.11, and is enough."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = shutil.ignore_patterns(
    ".*", "build", "dist", "*.so", "*.egg-info", "__pycache__", "tests", "*.img"
)


def can_build_here() -> bool:
    """Whether this environment has what pyproject.toml asks of a build."""
    try:
        return int(version("setuptools").split(".")[0]) >= 77
    except PackageNotFoundError:
        return False


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a clean copy of the tree, as offline as can be."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=LEFT_OUT)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps"]
    command += ["--no-build-isolation"] if can_build_here() else []
    command += ["-w", str(folder), str(source)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def test_one_wheel_serves_every_python(wheel):
    assert "-cp311-abi3-linux_" in wheel.name


def test_both_extensions_are_abi3(names):
    compiled = {name for name in names if name.endswith(".so")}
    assert compiled == {"rings/_core.abi3.so", "daemons/_engine.abi3.so"}


def test_types_and_headers_are_there(names):
    for package in ("rings", "daemons"):
        assert f"{package}/py.typed" in names
    assert "rings/_core.pyi" in names
    assert "rings/csrc/core.h" in names
    assert "rings/csrc/xen.h" in names


def test_every_module_is_there_and_nothing_else(names):
    for package in ("rings", "daemons"):
        ours = {str(p.relative_to(ROOT)) for p in (ROOT / package).rglob("*.py")}
        assert ours <= names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "rings",
        "daemons",
    }


def test_commands_are_installed(wheel):
    files = zipfile.ZipFile(wheel)
    (entry,) = [n for n in files.namelist() if n.endswith("entry_points.txt")]
    text = files.read(entry).decode()
    assert "rings = rings.cli:main" in text
    assert "ringsd = daemons.__main__:main" in text


def test_it_imports_where_nothing_else_is_installed(wheel, tmp_path):
    target = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
    subprocess.run([*command, "--target", str(target), str(wheel)], check=True)
    program = (
        "import sys, rings, rings._core, rings.layout\n"
        "assert rings.__file__.startswith(sys.argv[1]), rings.__file__\n"
    )
    subprocess.run(
        [sys.executable, "-S", "-c", program, str(target)],
        check=True,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(target)},
    )
