#include "py.h"

int py_add_mpmc(PyObject *module)
{
    (void)module;
    return 0;
}
