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
 * quarter off.  Chance is allowed for: a gain counts once it is larger than its error, and
 * how much the rate changes by itself is learned from rounds at one limit.  So what is clear
 * is done at once, and from the start each round doubles the limit while the rate rises with
 * it.  When neither direction is worth it the limit rests, longer each time; a rate that
 * changes much by itself ends the rest.
 *
 * A round is ROUND_TURNS times the limit in answers and lasts `hold_ns` at least; what was
 * in flight when the limit changed is answered before it begins.  It counts only if the
 * lower of the two limits that are compared was in somebody's way: then the rounds differ
 * by it.  How full the ring was in the mean does not tell that: where answers come as fast
 * as requests are written it is half empty while they are, and yet all of it is asked for.
 * What tells is that as much was in flight at some moment, and is so again: who always wants
 * more is back there within as many answers as the limit lets be outstanding, whether they
 * come one by one or all at once.  So each such moment vouches for that many answers, and a
 * round counts if BINDING of its answers are vouched for: a single crowd does not do.
 *
 * Its rate is the slope of the line that fits the count of answers over time best, not the
 * count by the time: servers that work abreast answer in groups, and from one group to
 * another there are a few more or less than from one to the same; the same ones in each
 * round, so no number of rounds would show it.  Answers count as if they had come evenly
 * since those before.
 *
 * A pause is no work: if nothing was in flight for longer than something was before, and
 * not only for a moment, the round goes on after it as if it stood where the limit was last
 * in the way.  What came then was the end of a crowd, when nobody wanted more.  So a round
 * can be made of many crowds; one that is over before anything was learned counts as a round
 * that tells nothing.  A shorter pause is what the user needs to write the next requests,
 * and so part of the rate that is looked for.
 *
 * There is a note for each batch that goes out or comes in, so there is one look at the
 * clock a batch and none a request.
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
    NOISE_ROUNDS = 8,     /* whose noise is remembered */
    PAUSE_PART = 8,       /* of the shortest round: a moment */
    UNBOUND_ROUNDS = 3,   /* so many in a row that do not count: nobody wants more */
};
#define WORTH 0.03        /* of the limit's rise, in logarithms */
#define STRANGE 0.2       /* a rate so far off is another device's */
#define BINDING 0.5       /* of a round's answers, that more were wanted */

/* Counts of a round, and what the line through them is made of. */
struct limit_round {
    uint64_t counted_ns;         /* the clock at the last answers */
    uint64_t ns, answers, bound; /* bound: those that are vouched for */
    double area, moment;         /* integrals over time of the answers, and of them by time */
};

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
    double noise;               /* variance of a round's rate, as a part of it */
    uint32_t pairs, unbound, rest, left, strange;
    /* the round */
    uint64_t then_ns, skip;
    uint64_t awake_ns;               /* since when something was in flight */
    struct limit_round so_far, sure; /* until now; until `mark` was reached last, */
    uint64_t sure_ns;                /* which was then */
    uint32_t in_flight, vouched; /* of the answers to come */
    uint32_t peak, mark;         /* in flight: the most; from here on it tells something */
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

static inline uint32_t limit_neighbour(const struct limit *limit, bool upward)
{
    uint32_t base = limit->base;
    return limit_clamp(limit, upward ? 2 * (uint64_t)base : base - (base + 3) / 4);
}

/* From how many in flight on a round tells something: at the lower of the limits that are
 * compared, or would be after a rest; beyond it, where more is on trial. */
static inline uint32_t limit_mark(const struct limit *limit)
{
    if (limit->step == LIMIT_REST || !limit->upward)
        return limit_neighbour(limit, false);
    return limit->step == LIMIT_TRIAL ? limit->base + 1 : limit->base;
}

static inline void limit_clear(struct limit *limit)
{
    limit->so_far = limit->sure = (struct limit_round){.counted_ns = limit->then_ns};
    limit->sure_ns = limit->then_ns;
}

/* Begin a round at another limit, or at the same. */
static inline void limit_begin(struct limit *limit, uint32_t value)
{
    bool same = value == limit->now;
    limit->now = value;
    limit->mark = limit_mark(limit);
    limit->peak = 0;
    limit->skip = same ? 0 : limit->in_flight > value ? limit->in_flight : value;
    limit->vouched = same ? limit->vouched : 0;
    limit_clear(limit);
}

