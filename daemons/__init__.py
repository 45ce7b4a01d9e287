"""The process that serves rings: control plane in Python, data plane in C."""
