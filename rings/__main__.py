"""``python -m rings``: the `rings` command."""

from .cli import main

raise SystemExit(main())
