/* Front: how many requests may be in flight, and the counts. */
#include "py_front.h"

#include <pthread.h>

/* set_depth(least, most): `most` at most, found by trial if `least` is less.  0, 0: as many
 * as there are slots. */
PyObject *front_set_depth(Front *self, PyObject *const *args, Py_ssize_t count)
{
    struct front *front = &self->front;
    uint32_t least, most;
    if (!front_check_count(count, 2, "set_depth") || !front_usable(self) ||
        !front_get_u32(args[0], &least) || !front_get_u32(args[1], &most))
        return NULL;
    if (least > most || most > front->ring.ring.nr_slots || (least == 0) != (most == 0))
        return PyErr_Format(PyExc_ValueError, "depth must be within 1..%u",
                            front->ring.ring.nr_slots);
    pthread_mutex_lock(&front->mutex);
    if (least < most)
        limit_adapt(&front->limit, least, most, LIMIT_HOLD_NS);
    else
        limit_fix(&front->limit, most == 0 ? NO_LIMIT : most);
    pthread_mutex_unlock(&front->mutex);
    return py_none();
}

static uint32_t at_most(uint32_t value, uint32_t most)
{
    return value < most ? value : most;
}

static bool add_number(PyObject *dict, const char *name, uint64_t value)
{
    PyObject *number = PyLong_FromUnsignedLongLong(value);
    bool added = number != NULL && PyDict_SetItemString(dict, name, number) == 0;
    Py_XDECREF(number);
    return added;
}

/* statistics() -> {name: number} */
PyObject *front_statistics(Front *self, PyObject *ignored)
{
    const struct front *front = &self->front;
    const struct front_stats *stats = &front->stats;
    const struct limit *limit = &front->limit;
    uint32_t slots = front->ring.ring.nr_slots, in_flight = front_in_flight(front);
    uint32_t now = at_most(limit->now, slots);
    const struct { const char *name; uint64_t value; } numbers[] = {
        {"requests", stats->requests}, {"responses", stats->responses},
        {"notifications", stats->notifications}, {"held_off", stats->held_off},
        {"in_flight_peak", stats->in_flight_peak}, {"full", stats->full},
        {"sleeps", stats->sleeps}, {"in_flight", in_flight}, {"slots", slots},
        {"credit", now > in_flight ? now - in_flight : 0}, {"limited", stats->limited},
        {"limit", at_most(limit->adapts ? limit->base : limit->now, slots)},
        {"limit_lowest", at_most(limit->lowest, slots)},
        {"limit_highest", at_most(limit->highest, slots)},
        {"limit_raised", limit->raised}, {"limit_lowered", limit->lowered},
        {"limit_rounds", limit->rounds},
    };
    PyObject *dict = PyDict_New();
    for (size_t i = 0; dict != NULL && i < sizeof numbers / sizeof numbers[0]; i++)
        if (!add_number(dict, numbers[i].name, numbers[i].value))
            Py_CLEAR(dict);
    return dict;
}
