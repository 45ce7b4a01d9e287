"""Services in Python."""


class Backend:
    """To come."""

    size = 0
    block_size = 1
