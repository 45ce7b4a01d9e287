"""Where the daemon's socket is, and whose daemons are trusted."""

from __future__ import annotations

import os
import stat


def default_address() -> str:
    """Return where the daemon's socket is unless one says otherwise.

    $RINGS_SOCKET, or $XDG_RUNTIME_DIR/rings/ringsd.sock, or
    /tmp/rings-<uid>/ringsd.sock.

    Raises:
        PermissionError: The directory under /tmp is not this user's alone.
    """
    if address := os.environ.get("RINGS_SOCKET"):
        return address
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return os.path.join(runtime, "rings", "ringsd.sock")
    directory = f"/tmp/rings-{os.geteuid()}"
    check_private(directory)
    return os.path.join(directory, "ringsd.sock")


def check_private(directory: str) -> None:
    """Check that a directory, if it exists, belongs to this user alone.

    Raises:
        PermissionError: Another user owns it or may write in it.
    """
    try:
        status = os.lstat(directory)
    except FileNotFoundError:
        return
    private = stat.S_ISDIR(status.st_mode) and not stat.S_IMODE(status.st_mode) & 0o077
    if not private or status.st_uid != os.geteuid():
        raise PermissionError(
            f"{directory} is not a directory of uid {os.geteuid()} with mode 0700; "
            "remove it, or name another place by $RINGS_SOCKET"
        )


def trusted_uids() -> set[int]:
    """Return whose daemons this process talks to: its own user's and root's."""
    listed = os.environ.get("RINGS_TRUST_UIDS", "").replace(",", " ").split()
    return {0, os.geteuid(), *(int(uid) for uid in listed if uid.isdecimal())}
