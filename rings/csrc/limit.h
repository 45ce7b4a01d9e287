/* How many requests may be in flight: fewer than the ring has slots, found by trial.
 *
 * More in flight than the device can work on only wait, in the ring: the rate stays and
 * every answer comes later.  Fewer leave the device idle.  The bend between is not told
 * by anyone: a remote device of K servers completes one at a time whether one of them or
 * none is idle, so the rule of Linux's byte queue limits (did the queue run dry?) does not
 * see it, and where answers come in batches a shortest latency says nothing of the rate.
 * So the rate itself is asked:
 *
 *     base, trial, base, trial, base ...   one round each, at two limits, until it is clear
 *
 * A limit is worth raising if the rate rises by WORTH times as much (in logarithms), and
 * worth lowering if the rate falls by less than twice that: the search ends where the last
 * 1 % of throughput costs some 20 % of latency.  A trial up doubles; a trial down takes a
 * quarter off.  Chance is allowed for: a gain counts once it is larger than its error.  So
 * what is clear is done at once, and from the start each round doubles the limit while the
 * rate rises with it.  When neither direction is worth it the limit rests, longer each
 * time; a rate that changes by itself ends the rest.
 *
 * A round is ROUND_TURNS times the limit in answers and lasts `hold_ns` at least; what was
 * in flight when the limit changed is answered before it begins.  It counts only if the
 * requests in flight were near the limit in the mean: else the limit was not what bound.
 * They are integrated between notes, one for each batch that goes out or comes in, so there
 * is one look at the clock a batch and none a request.
 *
 * No memory is shared here: the front's mutex guards it.  No limit: `now` is NO_LIMIT.
 */
#ifndef RINGS_LIMIT_H
#define RINGS_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

#define NO_LIMIT UINT32_MAX
#define LIMIT_HOLD_NS 5000000u
enum {
    LIMIT_FIRST = 32,     /* where the search begins */
    LIMIT_LEAST = 2,      /* by default it goes no lower */
    ROUND_TURNS = 4,      /* answers of a round, in limits */
    ROUND_LEAST = 250,    /* answers of a round, at least: chance hides less */
    MOST_PAIRS = 8,       /* of trial and base, then the mean decides */
    FIRST_REST = 4,       /* rounds */
    LONGEST_REST = 64,
    STRANGE_ROUNDS = 2,   /* so many in a row at another rate end a rest */
    UNFILLED_TRIALS = 3,  /* rounds of a trial that were not filled: nobody wants more */
};
#define WORTH 0.03        /* of the limit's rise, in logarithms */
#define STRANGE 0.2       /* a rate so far off is another device's */
#define FILLED 0.625      /* of the limit, in flight in the mean */

enum limit_step { LIMIT_BASE, LIMIT_TRIAL, LIMIT_REST };

struct limit {
    uint32_t now;      /* in flight at most */
    uint32_t least, most;
    uint64_t hold_ns;
    bool adapts;
    /* the search */
    uint32_t base, trial;
    enum limit_step step;
    bool upward, turned; /* which way; whether the other way was refused before */
    double base_rate, trial_rate, rest_rate;
    double sum, sum_of_squares; /* of the pairs' gains */
    uint32_t pairs, unfilled, rest, left, strange;
    /* the round */
    uint64_t then_ns, began_ns, answers, skip;
    double area; /* requests in flight, times ns */
    uint32_t in_flight;
    /* what it did */
    uint64_t raised, lowered, rounds;
    uint32_t lowest, highest;
};

/* ln(x) for x in 1/2..2, to 4 %. */
static inline double limit_log(double x)
{
    return 2 * (x - 1) / (x + 1);
}

static inline uint32_t limit_clamp(const struct limit *limit, uint64_t value)
{
    return value < limit->least ? limit->least
                                : value > limit->most ? limit->most : (uint32_t)value;
}

/* Begin a round at another limit, or at the same. */
static inline void limit_begin(struct limit *limit, uint32_t value)
{
    bool same = value == limit->now;
    limit->now = value;
    limit->skip = same ? 0 : limit->in_flight > value ? limit->in_flight : value;
    limit->answers = 0;
    limit->area = 0;
    limit->began_ns = limit->then_ns;
}

