/* Front: the gauge that watches a ring, and a load that is put on it. */
#include "py_front.h"

#include <pthread.h>
#include <stdlib.h>

#include "load_run.h"

/* ---- the gauge ------------------------------------------------------------ */

void front_unwatch(Front *self)
{
    pthread_mutex_lock(&self->front.mutex);
    self->front.gauge = NULL;
    pthread_mutex_unlock(&self->front.mutex);
    if (self->gauge_view.obj != NULL)
        PyBuffer_Release(&self->gauge_view);
}

/* watch(words, from_ns, until_ns): gauge the ring into slots + 1 + 120 zeroed uint64. */
PyObject *front_watch(Front *self, PyObject *args)
{
    PyObject *words;
    unsigned long long from_ns, until_ns;
    if (!PyArg_ParseTuple(args, "OKK", &words, &from_ns, &until_ns) || !front_usable(self))
        return NULL;
    if (self->front.gauge != NULL)
        return py_raise("BusyError", "this frontend is watched already");
    if (PyObject_GetBuffer(words, &self->gauge_view, PyBUF_WRITABLE) < 0)
        return NULL;
    uint32_t slots = self->front.nr_calls;
    size_t wanted = (slots + 1 + GAUGE_SLICES) * sizeof(uint64_t);
    if ((size_t)self->gauge_view.len != wanted || (uintptr_t)self->gauge_view.buf % 8 != 0 ||
        from_ns >= until_ns) {
        PyBuffer_Release(&self->gauge_view);
        return PyErr_Format(PyExc_ValueError,
                            "watch wants %zu aligned bytes and a time that ends after it begins",
                            wanted);
    }
    pthread_mutex_lock(&self->front.mutex);
    gauge_init(&self->gauge, self->gauge_view.buf, slots, from_ns, until_ns);
    self->front.gauge = &self->gauge;
    front_gauge(&self->front, now_ns());
    pthread_mutex_unlock(&self->front.mutex);
    return py_none();
}

/* unwatch(): the last stretch is counted, the words are the caller's again. */
PyObject *front_unwatch_(Front *self, PyObject *ignored)
{
    pthread_mutex_lock(&self->front.mutex);
    if (self->front.gauge != NULL)
        front_gauge(&self->front, now_ns());
    pthread_mutex_unlock(&self->front.mutex);
    front_unwatch(self);
    return py_none();
}

/* ---- the load ------------------------------------------------------------- */

struct load_args {
    PyObject *memory, *op, *length, *gref, *generation, *at;
    Py_buffer offsets, gaps, counts;
    unsigned policy, depth, batch, spill;
    unsigned long long start_ns, from_ns, until_ns;
};

static void close_args(struct load_args *args)
{
    Py_buffer *views[] = {&args->offsets, &args->gaps, &args->counts};
    for (int i = 0; i < 3; i++)
        if (views[i]->obj != NULL)
            PyBuffer_Release(views[i]);
}

static bool parse_load(PyObject *args, PyObject *kwargs, struct load_args *out)
{
    static char *names[] = {"memory", "op",       "length",  "gref",     "generation", "at",
                            "offsets", "gaps",    "counts",  "policy",   "depth",      "batch",
                            "spill",  "start_ns", "from_ns", "until_ns", NULL};
    *out = (struct load_args){0};
    return PyArg_ParseTupleAndKeywords(
        args, kwargs, "OOOOOO$y*y*w*IIIIKKK", names, &out->memory, &out->op, &out->length,
        &out->gref, &out->generation, &out->at, &out->offsets, &out->gaps, &out->counts,
        &out->policy, &out->depth, &out->batch, &out->spill, &out->start_ns, &out->from_ns,
        &out->until_ns);
}

static bool is_words(const Py_buffer *view)
{
    return view->len == 0 || (view->len % 8 == 0 && (uintptr_t)view->buf % 8 == 0);
}

static bool check_load(const Front *self, const struct load_args *args)
{
    const char *wrong = NULL;
    if (self->front.gauge == NULL)
        wrong = "watch() this frontend first: a load is timed by its gauge";
    else if (args->depth == 0 || args->depth > self->front.nr_calls)
        wrong = "depth must be 1 to the number of slots";
    else if (args->batch == 0 || args->batch > args->depth)
        wrong = "batch must be 1 to depth";
    else if (args->policy > LOAD_ERROR || args->spill > 1u << 20)
        wrong = "no such policy, or more than 2**20 to spill";
    else if (!is_words(&args->offsets) || args->offsets.len == 0 || !is_words(&args->gaps))
        wrong = "offsets and gaps must be arrays of aligned uint64, offsets not empty";
    else if (!is_words(&args->counts) || args->counts.len != HDR_COUNTS * 8)
        wrong = "counts must be 31744 aligned uint64";
    else if (args->from_ns >= args->until_ns || args->start_ns > args->from_ns)
        wrong = "start_ns <= from_ns < until_ns";
    if (wrong != NULL)
        PyErr_SetString(PyExc_ValueError, wrong);
    return wrong == NULL;
}

