"""Take from this process what a ring's worker does not need.

A worker asks the daemon for its I/O, so it can do without the calls by which bad
code does harm: opening files, sockets, other programs, io_uring.  After

    disk = rings.connect().block("disk0")
    sandbox.lock_down()

those calls fail with EPERM for ever, in every thread and interpreter of the process
and in all its children, while the ring goes on working: its memory is mapped, its
event channels are open.  `lock_down(strict=True)` turns it round: only what a running
ring client calls is left.

Connect first and import first; a module imported late cannot be opened any more.
What is open stays open: hand a worker no descriptor that it should not have.  This
is a limit on system calls, not a virtual machine.  In the default mode a worker may
still start threads and fork, signal other processes, and fill memory; in the strict
mode it may not, but it may use what it holds.

The filter is classic BPF, run by the kernel before each call: is it the machine's
own kind of call, is its number in the list.  The 32-bit and x32 kinds are refused.
Calls go by number, so a filter sees neither paths nor what is behind pointers.

Call it in the main interpreter: it needs ctypes, which 3.12 keeps out of others.

Message rings use membarrier(2), which both modes leave.  A filter of another make
may kill who calls it, and does not say so: see `permit_membarrier`.

Source:
    seccomp(2); Linux, Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import errno
import os
import platform
import struct
from collections.abc import Iterable
from typing import Final

from . import _core

# Each call: its name, its number on x86_64, its number on aarch64 ("-": none).
_DENIED = """
    open 2 -  openat 257 56  openat2 437 437  creat 85 -
    open_by_handle_at 304 265  link 86 -  linkat 265 37  symlink 88 -
    symlinkat 266 36  unlink 87 -  unlinkat 263 35  rename 82 -  renameat 264 38
    renameat2 316 276  mkdir 83 -  mkdirat 258 34  rmdir 84 -  mknod 133 -
    mknodat 259 33  truncate 76 45  chmod 90 -  fchmodat 268 53  chown 92 -
    lchown 94 -  fchownat 260 54  execve 59 221  execveat 322 281  socket 41 198
    connect 42 203  bind 49 200  listen 50 201  accept 43 202  accept4 288 242
    io_uring_setup 425 425  io_uring_enter 426 426  io_uring_register 427 427
    io_setup 206 0  ptrace 101 117  process_vm_readv 310 270
    process_vm_writev 311 271  pidfd_getfd 438 438  kcmp 312 272
    memfd_create 319 279  memfd_secret 447 447  shmget 29 194  shmat 30 196
    shmctl 31 195  mq_open 240 180  mount 165 40  umount2 166 39
    pivot_root 155 41  chroot 161 51  unshare 272 97  setns 308 268
    open_tree 428 428  move_mount 429 429  fsopen 430 430  fspick 433 433
    mount_setattr 442 442  bpf 321 280  perf_event_open 298 241
    userfaultfd 323 282  keyctl 250 219  add_key 248 217  request_key 249 218
    init_module 175 105  finit_module 313 273  kexec_load 246 104
"""
_STRICT = """
    read 0 63  write 1 64  readv 19 65  writev 20 66  futex 202 98
    futex_waitv 449 449  poll 7 -  ppoll 271 73  epoll_wait 232 -
    epoll_pwait 281 22  epoll_pwait2 441 441  epoll_ctl 233 21  sendto 44 206
    recvfrom 45 207  shutdown 48 210  clock_gettime 228 113  gettimeofday 96 169
    clock_nanosleep 230 115  nanosleep 35 101  sched_yield 24 124  mmap 9 222
    munmap 11 215  mprotect 10 226  mremap 25 216  brk 12 214  madvise 28 233
    rt_sigreturn 15 139  rt_sigprocmask 14 135  rt_sigaction 13 134
    sigaltstack 131 132  restart_syscall 219 128  getpid 39 172  gettid 186 178
    getrandom 318 278  close 3 57  fstat 5 80  exit 60 93  exit_group 231 94
    membarrier 324 283