static inline uint32_t limit_neighbour(const struct limit *limit, bool upward)
{
    uint32_t base = limit->base;
    return limit_clamp(limit, upward ? 2 * (uint64_t)base : base - (base + 3) / 4);
}

/* Compare the base with its neighbour on one side, if it has one. */
static inline bool limit_try(struct limit *limit, bool upward)
{
    limit->upward = upward;
    limit->trial = limit_neighbour(limit, upward);
    limit->pairs = limit->unfilled = 0;
    limit->sum = limit->sum_of_squares = 0;
    limit->base_rate = limit->trial_rate = 0;
    limit->step = LIMIT_BASE;
    return limit->trial != limit->base;
}

static inline void limit_rest(struct limit *limit)
{
    limit->step = LIMIT_REST;
    limit->left = limit->rest;
    limit->rest_rate = 0;
    limit->strange = 0;
    limit->rest = limit->rest * 2 > LONGEST_REST ? LONGEST_REST : limit->rest * 2;
}

/* Neither more nor less in flight than `value`: a limit that stays. */
static inline void limit_fix(struct limit *limit, uint32_t value)
{
    *limit = (struct limit){.now = value, .least = value, .most = value, .base = value,
                            .lowest = value, .highest = value};
}

static inline void limit_adapt(struct limit *limit, uint32_t least, uint32_t most,
                               uint64_t hold_ns)
{
    *limit = (struct limit){.least = least < most ? least : most, .most = most,
                            .hold_ns = hold_ns, .adapts = true, .rest = FIRST_REST};
    limit->base = limit->lowest = limit->highest = limit_clamp(limit, LIMIT_FIRST);
    if (!limit_try(limit, true))
        limit_try(limit, false);
    limit_begin(limit, limit->base);
}

/* The ring has another size. */
static inline void limit_resize(struct limit *limit, uint32_t most)
{
    if (!limit->adapts)
        return;
    limit->most = most;
    limit->least = limit->least < most ? limit->least : most;
    limit->base = limit_clamp(limit, limit->base);
    limit->rest = FIRST_REST;
    limit->turned = false;
    if (!limit_try(limit, true))
        limit_try(limit, false);
    limit_begin(limit, limit->base);
}

/* The base moves to the trial, whose rate is known. */
static inline void limit_accept(struct limit *limit)
{
    double rate = limit->trial_rate;
    if (limit->upward)
        limit->raised++;
    else
        limit->lowered++;
    limit->base = limit->trial;
    limit->lowest = limit->base < limit->lowest ? limit->base : limit->lowest;
    limit->highest = limit->base > limit->highest ? limit->base : limit->highest;
    limit->rest = FIRST_REST;
    limit->turned = false;
    if (!limit_try(limit, limit->upward) && !limit_try(limit, !limit->upward))
        limit_rest(limit);
    limit->base_rate = rate;
    if (limit->step == LIMIT_BASE)
        limit->step = LIMIT_TRIAL;
}

/* The base stays: look to the other side, or rest. */
static inline void limit_refuse(struct limit *limit)
{
    bool other = !limit->upward;
    if (!limit->turned && limit_neighbour(limit, other) != limit->base) {
        limit->turned = true;
        limit_try(limit, other);
        return;
    }
    limit->turned = false;
    limit_rest(limit);
}

static inline double limit_root(double square)
{
    double root = 1;
    for (int i = 0; i < 12; i++)
        root = (root + square / root) / 2;
    return root;
}

enum limit_verdict { LIMIT_UNCLEAR, LIMIT_WORTH, LIMIT_NOT_WORTH };

/* Is a trial worth its mean gain, known to within `error`?  What would do harm if it were
 * chance, to go up or to stay up, must be clearer than its contrary. */
static inline enum limit_verdict limit_judge(const struct limit *limit, double mean,
                                             double error, bool last)
{
    double rise = limit_log((double)limit->trial / limit->base);
    double wanted = limit->upward ? WORTH * rise : 2 * WORTH * rise; /* down: below zero */
    double above = limit->upward ? 2 * error : error, below = 3 * error - above;
    if (mean > wanted + above || (last && !limit->upward && mean > wanted))
        return LIMIT_WORTH;
    return last || mean < wanted - below ? LIMIT_NOT_WORTH : LIMIT_UNCLEAR;
}

/* A gain's error after some pairs: what they show, and no less than chance alone would
 * make of so many answers; three pairs that show less count as well. */
