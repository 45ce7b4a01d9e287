"""Tells cffi how to build ``daemons._engine`` from ``csrc/engine.c``."""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent

ffi = FFI()
ffi.cdef((HERE / "csrc" / "engine.cdef").read_text())
ffi.set_source(
    "daemons._engine",
    '#include "engine.h"',
    sources=["daemons/csrc/engine.c"],
    depends=["daemons/csrc/engine.h", "daemons/csrc/engine.cdef"],
    include_dirs=["daemons/csrc", "rings/csrc"],
    extra_compile_args=["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Werror",
                        "-Wno-unused-parameter", "-Wno-missing-field-initializers",
                        "-Wno-unused-function"],
    py_limited_api=True,
)  # fmt: skip
