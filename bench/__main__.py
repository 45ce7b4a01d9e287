"""``python -m bench NAME``: one of the benchmarks below; ``--help`` for more."""

from __future__ import annotations

import argparse
import importlib

SUBCOMMANDS = ("block", "messages", "advice", "sizing", "resize", "restart", "tables")


def main(arguments: list[str] | None = None) -> int:
    """Run one benchmark and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    choices = parser.add_subparsers(dest="bench", required=True)
    for name in SUBCOMMANDS:
        module = importlib.import_module(f"bench.{name}")
        about = (module.__doc__ or "").strip()
        chosen = choices.add_parser(
            name,
            help=about.splitlines()[0],
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(chosen)
        chosen.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    run = options.run
    del options.run
    return int(run(options))


if __name__ == "__main__":
    raise SystemExit(main())
