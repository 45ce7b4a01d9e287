"""Benchmarks: one file a question, the rivals in the same run, the losing rows too.

``python -m bench block`` asks what the ring costs between a reader and its disk;
``python -m bench messages`` asks what a message costs between two processes.
"""
