/* Whether this process shares in barriers (barrier.h): asked at each end it takes.
 *
 * What a sandbox says of its filter holds for the process, all its interpreters
 * included; without a word, only a thread without any filter asks the kernel.
 */
#include "py.h"

#include "barrier.h"

enum said { SAID_NO = -1, SAID_NOTHING = 0, SAID_YES = 1 };

static atomic_int said;

bool py_barrier_may(void)
{
    return atomic_load_explicit(&said, memory_order_relaxed) != SAID_NO;
}

bool py_barrier_join(void)
{
    bool joined = false;
    Py_BEGIN_ALLOW_THREADS
    int word = atomic_load(&said);
    if (word == SAID_YES || (word == SAID_NOTHING && barrier_unfiltered()))
        joined = barrier_join();
    Py_END_ALLOW_THREADS
    return joined;
}

static PyObject *membarrier(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs > 1) {
        PyErr_SetString(PyExc_TypeError, "the argument is permitted (optional)");
        return NULL;
    }
    if (nargs == 1 && args[0] != Py_None) {
        int permitted = PyObject_IsTrue(args[0]);
        if (permitted < 0)
            return NULL;
        atomic_store(&said, permitted ? SAID_YES : SAID_NO);
    }
    return PyBool_FromLong(py_barrier_join());
}

static PyMethodDef methods[] = {
    {"membarrier", (PyCFunction)(void (*)(void))membarrier, METH_FASTCALL,
     "membarrier($module, permitted=None, /)\n--\n\n"
     "Whether an end taken now may leave its barriers to a sleeper; first say, for\n"
     "the whole process, whether its seccomp filter permits membarrier(2)."},
    {NULL},
};

int py_add_barrier(PyObject *module)
{
    return PyModule_AddFunctions(module, methods);
}
