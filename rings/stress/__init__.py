"""Ring-sizing stress tests: `python -m rings stress`."""
