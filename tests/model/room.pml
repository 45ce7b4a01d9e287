/* Sleepers on a full and on an empty MPMC ring (csrc/mpmc.h, csrc/mpmc_call.h).
 *
 * Who waits for room is told once FEW slots are free (here: the whole ring); whoever
 * frees decides it by hints that others move at the same time.  Nobody here looks by
 * itself, however long somebody works on a slot, and nobody dies.
 *
 * Words, hints and announcements are changed by swaps and additions, which are full
 * barriers; what a run publishes and frees are plain stores, which others may see as
 * late as the next full barrier of who made them.  Consumer 0 takes one message at a
 * time, the other takes runs; with -DPUT_RUNS producers put runs.  Each eventfd is
 * watched on edges: a write wakes all its sleepers, and stays with each until it sleeps.
 *
 * `sleeps` is a counter, of which only matters whether it moved since a member last
 * noted it: `awaited` and `came` say so, for each member that may have to notify.
 *
 * Property: no invalid end state.  Producers end once all messages have been got, and
 * only consumers may sleep for ever.
 *
 * Statements that stand for one of the headers name it, function first; a test
 * compares them and their order with the headers.
 *
 * Variants, each of which must be found guilty:
 *   NO_SECOND_LOOK          a producer announces itself and sleeps
 *   NO_SECOND_LOOK_AT_ALL   so does a consumer
 *   NOTIFY_BEFORE_ADVANCE   who frees looks for room, and then helps cons along
 *   NOTE_EVEN_IF_FULL       who finds no room notes the sleepers all the same
 *   NO_LOOK_AFTER_A_RUN     a run ends without one
 *   NO_BARRIER_AFTER_A_RUN  or looks before its last store is seen
 *   OWN_ONLY                whether there is room is told by the own slots alone
 */

#ifndef PRODUCERS
#define PRODUCERS 1
#endif
#ifndef CONSUMERS
#define CONSUMERS 2
#endif
#ifndef EACH
#define EACH 4 /* messages a producer puts */
#endif
#ifndef SLOTS
#define SLOTS 2
#endif
#ifndef FEW
#define FEW 2
#endif
#define RUN 2 /* messages a run takes at most */
#define TOTAL (PRODUCERS * EACH)

#define FREE 0
#define WRITING 1
#define FULL 2
#define READING 3

byte seq[SLOTS], state[SLOTS];
byte prod, cons;
byte got; /* ghost */

/* Of each consumer: is there a sleeper for room that it has not noted; came one since it
 * last looked.  Of each producer: is there a sleeper for messages that it has not noted. */
bit room_awaited[CONSUMERS], room_came[CONSUMERS];
bit message_awaited[PRODUCERS];

/* Edges that wait for a producer's, a consumer's next sleep. */
bit room_edge[PRODUCERS], message_edge[CONSUMERS];

#define SEQ(i) seq[(i) % SLOTS]
#define STATE(i) state[(i) % SLOTS]
#define CLAIMED(i) (SEQ(i) > (i) || (SEQ(i) == (i) && STATE(i) != FREE))
#define TAKEN(i) (SEQ(i) > (i) || (SEQ(i) == (i) && STATE(i) == READING))
#define EMPTY(i) (SEQ(i) < (i) || (SEQ(i) == (i) && STATE(i) < FULL))
#define FREED(i) SEQ(i) = (i) + SLOTS; STATE(i) = FREE

#define TO_ALL(which, n) for (i : 0 .. (n) - 1) { which[i] = 1 } i = 0

/* Stores of runs, which others see when it pleases the machine. */
chan published[2] = [RUN] of { byte };
chan freed[2] = [RUN] of { byte };
#if CONSUMERS > 2 || PRODUCERS > 2
#error "a store buffer for each"
#endif

inline advance(hint, to) /* mpmc_advance: swap64(index, old, to) */
{
    atomic { if :: hint < to -> hint = to :: else fi }
}

inline run_end(hint, stores) /* with `at` behind the run */
{
    /* mpmc_run_end: mpmc_advance(&member->ring, side, run->at); */
    if
    :: atomic { hint < at && empty(stores) -> hint = at }
    :: hint >= at
    fi;
#ifndef NO_BARRIER_AFTER_A_RUN
    empty(stores) /* mpmc_run_end: mpmc_run_over(&member->ring, run->last); */
#endif
}

proctype drain(byte me)
{
    byte at;
end:
    do
#ifdef PUT_RUNS
    :: atomic { published[me] ? at -> STATE(at) = FULL; at = 0 }
#endif
    :: atomic { freed[me] ? at -> FREED(at); at = 0 }
    od
}

inline notify_sleepers()
{
    /* mpmc_must_notify: load64_seq_cst(&ring->header->side[side].sleeps); */
    /* mpmc_must_notify: ring->notified[side] = sleeps; */
    atomic { awaited = message_awaited[me]; message_awaited[me] = 0 }
    if
    :: awaited -> atomic { TO_ALL(message_edge, CONSUMERS); awaited = 0 }
    :: else
    fi
}

