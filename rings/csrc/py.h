/* What every Python-facing file here shares.
 *
 * Limited API 3.11.  One file per type: each has a `py_add_*` that the module's
 * exec slot calls.  None is returned by py_none(): under the limited API the
 * Py_RETURN_NONE of newer headers does not count the reference on 3.11.
 */
#ifndef RINGS_PY_H
#define RINGS_PY_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include "core.h"
#include "wait.h"

/* References are counted by the Python that runs.  The inline counts of the headers that we
 * are built with may be older, and count what it does not: on 3.14 each () that was given
 * back was one reference less, for ever. */
#undef Py_INCREF
#undef Py_XINCREF
#undef Py_DECREF
#undef Py_XDECREF
#define Py_INCREF(object) Py_IncRef((PyObject *)(object)) /* of NULL, too */
#define Py_XINCREF(object) Py_INCREF(object)
#define Py_DECREF(object) Py_DecRef((PyObject *)(object))
#define Py_XDECREF(object) Py_DECREF(object)

static inline PyObject *py_none(void)
{
    Py_IncRef(Py_None);
    return Py_None;
}

/* Raise class `name` of rings.errors; returns NULL. */
PyObject *py_raise(const char *name, const char *format, ...);

/* Make a heap type from `spec` and add it to the module. 0, or -1 with an error. */
int py_add_type(PyObject *module, PyType_Spec *spec);

/* In an interpreter that can end before its process, have `closer`, a method of `end`, called
 * when it does: rings/ending.py.  0, or -1 with an error; then let the end be deallocated. */
int py_watch_end(PyObject *end, const char *closer);

/* The member that says where a type keeps its weak references, in a list that ends here. */
#define PY_WEAKREFS(type, field) \
    {"__weaklistoffset__", T_PYSSIZET, offsetof(type, field), READONLY, NULL}, {NULL}

/* Seconds (None: for ever) to a deadline on CLOCK_MONOTONIC. 0, or -1 with an error. */
int py_deadline(PyObject *timeout_s, uint64_t *deadline_ns);

/* Wait with the GIL released, running Python's signal handlers in between.
 * WAIT_READY, WAIT_TIMED_OUT, WAIT_BROKEN or WAIT_HUNG_UP; -1 with an error set. */
static inline WAIT_INLINE int py_wait(const struct waiter *waiter, uint64_t deadline_ns)
{
    for (;;) {
        enum wait_result result;
        Py_BEGIN_ALLOW_THREADS
        result = wait_once(waiter, deadline_ns);
        Py_END_ALLOW_THREADS
        if (result != WAIT_INTERRUPTED)
            return result;
        if (PyErr_CheckSignals() < 0)
            return -1;
    }
}

/* Counts the forks this process descends from, since the module was loaded. */
extern _Atomic unsigned py_forks;
static inline unsigned py_fork_count(void)
{
    return atomic_load_explicit(&py_forks, memory_order_relaxed);
}

/* Take part in barriers; false: not here, or a filter might mind.  Releases the GIL. */
bool py_barrier_join(void);

/* False once a sandbox has said that its filter minds. */
bool py_barrier_may(void);

/* The arguments of a fast call by their names; missing ones stay NULL. */
static inline bool py_arguments(const char *const names[2], int required, PyObject *out[2],
                                PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    Py_ssize_t keywords = kwnames == NULL ? 0 : PyTuple_Size(kwnames);
    out[0] = nargs > 0 ? args[0] : NULL;
    out[1] = nargs > 1 ? args[1] : NULL;
    bool ok = nargs <= (names[1] != NULL ? 2 : 1);
    for (Py_ssize_t i = 0; i < keywords && ok; i++) {
        PyObject *key = PyTuple_GetItem(kwnames, i);
        int slot = PyUnicode_CompareWithASCIIString(key, names[0]) == 0 ? 0 : 1;
        ok = names[slot] != NULL && PyUnicode_CompareWithASCIIString(key, names[slot]) == 0 &&
             out[slot] == NULL;
        if (ok)
            out[slot] = args[nargs + i];
    }
    if (ok && (required == 0 || out[0] != NULL))
        return true;
    PyErr_Format(PyExc_TypeError, "the arguments are %s%s%s%s", names[0],
                 required ? "" : " (optional)", names[1] ? ", " : "", names[1] ? names[1] : "");
    return false;
}

/* Count one more request in flight that names the bytes of a View; false with an error. */
bool py_view_pin(PyObject *view);
void py_view_unpin(PyObject *view);

int py_add_answer(PyObject *module);
int py_add_barrier(PyObject *module);
int py_add_view(PyObject *module);
int py_add_xen(PyObject *module);
int py_add_front(PyObject *module);
int py_add_spsc(PyObject *module);
int py_add_broadcast(PyObject *module);
int py_add_mpmc(PyObject *module);
int py_add_queue(PyObject *module);
int py_add_atomics(PyObject *module);

/* What a put does that finds no room; the words are the same on every ring. */
enum policy { POLICY_BLOCK, POLICY_DROP_NEW, POLICY_ERROR, POLICY_DROP_OLD };

/* By its name; -1 with an exception. */
int py_policy(const char *name, bool may_drop_old, enum policy *policy);

#endif
