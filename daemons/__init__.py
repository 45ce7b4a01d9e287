"""The process that serves rings: control plane in Python, data plane in C."""

from .backend import Backend, Batch
from .process import Daemon, spawn

__all__ = ["Backend", "Batch", "Daemon", "spawn"]
