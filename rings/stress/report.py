"""Draw what `rings stress --json` wrote, as a page and as plots."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from . import page
from .findings import Result
from .plots import draw

VERSION = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `rings report`."""
    parser.add_argument(
        "result", metavar="FILE", help="what `rings stress --json` wrote"
    )
    parser.add_argument("--html", metavar="FILE", help="write one self-contained page")
    parser.add_argument(
        "--plots", metavar="FOLDER", help="write PNG files (matplotlib)"
    )


def load(path: str | Path) -> dict[str, Any]:
    """Return a result.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not a result, or of a version that we do not know.
    """
    try:
        result = json.loads(Path(path).read_text())
    except ValueError:
        raise ValueError(
            f"{path} is no JSON: give a file that `rings stress --json FILE` wrote"
        ) from None
    version = result.get("version") if isinstance(result, dict) else None
    if version != VERSION or "cells" not in result:
        raise ValueError(
            f"{path} is of version {version}, not {VERSION}: "
            "give a file that `rings stress --json FILE` of this release wrote"
        )
    return dict(result)


def run(options: argparse.Namespace) -> int:
    """Write what was asked for, and say where; 1 if that cannot be."""
    try:
        if not (options.html or options.plots):
            raise ValueError("nothing to write: give --html FILE or --plots FOLDER")
        written = write(load(options.result), options.html, options.plots)
    except (ValueError, ModuleNotFoundError) as error:
        print(f"rings report: {error}", file=sys.stderr)
        return 1
    print(*written, sep="\n")
    return 0


def write(result: Result, html: str | None, plots: str | None) -> list[Path]:
    """Write the page and the plots of a result, and return where they are."""
    written = []
    if html:
        Path(html).write_text(page.render(result))
        written.append(Path(html))
    return written + (draw(result, plots) if plots else [])
