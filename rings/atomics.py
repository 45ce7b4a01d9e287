"""Atomic words in shared memory, with the results ECMAScript gives.

`Atomics(buffer)` sees a buffer or a `Region` as an array of 32- or 64-bit words.
Any number of processes, own-GIL interpreters and threads may do so at once, each
through its own mapping: every operation is one atomic step for all of them.

    counters = rings.Atomics(region, offset=4096, count=16, format="q")
    before = counters.add(0, 1)

What ECMAScript says holds here:

* A value of any size is cut to the word, modulo 2**32 or 2**64, and read back with
  the format's sign.  `store` returns the value as given, every other change the
  word as it was before.  Indices count from 0; a negative one is an IndexError.
* `wait(index, expected, timeout)` looks at the word and goes to sleep in one
  atomic step.  "not-equal" comes before "timed-out": `timeout=0` is a look.
  "ok" means that a `notify` chose this sleeper, whatever the word holds now.
* `notify(index, count)` wakes sleepers first come, first served, and returns how
  many of them it woke: 0 when nobody sleeps, for nothing is remembered.

Where it goes further: `timeout` is in seconds, and the unsigned formats may wait.

A sleeper that a signal, or on the main thread a second's end, takes out of the
kernel for a moment looks at the word anew when it goes back.  So change the word,
then notify, as with every futex: whoever was away answers "not-equal" instead of
"ok" and nobody sleeps on.  A notify without a change may find nobody, and then
says 0.

`close()` lets go of the buffer, and so does the end of a `with` block; a region
is busy as long as an Atomics looks at it.  Nothing else about the object changes
after it is made, so threads may share it, with a GIL or without one.

Memory order:
    Every operation is sequentially consistent.

Source:
    ECMA-262, section 25.4, The Atomics Object; futex(2) and futex_waitv(2).
"""

from ._core import Atomics

__all__ = ["Atomics"]
