/* The extension module: helpers, and one `py_add_*` a type. */
#include "py.h"

#include <pthread.h>
#include <stdarg.h>

/* Slot numbers of newer Pythons than the limited API we build for: chosen at run
 * time, because 3.11 refuses slots it does not know. */
#define SLOT_MULTIPLE_INTERPRETERS 3 /* 3.12 */
#define PER_INTERPRETER_GIL ((void *)2)

_Atomic unsigned py_forks;

static void count_fork(void)
{
    atomic_fetch_add(&py_forks, 1);
}

PyObject *py_raise(const char *name, const char *format, ...)
{
    PyObject *errors = PyImport_ImportModule("rings.errors");
    PyObject *type = errors ? PyObject_GetAttrString(errors, name) : NULL;
    Py_XDECREF(errors);
    if (type == NULL)
        return NULL;
    va_list args;
    va_start(args, format);
    PyErr_FormatV(type, format, args);
    va_end(args);
    Py_DECREF(type);
    return NULL;
}

int py_add_type(PyObject *module, PyType_Spec *spec)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (type == NULL)
        return -1;
    int rc = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return rc;
}

int py_watch_end(PyObject *end, const char *closer)
{
    if (PyInterpreterState_GetID(PyInterpreterState_Get()) == 0) /* the main one */
        return 0;
    PyObject *module = PyImport_ImportModule("rings.ending");
    PyObject *done = module ? PyObject_CallMethod(module, "watch", "Os", end, closer) : NULL;
    Py_XDECREF(module);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

int py_deadline(PyObject *timeout_s, uint64_t *deadline_ns)
{
    if (timeout_s == NULL || timeout_s == Py_None) {
        *deadline_ns = NO_DEADLINE;
        return 0;
    }
    double seconds = PyFloat_AsDouble(timeout_s);
    if (seconds == -1.0 && PyErr_Occurred())
        return -1;
    if (seconds != seconds) {
        PyErr_SetString(PyExc_ValueError, "timeout must be a number of seconds or None, not NaN");
        return -1;
    }
    if (seconds > 9e9)
        *deadline_ns = NO_DEADLINE;
    else
        *deadline_ns = now_ns() + (seconds > 0 ? (uint64_t)(seconds * 1e9) : 0);
    return 0;
}

static int exec_module(PyObject *module)
{
    if (py_add_barrier(module) < 0 || py_add_view(module) < 0 || py_add_xen(module) < 0 ||
        py_add_answer(module) < 0 || py_add_front(module) < 0 || py_add_spsc(module) < 0 ||
        py_add_broadcast(module) < 0 || py_add_mpmc(module) < 0 || py_add_queue(module) < 0 ||
        py_add_atomics(module) < 0)
        return -1;
    return 0;
}

static PyModuleDef_Slot slots_311[] = {
    {Py_mod_exec, exec_module},
    {0, NULL},
};
static PyModuleDef_Slot slots_312[] = {
    {Py_mod_exec, exec_module},
    {SLOT_MULTIPLE_INTERPRETERS, PER_INTERPRETER_GIL},
    {0, NULL},
};

static struct PyModuleDef module_311 = {
    PyModuleDef_HEAD_INIT, .m_name = "rings._core", .m_size = 0, .m_slots = slots_311};
static struct PyModuleDef module_312 = {
    PyModuleDef_HEAD_INIT, .m_name = "rings._core", .m_size = 0, .m_slots = slots_312};

static pthread_once_t forks_counted = PTHREAD_ONCE_INIT;

static void count_forks(void)
{
    pthread_atfork(NULL, NULL, count_fork);
}

PyMODINIT_FUNC PyInit__core(void)
{
    pthread_once(&forks_counted, count_forks);
    return PyModuleDef_Init(Py_Version >= 0x030C0000 ? &module_312 : &module_311);
}
