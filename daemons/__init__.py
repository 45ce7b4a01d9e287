"""The process that serves rings: control plane in Python, data plane in C."""

from .process import Daemon, spawn

__all__ = ["Daemon", "spawn"]