static bool init_rule(struct load_rule *rule, const struct load_args *args)
{
    uint32_t op;
    *rule = (struct load_rule){
        .offsets = args->offsets.buf,
        .nr_offsets = (uint64_t)args->offsets.len / 8,
        .gaps = args->gaps.buf,
        .nr_gaps = (uint64_t)args->gaps.len / 8,
        .policy = (enum load_policy)args->policy,
        .depth = args->depth,
        .batch = args->batch,
        .spill = args->policy == LOAD_SPILL ? args->spill : 0,
        .start_ns = args->start_ns,
    };
    if (!front_get_u32(args->op, &op) || !front_get_u32(args->length, &rule->length) ||
        !front_get_u32(args->gref, &rule->segment.gref) ||
        !front_get_u32(args->generation, &rule->segment.generation) ||
        !front_get_u32(args->at, &rule->segment.offset))
        return false;
    rule->op = (uint8_t)op;
    rule->segment.length = rule->length;
    return true;
}

/* The tables of a load: false, with an exception, if there is no memory for them. */
static bool init_load(struct loader *loader, const struct load_args *args)
{
    struct load *load = &loader->load;
    uint32_t depth = loader->rule.depth, batch = loader->rule.batch;
    uint32_t spill = loader->rule.spill;
    load->from_ns = args->from_ns;
    load->until_ns = args->until_ns;
    load->counts = args->counts.buf;
    loader->arrival_ns = args->start_ns;
    loader->queue_size = loader->rule.policy == LOAD_BLOCK ? depth : spill > batch ? spill : batch;
    load->free = calloc(depth, sizeof *load->free);
    load->stamps = calloc(depth, sizeof *load->stamps);
    loader->queue = calloc(loader->queue_size, sizeof *loader->queue);
    if (load->free == NULL || load->stamps == NULL || loader->queue == NULL) {
        PyErr_NoMemory();
        return false;
    }
    for (uint32_t i = depth; i-- > 0;)
        load->free[load->nr_free++] = i;
    return true;
}

static void close_load(struct loader *loader)
{
    free(loader->load.free);
    free(loader->load.stamps);
    free(loader->queue);
}

/* WAIT_READY when all is answered, WAIT_BROKEN, or -1 with an exception. */
static int run_load(Front *self, struct loader *loader)
{
    for (;;) {
        enum wait_result result;
        Py_BEGIN_ALLOW_THREADS
        result = loader_run(loader);
        Py_END_ALLOW_THREADS
        if (!front_ended_early(result))
            return (int)result;
        if (front_interrupted(self, result) < 0)
            return -1;
    }
}

static PyObject *load_outcome(const struct load_sums *sums)
{
    return Py_BuildValue("{sKsKsKsKsKsKsKsKsKsKsKsKsK}", "submitted", sums->submitted, "answered",
                         sums->answered, "failed", sums->failed, "dropped", sums->dropped,
                         "measured", sums->measured, "in_ring_ns", sums->in_ring_ns, "offered",
                         sums->offered, "full", sums->full, "blocked_ns", sums->blocked_ns,
                         "late", sums->late, "late_ns", sums->late_ns, "late_max_ns",
                         sums->late_max_ns, "gap_max_ns", sums->gap_max_ns);
}

/* load(memory, op, length, gref, generation, at, *, offsets, gaps, counts, policy, depth,
 * batch, spill, start_ns, from_ns, until_ns) -> what was counted */
PyObject *front_load(Front *self, PyObject *args, PyObject *kwargs)
{
    struct load_args given;
    struct loader loader = {.front = &self->front};
    PyObject *outcome = NULL;
    if (!front_usable(self) || !parse_load(args, kwargs, &given))
        return NULL;
    if (check_load(self, &given) && init_rule(&loader.rule, &given) &&
        init_load(&loader, &given) && py_view_pin(given.memory)) {
        int result = run_load(self, &loader);
        if (result == WAIT_READY)
            outcome = load_outcome(&loader.load.sums);
        else
            front_orphan_all(self, &loader.load, given.memory);
        py_view_unpin(given.memory);
        if (result == WAIT_BROKEN)
            front_usable(self);
    }
    close_load(&loader);
    close_args(&given);
    return outcome;
}