"""


def _parse(table: str) -> dict[str, tuple[str, str]]:
    words = table.split()
    return dict(
        zip(words[::3], zip(words[1::3], words[2::3], strict=True), strict=True)
    )


_NUMBERS: Final = _parse(_DENIED) | _parse(_STRICT)

DENIED: Final = tuple(_parse(_DENIED))
"""Calls that `lock_down` takes away, by name."""

STRICT: Final = tuple(_parse(_STRICT))
"""The only calls that `lock_down(strict=True)` leaves, by name."""

# Machine: column of the tables, AUDIT_ARCH_*, number of seccomp(2).
_MACHINES: Final = {
    "x86_64": (0, 0xC000003E, 317),
    "aarch64": (1, 0xC00000B7, 277),
}
_X32_BIT: Final = 0x4000_0000

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_DATA_NUMBER: Final = 0  # offsets in struct seccomp_data
_DATA_ARCH: Final = 4
_ALLOW: Final = 0x7FFF_0000  # SECCOMP_RET_ALLOW
_REFUSE: Final = 0x0005_0000 | errno.EPERM  # SECCOMP_RET_ERRNO

_PR_SET_NO_NEW_PRIVS: Final = 38
_SET_MODE_FILTER: Final = 1
_ALL_THREADS: Final = 1  # SECCOMP_FILTER_FLAG_TSYNC


def lock_down(allow: Iterable[str] = (), *, strict: bool = False) -> None:
    """Refuse this process, from now on and for ever, the calls of a way out.

    Args:
        allow: Names of calls to leave in spite of the list; in the strict mode names
            to leave besides it.  They come from `DENIED` and `STRICT`.
        strict: Leave nothing but `STRICT`.

    Raises:
        ValueError: A name in `allow` is in neither list.
        NotImplementedError: The machine is neither x86_64 nor aarch64.
        OSError: The kernel took no filter; nothing has changed.
    """
    program = build_filter(platform.machine(), allow, strict=strict)
    permitted = _core.membarrier()
    _install(program, _MACHINES[platform.machine()][2])
    _core.membarrier(permitted)


def permit_membarrier(permitted: bool = True) -> bool:
    """Say whether this process's seccomp filter, if it has one, permits membarrier(2).

    An end of an SPSC ring that goes to sleep calls it, so that its peer can publish
    without full barriers; without it each message costs one.  It is never called by a
    process that was under a filter when it took the end: a container's filter commonly
    permits it, and then True before taking the end makes use of that.  One that takes
    its ends first and installs a filter of its own later, other than `lock_down`, lets
    that filter permit the call or answer it with an error; or says False before.

    Args:
        permitted: For the whole process, all its interpreters included.

    Returns:
        Whether an end taken now makes use of it.
    """
    return _core.membarrier(permitted)


def build_filter(
    machine: str, allow: Iterable[str] = (), *, strict: bool = False
) -> bytes:
    """Return the BPF program that `lock_down` installs, for `machine`."""
    if machine not in _MACHINES:
        raise NotImplementedError(
            f"no system call numbers for {machine}: lock_down knows "
            f"{' and '.join(_MACHINES)}"
        )
    column, arch, _ = _MACHINES[machine]
    numbers = [_NUMBERS[name][column] for name in _select(list(allow), strict)]
    listed = [int(number) for number in numbers if number != "-"]
    found, other = (_ALLOW, _REFUSE) if strict else (_REFUSE, _ALLOW)
    lines = [
        _line(_LOAD, _DATA_ARCH),
        _line(_JUMP_EQUAL, arch, if_true=1),
        _line(_RETURN, _REFUSE),
        _line(_LOAD, _DATA_NUMBER),
        _line(_JUMP_AT_LEAST, _X32_BIT, if_false=1),
        _line(_RETURN, _REFUSE),
    ]
    lines += [
        _line(_JUMP_EQUAL, number, if_true=len(listed) - place)
        for place, number in enumerate(listed)
    ]
    return b"".join([*lines, _line(_RETURN, other), _line(_RETURN, found)])


def _select(allow: list[str], strict: bool) -> list[str]:
    unknown = sorted(set(allow) - set(_NUMBERS))
    if unknown:
        raise ValueError(
            f"no such call in sandbox.DENIED or sandbox.STRICT: {', '.join(unknown)}"
        )
    if strict:
        return list(dict.fromkeys([*STRICT, *allow]))
    return [name for name in DENIED if name not in allow]


def _line(code: int, value: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _install(program: bytes, seccomp: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    libc.syscall.argtypes = [ctypes.c_long] * 3 + [ctypes.c_char_p]
    lines = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(lines))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "no_new_privs was refused: locked already?")
    rc = libc.syscall(seccomp, _SET_MODE_FILTER, _ALL_THREADS, header)
    if rc > 0:
        raise OSError(errno.EBUSY, f"thread {rc} has a filter of its own: lock first")
    if rc < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"the kernel took no filter: {os.strerror(number)}")
