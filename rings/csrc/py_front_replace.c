/* Front: another ring in the place of this one, while requests are in flight. */
#include "py_front.h"

#include <pthread.h>

#include "front_replace.h"

/* Nobody leads from here to admit(); the GIL is not held while others get out of the way. */
static void exclude(Front *self)
{
    Py_BEGIN_ALLOW_THREADS
    pthread_mutex_lock(&self->front.mutex);
    front_exclude(&self->front);
    pthread_mutex_unlock(&self->front.mutex);
    Py_END_ALLOW_THREADS
}

static void admit(Front *self)
{
    pthread_mutex_lock(&self->front.mutex);
    front_admit(&self->front);
    pthread_mutex_unlock(&self->front.mutex);
}

void front_release_elder(Front *self)
{
    if (self->elder_held) {
        self->elder_held = false;
        PyBuffer_Release(&self->elder_view);
    }
}

/* wait_elder(timeout) -> bool: until the ring that was replaced has brought its last answer;
 * then its memory is let go. */
PyObject *front_wait_elder(Front *self, PyObject *timeout)
{
    uint64_t deadline_ns;
    if (!front_usable(self) || py_deadline(timeout, &deadline_ns) < 0)
        return NULL;
    int result = front_wait_for(self, front_elder_idle, &self->front, deadline_ns);
    if (result == WAIT_READY && self->elder_held) {
        exclude(self);
        pthread_mutex_lock(&self->front.mutex);
        self->front.has_elder = false;
        pthread_mutex_unlock(&self->front.mutex);
        admit(self);
        front_release_elder(self);
    }
    return front_wait_outcome(self, result);
}

/* Requests keep their size. */
static bool bind_next(Front *self, const Py_buffer *view, uint32_t layout, uint32_t slots,
                      struct xen_ring *next)
{
    uint32_t slot_size = self->front.ring.ring.slot_size;
    if (layout <= RING_PADDED && xen_bind(next, view->buf, (size_t)view->len,
                                          (enum ring_layout)layout, slots, slot_size))
        return true;
    PyErr_Format(PyExc_ValueError, "a ring of %u slots of %u bytes does not fit in %zd", slots,
                 slot_size, view->len);
    return false;
}

/* Nobody leads, and the GIL is held: threads that hold it may look at the calls. */
static bool replaced(Front *self, const struct xen_ring *next, uint32_t start, uint32_t notify_fd)
{
    pthread_mutex_lock(&self->front.mutex);
    bool grown = front_grow(&self->front, next->nr_slots);
    if (grown)
        front_replace(&self->front, next, start, (int)notify_fd);
    pthread_mutex_unlock(&self->front.mutex);
    if (!grown)
        PyErr_NoMemory();
    return grown;
}

/* replace(buffer, layout, slots, start, notify_fd): put requests into another ring from now on. */
PyObject *front_replace_(Front *self, PyObject *const *args, Py_ssize_t count)
{
    uint32_t layout, slots, start, notify_fd;
    struct xen_ring next;
    Py_buffer view;
    if (!front_check_count(count, 5, "replace") || !front_usable(self) ||
        !front_get_u32(args[1], &layout) || !front_get_u32(args[2], &slots) ||
        !front_get_u32(args[3], &start) || !front_get_u32(args[4], &notify_fd))
        return NULL;
    if (self->elder_held)
        return py_raise("BusyError", "the ring before this one is still in use: wait_elder()");
    if (PyObject_GetBuffer(args[0], &view, PyBUF_WRITABLE) < 0)
        return NULL;
    bool done = bind_next(self, &view, layout, slots, &next);
    if (done) {
        exclude(self);
        done = front_usable(self) && replaced(self, &next, start, notify_fd);
        admit(self);
    }
    if (!done) {
        PyBuffer_Release(&view);
        return NULL;
    }
    self->elder_view = self->view;
    self->elder_held = true;
    self->view = view;
    return py_none();
}
