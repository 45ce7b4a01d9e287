"""Tells cffi how to build ``daemons._engine`` from the C files in ``csrc``."""

from glob import glob
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
SOURCES = (
    "attach", "backend", "delay", "engine", "exec_mock", "exec_threads", "exec_uring",
    "notify", "op_run", "request", "serve", "station", "uring",
)  # fmt: skip

ffi = FFI()
ffi.cdef((HERE / "csrc" / "engine.cdef").read_text())
ffi.set_source(
    "daemons._engine",
    '#include "engine.h"',
    sources=[f"daemons/csrc/{name}.c" for name in SOURCES],
    depends=[
        "daemons/csrc/engine.cdef",
        *sorted(glob("daemons/csrc/*.h")),
        *(f"rings/csrc/{name}.h" for name in ("core", "wait", "xen")),
    ],
    include_dirs=["daemons/csrc", "rings/csrc"],
    libraries=["pthread", "m"],
    extra_compile_args=["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Werror",
                        "-Wno-unused-parameter", "-Wno-missing-field-initializers",
                        "-Wno-unused-function"],
    py_limited_api=True,
)  # fmt: skip
