/* What becomes of a message that finds no room, by name. */
#include "py.h"

int py_policy(const char *name, bool may_drop_old, enum policy *policy)
{
    static const char *const names[] = {"block", "drop_new", "error", "drop_old"};
    for (int i = 0; i < (may_drop_old ? 4 : 3); i++) {
        if (strcmp(name, names[i]) == 0) {
            *policy = (enum policy)i;
            return 0;
        }
    }
    if (strcmp(name, "drop_old") == 0)
        PyErr_SetString(PyExc_ValueError,
                        "policy 'drop_old' is not for an SPSC ring, whose producer may not take "
                        "messages out: use rings.broadcast or rings.mpmc, or a consumer with "
                        "latest=True");
    else
        PyErr_Format(PyExc_ValueError, "policy is 'block', 'drop_new'%s or 'error', not '%s'",
                     may_drop_old ? ", 'drop_old'" : "", name);
    return -1;
}
