/* A publisher without barriers, and a sleeper that has them for both, on x86-TSO.
 *
 * Each end is a process with a FIFO store buffer that another process drains into
 * memory when it pleases; a full barrier waits until the own buffer is empty, a heavy
 * one until that of a registered publisher is, too.  The producer publishes one message
 * at a time and turns, to light or to full, when it finds another wish; the consumer
 * wishes what it pleases if it has a heavy barrier, and full barriers if not.  Either
 * may die between two calls, and its successor may be one that is not registered or has
 * no heavy barrier.  Death empties the store buffer.  The pause of who has no heavy
 * barrier is modelled as what it is: long enough for a store buffer to empty.
 *
 * Property: no invalid end state, that is, the consumer never sleeps for ever beside
 * work.  Indices wrap during the run.  The end of the producer is the end of the run.
 *
 * Statements that stand for one of spsc.h name it, function first; a test compares
 * them, their order and the names of the orderings with the header.
 *
 * Variants, each of which must be found guilty:
 *   NO_HEAVY_BARRIER      the sleeper leaves the heavy barrier out
 *   HEAVY_BEFORE_ARMING   it comes before the announcement
 *   LOOK_BEFORE_ARMING    whether the publisher is light is looked at too early
 *   NO_PAUSE              who has no heavy barrier goes on without one
 *   NOT_REGISTERED        who is not registered publishes lightly all the same
 *   LIGHT_IN_SECRET       light publishes to a sleeper that does not know
 *   TURN_WITHOUT_BARRIER  a publisher says that it turns, and turns at once
 *   PLAIN_PUBLISH         a publisher with full barriers leaves them out
 *   PLAIN_ANNOUNCEMENT    a sleeper announces itself without one
 *   NO_SECOND_LOOK        a sleeper announces itself and sleeps
 */

#define MASK 7 /* indices are modulo 8 */
#define START 6
#define TOTAL 4
#define LIVES 2 /* how often an end may die */
#define DISTANCE(from, to) (((to) - (from)) & MASK)
#define ANY(word) if :: word = 0 :: word = 1 fi

mtype = { PROD, LIGHT, EVENT, WISH };

byte prod = START;
bit prod_light;
byte prod_event = START;
bit prod_wish;
bit eventfd;

bit registered; /* ghost: whether a heavy barrier reaches the producer */

chan producer_stores = [3] of { mtype, byte };
chan consumer_stores = [3] of { mtype, byte };

active proctype drain_producer()
{
    byte value;
end:
    do
    :: atomic { producer_stores ? PROD, value -> prod = value }
    :: atomic { producer_stores ? LIGHT, value -> prod_light = value }
    od
}

active proctype drain_consumer()
{
    byte value;
end:
    do
    :: atomic { consumer_stores ? EVENT, value -> prod_event = value }
    :: atomic { consumer_stores ? WISH, value -> prod_wish = value }
    od
}

#ifdef NO_HEAVY_BARRIER
#define HEAVY skip
#else
#define HEAVY \
    if \
    :: registered -> empty(producer_stores) \
    :: else \
    fi
#endif
#ifdef NO_PAUSE
#define PAUSE skip
#else
#define PAUSE empty(producer_stores)
#endif
#ifdef NOT_REGISTERED
#define ABLE 1
#else
#define ABLE registered
#endif

active proctype producer()
{
    byte old = START, new, event, deaths;
    bit light, wish, seen;
    do
    :: DISTANCE(START, old) == TOTAL -> break
    :: DISTANCE(START, old) < TOTAL && deaths < LIVES ->
        deaths++;
        empty(producer_stores);
        /* spsc_begin: spsc_turn(end, light, 0); */
        wish = 0;
        light = 0;
        producer_stores ! LIGHT, 0;
        empty(producer_stores);
        ANY(registered)
    :: DISTANCE(START, old) < TOTAL ->
        new = (old + 1) & MASK;
        /* release: message-published; full barrier: message-announced. */
        /* spsc_publish: store_release(&end->header->prod, new); */
        /* spsc_publish: store_seq_cst(&end->header->prod, new); */
        producer_stores ! PROD, new;
#ifndef PLAIN_PUBLISH
        if
        :: light
        :: !light -> empty(producer_stores)
        fi;
#endif
        /* spsc_publish: load_relaxed(&end->header->prod_wish); */
        seen = prod_wish;
        if
        :: seen != wish ->
            /* spsc_turn: end->wish = wish; */
            wish = seen;
            /* spsc_turn: end->light = wish != 0 && end->registered; */
            light = wish && ABLE;
#ifndef LIGHT_IN_SECRET
            /* release: publish-turned. */
            /* spsc_turn: store_seq_cst(light, end->light); */
            producer_stores ! LIGHT, light;
#endif
#ifndef TURN_WITHOUT_BARRIER
            empty(producer_stores)
#endif
        :: seen == wish
        fi;
        /* spsc_publish: load_seq_cst(&end->header->prod_event) */
        event = prod_event;
        if
        :: DISTANCE(event, new) < DISTANCE(old, new) -> eventfd = 1
        :: !(DISTANCE(event, new) < DISTANCE(old, new))
        fi;
        old = new
    od
}

active proctype consumer()
{
    byte cons = START, ready, deaths;
    bit heavy, wish, light;
    do
    :: DISTANCE(START, cons) == TOTAL -> break
    :: DISTANCE(START, cons) < TOTAL && deaths < LIVES ->
        deaths++;
        empty(consumer_stores);
        ANY(heavy);
        /* spsc_begin: store_relaxed(wish, end->heavy); */
        consumer_stores ! WISH, heavy
    :: DISTANCE(START, cons) < TOTAL ->
        /* acquire: message-published. */
        ready = prod;
        if
        :: ready != cons -> cons = ready
        :: ready == cons ->
            /* spsc_await_message: spsc_nap(end, &end->header->prod_wish); */
            ANY(wish);
            consumer_stores ! WISH, (wish && heavy);
#ifdef HEAVY_BEFORE_ARMING
            if
            :: heavy -> HEAVY
            :: !heavy -> PAUSE
            fi;
#endif
#ifdef LOOK_BEFORE_ARMING
            light = prod_light;
#endif
            /* full barrier: message-awaited. */
            /* spsc_await_message: store_seq_cst(&end->header->prod_event, end->index + 1); */
            consumer_stores ! EVENT, (cons + 1) & MASK;
#ifndef PLAIN_ANNOUNCEMENT
            empty(consumer_stores);
#endif
#ifndef LOOK_BEFORE_ARMING
            /* acquire: publish-turned. */
            /* spsc_await_message: spsc_settle_peer(end, &end->header->prod_light); */
            /* spsc_settle_peer: load_seq_cst(light) */
            light = prod_light;
#endif
#ifndef HEAVY_BEFORE_ARMING
            /* spsc_settle_peer: barrier_heavy(end->heavy); */
            if
            :: light && heavy -> HEAVY
            :: light && !heavy -> PAUSE
            :: !light
            fi;
#endif
            /* spsc_await_message: spsc_ready(end, 1); */
            /* acquire: message-published. */
#ifndef NO_SECOND_LOOK
            ready = prod;
#endif
            if
            :: ready != cons
            :: ready == cons -> atomic { eventfd == 1 -> eventfd = 0 }
            fi
        fi
    od
}