proctype producer(byte me)
{
    byte at, left = EACH, done, i;
    bit awaited;
again:
    if
    :: left == 0 -> goto over
    :: left > 0
    fi;
    at = prod; /* mpmc_index */
look:
    do
    :: atomic { SEQ(at) == at && STATE(at) == FREE && empty(published[me]) ->
                STATE(at) = WRITING; left--; break }
    :: atomic { CLAIMED(at) -> at++ }
    :: atomic { SEQ(at) < at && done == 0 -> at = 0; goto no_room }
#ifdef PUT_RUNS
    :: SEQ(at) < at && done > 0 -> goto run_over
#endif
    od;
#ifdef PUT_RUNS
    /* mpmc_run_put: mpmc_publish_in_run(&member->ring, slot, run->at); */
    published[me] ! at;
    atomic { at++; done++ } /* mpmc_run_put: mpmc_run_goes_on(run); */
    notify_sleepers(); /* mpmc_run_put: mpmc_notify_sleepers(member, MPMC_GET); */
    if
    :: done < RUN && left > 0 -> goto look
    :: else -> goto run_over
    fi;
run_over:
    run_end(prod, published[me]);
#ifndef NO_LOOK_AFTER_A_RUN
    notify_sleepers(); /* mpmc_run_end: mpmc_notify_sleepers(member, MPMC_GET); */
#endif
    atomic { empty(published[me]) -> at = 0; done = 0; goto again }
#else
    STATE(at) = FULL; /* mpmc_put_at: mpmc_publish(&member->ring, slot, *at); */
    notify_sleepers(); /* mpmc_put_at: mpmc_notify_sleepers(member, MPMC_GET); */
    advance(prod, at + 1);
    atomic { at = 0; goto again };
#endif
no_room:
    atomic { /* full barrier: room-awaited. */
        TO_ALL(room_awaited, CONSUMERS);
        TO_ALL(room_came, CONSUMERS)
    }
#ifndef NO_SECOND_LOOK
    at = prod;
    do
    :: atomic { SEQ(at) == at && STATE(at) == FREE -> at = 0; goto again }
    :: atomic { CLAIMED(at) -> at++ }
    :: atomic { SEQ(at) < at -> at = 0; break }
    od;
#endif
asleep:
    atomic { room_edge[me] == 1 -> room_edge[me] = 0 };
    goto again;
over:
    got == TOTAL
}

inline notify_room(own)
{
    /* mpmc_must_notify_room: load64_seq_cst(&ring->header->side[MPMC_PUT].sleeps); */
    atomic { awaited = room_awaited[me]; room_came[me] = 0 }
    if
    :: awaited ->
        /* mpmc_roomy: prod = mpmc_index(ring, MPMC_PUT), cons = mpmc_index(ring, MPMC_GET); */
        seen = prod;
#ifdef OWN_ONLY
        taken = 0;
#else
        taken = cons;
#endif
#ifdef NOTE_EVEN_IF_FULL
        room_awaited[me] = room_came[me];
#endif
        /* mpmc_roomy: (int64_t)(prod - cons) <= most || (int64_t)(prod - freed) <= most; */
        if
        :: seen - taken <= SLOTS - FEW || seen - (own) <= SLOTS - FEW ->
            /* mpmc_must_notify_room: ring->notified[MPMC_PUT] = sleeps; */
            atomic {
                room_awaited[me] = room_came[me];
                TO_ALL(room_edge, PRODUCERS)
            }
        :: else
        fi
    :: else
    fi;
    atomic { awaited = 0; seen = 0; taken = 0 }
}

proctype consumer(byte me)
{
    byte at, i, seen, taken, done;
    bit awaited;
again:
    at = cons; /* mpmc_index */
look:
    do
    :: atomic { SEQ(at) == at && STATE(at) == FULL && empty(freed[me]) ->
                STATE(at) = READING; got++; break }
    :: atomic { TAKEN(at) -> at++ }
    :: atomic { EMPTY(at) && done == 0 -> at = 0; goto nothing }
    :: EMPTY(at) && done > 0 -> goto run_over
    od;
    if
    :: me == 0 ->
        atomic { FREED(at) }; /* mpmc_get_alone: mpmc_free(&member->ring, slot, at); */
#ifdef NOTIFY_BEFORE_ADVANCE
        notify_room(at + 1);
#endif
        advance(cons, at + 1); /* mpmc_get_alone: mpmc_done_alone(member, MPMC_GET, at); */
#ifndef NOTIFY_BEFORE_ADVANCE
        notify_room(at + 1); /* mpmc_get_alone: mpmc_notify_room(member, at + 1); */
#endif
        atomic { at = 0; goto again }
    :: else ->
        /* mpmc_run_get: mpmc_free_in_run(&member->ring, slot, run->at); */
        freed[me] ! at;
        atomic { at++; done++ } /* mpmc_run_get: mpmc_run_goes_on(run); */
        notify_room(at); /* mpmc_run_get: mpmc_notify_room(member, run->at); */
        if
        :: done < RUN -> goto look
        :: else -> goto run_over
        fi
    fi;
run_over:
    run_end(cons, freed[me]);
#ifndef NO_LOOK_AFTER_A_RUN
    notify_room(at); /* mpmc_run_end: mpmc_notify_room(member, run->at); */
#endif
    atomic { empty(freed[me]) -> at = 0; done = 0; goto again }
nothing:
    atomic { /* full barrier: message-awaited. */
        TO_ALL(message_awaited, PRODUCERS)
    }
#ifndef NO_SECOND_LOOK_AT_ALL
    at = cons;
    do
    :: atomic { SEQ(at) == at && STATE(at) == FULL -> at = 0; goto again }
    :: atomic { TAKEN(at) -> at++ }
    :: atomic { EMPTY(at) -> at = 0; break }
    od;
#endif
end_asleep:
    atomic { message_edge[me] == 1 -> message_edge[me] = 0 };
    goto again
}

init {
    byte i;
    atomic {
        for (i : 0 .. SLOTS - 1) { seq[i] = i }
        for (i : 0 .. PRODUCERS - 1) { run producer(i) }
        for (i : 0 .. CONSUMERS - 1) { run consumer(i) }
        for (i : 0 .. 1) { run drain(i) }
    }
}