static inline double limit_error(const struct limit *limit, double pairs)
{
    double least = 1.5 / (double)limit->answers / pairs, shown = 0;
    if (limit->pairs > 2)
        least /= 8;
    if (limit->pairs > 1) {
        double mean = limit->sum / pairs;
        shown = (limit->sum_of_squares / pairs - mean * mean) / (pairs - 1);
    }
    return limit_root(shown > least ? shown : least);
}

static inline void limit_act(struct limit *limit, enum limit_verdict verdict)
{
    if (verdict == LIMIT_WORTH)
        limit_accept(limit);
    else if (verdict == LIMIT_NOT_WORTH)
        limit_refuse(limit);
}

/* A round at the base is over: with the trial before it, it makes a pair. */
static inline void limit_base_done(struct limit *limit, double rate)
{
    double before = limit->base_rate;
    limit->base_rate = rate;
    limit->step = LIMIT_TRIAL;
    if (limit->trial_rate == 0)
        return;
    double gain = limit->trial_rate / ((before + rate) / 2) - 1;
    limit->sum += gain;
    limit->sum_of_squares += gain * gain;
    limit->pairs++;
    limit_act(limit, limit_judge(limit, limit->sum / limit->pairs,
                                 limit_error(limit, limit->pairs), limit->pairs == MOST_PAIRS));
}

/* A round at the trial is over: what is clear needs no second base. */
static inline void limit_trial_done(struct limit *limit, double rate)
{
    double gain = rate / limit->base_rate - 1;
    limit->trial_rate = rate;
    limit->step = LIMIT_BASE;
    if (limit->pairs == 0)
        limit_act(limit, limit_judge(limit, gain, 2 * limit_error(limit, 1), false));
}

static inline void limit_rest_done(struct limit *limit, double rate)
{
    if (limit->rest_rate == 0)
        limit->rest_rate = rate;
    double off = rate / limit->rest_rate - 1;
    limit->strange = off > STRANGE || off < -STRANGE ? limit->strange + 1 : 0;
    if (limit->strange >= STRANGE_ROUNDS)
        limit->rest = FIRST_REST;
    else if (--limit->left > 0)
        return;
    if (!limit_try(limit, !limit->upward) && !limit_try(limit, !limit->upward))
        limit_rest(limit);
}

/* A round in which the limit did not bind tells nothing; a trial that stays so is over. */
static inline void limit_unfilled(struct limit *limit)
{
    if (limit->step == LIMIT_TRIAL && ++limit->unfilled >= UNFILLED_TRIALS)
        limit_refuse(limit);
}

static inline void limit_round_done(struct limit *limit)
{
    double elapsed = (double)(limit->then_ns - limit->began_ns);
    double rate = (double)limit->answers / elapsed;
    limit->rounds++;
    if (limit->area < FILLED * limit->now * elapsed)
        limit_unfilled(limit);
    else if (limit->step == LIMIT_BASE)
        limit_base_done(limit, rate);
    else if (limit->step == LIMIT_TRIAL)
        limit_trial_done(limit, rate);
    else
        limit_rest_done(limit, rate);
    limit_begin(limit, limit->step == LIMIT_TRIAL ? limit->trial : limit->base);
}

static inline uint64_t limit_round_answers(const struct limit *limit)
{
    uint64_t turns = ROUND_TURNS * (uint64_t)limit->now;
    return turns > ROUND_LEAST ? turns : ROUND_LEAST;
}

/* Requests went out, or answers came in: `in_flight` are out now, `answered` came. */
static inline void limit_note(struct limit *limit, uint64_t now_ns, uint32_t in_flight,
                              uint32_t answered)
{
    limit->area += (double)limit->in_flight * (double)(now_ns - limit->then_ns);
    limit->then_ns = now_ns;
    limit->in_flight = in_flight;
    if (limit->skip > 0) {
        limit->skip = answered < limit->skip ? limit->skip - answered : 0;
        limit->area = 0;
        limit->began_ns = now_ns;
        return;
    }
    limit->answers += answered;
    if (answered > 0 && limit->answers >= limit_round_answers(limit) &&
        now_ns - limit->began_ns >= limit->hold_ns && now_ns > limit->began_ns)
        limit_round_done(limit);
}

#endif
