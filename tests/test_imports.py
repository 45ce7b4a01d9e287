"""`import rings` costs the standard library alone, in any interpreter."""

import json
import subprocess
import sys
import sysconfig

import pytest

# Packages that break or bloat a worker: third-party ones are found by their place.
TOO_MUCH = {"asyncio", "ctypes", "hashlib", "multiprocessing", "ssl"}
REPORT = """
import json, sys
before = set(sys.modules)
import {names}
print(json.dumps([[name, getattr(module, "__file__", None) or ""]
                  for name, module in sorted(sys.modules.items())
                  if name not in before]))
"""


def imported_by(names: str) -> dict[str, str]:
    command = [sys.executable, "-I", "-c", REPORT.format(names=names)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def third_party(modules: dict[str, str]) -> set[str]:
    folders = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib")})
    return {
        name
        for name, file in modules.items()
        if file.startswith(folders) and name.split(".")[0] != "rings"
    }


def test_import_rings_is_the_standard_library_alone():
    modules = imported_by("rings")
    assert "rings" in modules
    assert third_party(modules) == set()
    assert not TOO_MUCH & modules.keys()


def test_a_third_party_import_would_be_noticed():
    assert "cffi" in third_party(imported_by("cffi"))


def test_public_names_exist_and_are_sorted():
    import rings

    assert rings.__all__ == sorted(rings.__all__)
    for name in rings.__all__:
        assert hasattr(rings, name)


RUN_IN_INTERPRETER = """
import sys
import {module} as interpreters
number = interpreters.create()
problem = interpreters.{run}(number, "{program}")
interpreters.destroy(number)
assert not problem, problem
"""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="own-GIL interpreters: 3.12")
def test_import_rings_in_an_own_gil_interpreter():
    module = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
    run = "exec" if sys.version_info >= (3, 13) else "run_string"
    inside = "import rings, rings._core; rings.advise(None, 5e-3, servers=9)"
    program = RUN_IN_INTERPRETER.format(module=module, run=run, program=inside)
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
