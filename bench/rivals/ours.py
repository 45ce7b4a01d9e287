"""Our own rings, in each waiting strategy."""

ADAPTERS = []