/* Compare the base with its neighbour on one side, if it has one. */
static inline bool limit_try(struct limit *limit, bool upward)
{
    limit->upward = upward;
    limit->trial = limit_neighbour(limit, upward);
    limit->pairs = limit->unbound = 0;
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

/* Two rounds at one limit differ by chance, and by all else that goes on: learn how much. */
static inline void limit_learn(struct limit *limit, double before, double rate)
{
    double off = rate / before - 1;
    off = off > STRANGE ? STRANGE : off < -STRANGE ? -STRANGE : off;
    limit->noise += (off * off / 2 - limit->noise) / NOISE_ROUNDS;
}

/* A gain's error after some pairs: what they show, and no less than what is known of so
 * many answers or of such rounds would make; three pairs that show less count as well. */
static inline double limit_error(const struct limit *limit, double pairs)
{
    double chance = 1.2 / (double)limit->so_far.answers, shown = 0;
    double least = 1.5 * (limit->noise > chance ? limit->noise : chance) / pairs;
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
    if (before != 0)
        limit_learn(limit, before, rate);
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
    limit->trial = limit->peak < limit->trial ? limit->peak : limit->trial;
    limit->trial_rate = rate;
    limit->step = LIMIT_BASE;
    if (limit->pairs == 0)
        limit_act(limit, limit_judge(limit, gain, 2 * limit_error(limit, 1), false));
}

static inline void limit_rest_done(struct limit *limit, double rate)
{
    if (limit->rest_rate == 0)
        limit->rest_rate = rate;
    else
        limit_learn(limit, limit->rest_rate, rate);
    double off = rate / limit->rest_rate - 1;
    limit->strange = off > STRANGE || off < -STRANGE ? limit->strange + 1 : 0;
    if (limit->strange >= STRANGE_ROUNDS)
        limit->rest = FIRST_REST;
    else if (--limit->left > 0)
        return;
    if (!limit_try(limit, !limit->upward) && !limit_try(limit, !limit->upward))
        limit_rest(limit);
}

/* A round that tells nothing.  If more is on trial, or was, nobody wants it; whether less
 * would do can wait until as much is wanted. */
static inline void limit_unbound(struct limit *limit)
{
    bool waits = limit->step == LIMIT_REST || (limit->step == LIMIT_BASE && !limit->upward);
    if (!waits && ++limit->unbound >= UNBOUND_ROUNDS)
        limit_refuse(limit);
}

static inline void limit_bound(struct limit *limit, double rate)
{
    limit->unbound = 0;
    if (limit->step == LIMIT_BASE)
        limit_base_done(limit, rate);
    else if (limit->step == LIMIT_TRIAL)
        limit_trial_done(limit, rate);
    else
        limit_rest_done(limit, rate);
}

/* Answers a ns, by least squares. */
static inline double limit_slope(const struct limit_round *round)
{
    double ns = (double)round->ns;
    return 12 * (round->moment - ns / 2 * round->area) / (ns * ns * ns);
}

static inline void limit_next(struct limit *limit)
{
    limit_begin(limit, limit->step == LIMIT_TRIAL ? limit->trial : limit->base);
}

static inline void limit_round_done(struct limit *limit)
{
    limit->rounds++;
    if ((double)limit->so_far.bound < BINDING * (double)limit->so_far.answers)
        limit_unbound(limit);
    else
        limit_bound(limit, limit_slope(&limit->so_far));
    limit_next(limit);
}

static inline uint64_t limit_round_answers(const struct limit *limit)
{
    uint64_t turns = ROUND_TURNS * (uint64_t)limit->now;
    return turns > ROUND_LEAST ? turns : ROUND_LEAST;
}

static inline bool limit_round_over(const struct limit *limit)
{
    const struct limit_round *round = &limit->so_far;
    return round->answers >= limit_round_answers(limit) && round->ns >= limit->hold_ns &&
           round->ns > 0;
}

/* The limit is in the way: of whoever has just come up to it, or wants more at once than
 * it leaves. */
static inline void limit_reached(struct limit *limit)
{
    limit->vouched = limit->now;
    limit->sure = limit->so_far;
    limit->sure_ns = limit->then_ns;
}

/* Until now there came so many more answers, evenly. */
static inline void limit_pass(struct limit_round *round, uint64_t now_ns, uint32_t answered)
{
    double from = (double)round->ns, passed = (double)(now_ns - round->counted_ns);
    double before = (double)round->answers, more = answered;
    round->area += (before + more / 2) * passed;
    round->moment += before * passed * (from + passed / 2) +
                     more * passed * (from / 2 + passed / 3);
    round->ns += now_ns - round->counted_ns;
    round->answers += answered;
    round->counted_ns = now_ns;
}

static inline bool limit_paused(const struct limit *limit, uint64_t now_ns)
{
    uint64_t passed_ns = now_ns - limit->then_ns;
    return limit->in_flight == 0 && passed_ns >= limit->hold_ns / PAUSE_PART &&
           passed_ns > limit->then_ns - limit->awake_ns;
}

/* A pause is over: go on from where the limit was last in the way. */
static inline void limit_resume(struct limit *limit)
{
    limit->so_far = limit->sure;
    limit_pass(&limit->so_far, limit->sure_ns, 0);
    limit->so_far.counted_ns = limit->then_ns;
    limit->vouched = 0;
    if (limit->skip > 0 || limit->sure.answers > 0)
        return;
    limit_unbound(limit);
    limit_next(limit);
}

/* Answers came; those that do not belong to the round yet are none of it. */
static inline void limit_count(struct limit *limit, uint32_t answered)
{
    uint32_t bound = answered < limit->vouched ? answered : limit->vouched;
    limit->vouched -= bound;
    if (limit->skip > 0) {
        limit->skip = answered < limit->skip ? limit->skip - answered : 0;
        limit_clear(limit);
        return;
    }
    limit->so_far.bound += bound;
    limit_pass(&limit->so_far, limit->then_ns, answered);
}

/* Requests went out, or answers came in: `in_flight` are out now, `answered` came. */
static inline void limit_note(struct limit *limit, uint64_t now_ns, uint32_t in_flight,
                              uint32_t answered)
{
    bool paused = limit_paused(limit, now_ns);
    limit->awake_ns = limit->in_flight == 0 ? now_ns : limit->awake_ns;
    limit->then_ns = now_ns;
    if (paused)
        limit_resume(limit);
    limit->in_flight = in_flight;
    limit->peak = in_flight > limit->peak ? in_flight : limit->peak;
    if (answered > 0)
        limit_count(limit, answered);
    if (in_flight >= limit->mark)
        limit_reached(limit);
    if (answered > 0 && limit_round_over(limit))
        limit_round_done(limit);
}

#endif
