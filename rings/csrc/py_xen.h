/* What the two files of FrontRing and BackRing share.
 *
 * An object holds the buffer until close.  Everything that can run Python code
 * (taking a buffer, making a list) happens between ring_enter and ring_leave, so a
 * call from inside a call gets BusyError and never sees a half-moved index.  The GIL
 * is held throughout: nothing here waits.
 */
#ifndef RINGS_PY_XEN_H
#define RINGS_PY_XEN_H

#include "py.h"
#include "xen_end.h"

typedef struct {
    PyObject_HEAD
    Py_buffer memory; /* obj is NULL before attach and after close */
    struct xen_end end;
    enum ring_layout layout;
    bool busy;
    uint64_t put, taken, notified, held_off, full;
    uint32_t in_flight_peak;
} Ring;

/* 0, or -1 with ClosedError, BusyError or RemoteProtocolError. */
int ring_enter(Ring *self);
void ring_leave(Ring *self);
int ring_raise_broken(const Ring *self); /* -1 */

PyObject *ring_put(PyObject *op, PyObject *data);
PyObject *ring_put_many(PyObject *op, PyObject *data);
PyObject *ring_publish(PyObject *op, PyObject *unused);
PyObject *ring_take(PyObject *op, PyObject *args, PyObject *keywords);
PyObject *ring_take_into(PyObject *op, PyObject *target);
PyObject *ring_final_check(PyObject *op, PyObject *unused);

#endif
