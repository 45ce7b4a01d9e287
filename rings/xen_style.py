"""The request/response ring of Xen's split drivers: one array of slots, used twice.

A front asks, a back serves.  Both walk the same slots in the same direction, the
back always behind the front::

      rsp_cons      rsp_prod      req_cons      req_prod
         |             |             |             |
   ------+-------------+-------------+-------------+------>  index
    free |  responses  |  in service |   requests  | free
         |  published  |  by backend |  published  |

    rsp_cons <= rsp_prod <= req_cons <= req_prod <= rsp_cons + slots

A request lies in the slot of its index until the back has copied it out; a response
is then written over a slot whose request was taken, and the slot is free when the
front has copied that out too.  Responses fill slots in ring order, whatever order
the work finished in: a request is known by an id inside it, never by its slot.

Indices count up for ever modulo 2**32 and are compared by differences.  Who may
move what:

==================  ======================  =====================================
word                moved by                when
==================  ======================  =====================================
``req_prod``        front, `publish`        the requests are whole
``rsp_event``       front, `final_check`    it is about to sleep
``rsp_prod``        back, `publish`         the responses are whole
``req_event``       back, `final_check`     it is about to sleep
``req_cons``        back, `take`            private: never in shared memory
``rsp_cons``        front, `take`           private: never in shared memory
==================  ======================  =====================================

**Credit.**  A front holds ``slots`` requests at most, from `put` until it takes the
response: that is the only limit there is, and the back needs no other.  A full ring
is a value (``put`` returns False, ``put_many`` fewer than it was given); a record of
the wrong size, or a response to no request, is an exception, and then nothing moved.

**Nothing here waits or notifies.**  `publish` returns whether the peer asked to be
notified of one of these records: whether its event word lies in (old, new].  A
consumer announces, looks again, and only then sleeps::

    while True:
        for request in back.take():
            ...
        if back.publish():
            channel.notify()
        if not back.final_check():  # announced, looked again: nothing
            channel.wait()

The announcement and the publication are both full barriers, so one of the two sides
always sees the other; while a consumer is awake its event word stays behind and the
producer is told to save the system call (`statistics`: ``held_off``).

**The peer is hostile.**  A half never reads back a word of its own, copies each slot
once before anybody looks at the bytes, and bounds the peer's index by what it knows
itself.  An impossible index raises `RemoteProtocolError` from that call and from
every later one: a broken ring stays broken, and nothing but the ring is harmed.
What the copied bytes say is for the protocol above (`rings.blkif`) to check.

**Threads and processes.**  One half belongs to one thread at a time.  No call
releases the GIL, so threads that share a half are serialised call by call, and a
call made from inside another (out of a buffer's own Python code) raises `BusyError`.
On an interpreter without a GIL bring your own lock.  After a fork one process may go
on with a half, not both.  Two halves over one `bytearray` are a ring inside one
process, for tests; until `close` each holds the buffer, which cannot be resized.

Two layouts of the same ring, `layout.XEN` (byte-exact Xen, so that a peer compiled
with Xen's header can be the other half) and `layout.PADDED` (the words of each
writer on their own cache line); docs/LAYOUT.md has the offsets.

Memory order:
    ``request-published`` and ``response-published``: the producer index is stored
    with release after the slots and loaded with acquire before them.
    ``request-announced``/``request-awaited`` and ``response-announced``/
    ``response-awaited``: exchanges in sequentially consistent order on both sides,
    each followed by a sequentially consistent load of the other side's word.

Source:
    Xen, ``xen/include/public/io/ring.h`` (Deegan and Warfield, 2004).
"""

from __future__ import annotations

from ._core import BackRing, FrontRing
from .layout import PADDED, RING_WORDS, XEN

__all__ = ["PADDED", "XEN", "BackRing", "FrontRing", "ring_size"]


def ring_size(ring_layout: int, slots: int, slot_size: int) -> int:
    """Return the bytes that a ring's header and slots take."""
    return RING_WORDS[ring_layout].slots + slots * slot_size
