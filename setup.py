"""Build the two compiled parts; pyproject.toml holds everything else.

``rings._core`` is one limited-API extension (one wheel serves 3.11 and later);
``daemons._engine`` is bound by cffi, which only a ``setup()`` keyword can ask for.
"""

from glob import glob

from setuptools import Extension, setup

core = Extension(
    "rings._core",
    sources=sorted(glob("rings/csrc/*.c")),
    depends=sorted(glob("rings/csrc/*.h")),
    define_macros=[("Py_LIMITED_API", "0x030B0000")],
    extra_compile_args=[
        "-std=gnu11", "-O2", "-g", "-fvisibility=hidden", "-fno-plt",
        "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter",
        "-Wno-missing-field-initializers", "-Wno-cast-function-type",
    ],
    py_limited_api=True,
)  # fmt: skip

setup(
    ext_modules=[core],
    cffi_modules=["daemons/_engine_build.py:ffi"],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
