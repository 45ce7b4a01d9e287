/* Publish against final check, on a machine with store buffers (x86-TSO).
 *
 * Each half is a process with a FIFO store buffer that another process drains into
 * memory when it pleases; a full barrier waits until the own buffer is empty.  The
 * front publishes requests in batches, the back takes them and sleeps whenever its
 * final check finds nothing.  The eventfd is a bit: writes add up, a read clears it.
 *
 * Property: no invalid end state, that is, the back never sleeps for ever beside work.
 * Indices wrap during the run.  A half never reads a word of its own back, so no load
 * needs to look into its own store buffer.
 *
 * Statements that stand for one of xen.h name it, function first; a test compares
 * them, their order and the names of the orderings with the header.
 *
 * Variants, each of which must be found guilty:
 *   NO_PRODUCER_BARRIER   the announcement of requests is a plain release
 *   NO_CONSUMER_BARRIER   the announcement of sleep is a plain release
 *   NO_FINAL_CHECK        sleep without a second look
 *   CHECK_BEFORE_ARMING   the second look comes first
 *   ONLY_THE_NEWEST       notify if the event word is the new index, not if it is in
 *                         the window
 */

#define MASK 15   /* indices are modulo 16 */
#define START 13
#define SLOTS 4
#define TOTAL 6
#define DISTANCE(from, to) (((to) - (from)) & MASK)

byte req_prod = START;
byte req_event = (START + 1) & MASK;
bit eventfd;

byte taken;  /* ghost: how many requests the back has taken */

chan front_stores = [2] of { byte };
chan back_stores = [2] of { byte };

active proctype drain_front()
{
end:
    do
    :: front_stores ? req_prod
    od
}

active proctype drain_back()
{
end:
    do
    :: back_stores ? req_event
    od
}

active proctype front()
{
    byte old = START, new = START, claimed, event;
    do
    :: claimed == TOTAL -> break
    :: claimed < TOTAL ->
        do
        :: claimed < TOTAL && claimed - taken < SLOTS ->
            claimed++;
            new = (new + 1) & MASK
        :: old != new -> break
        od;
        /* xen_push: store_seq_cst(prod, new); */
        /* release: request-published; full barrier: request-announced. */
        front_stores ! new;
#ifndef NO_PRODUCER_BARRIER
        empty(front_stores);
#endif
        /* xen_push: load_seq_cst(event) */
        event = req_event;
        if
#ifdef ONLY_THE_NEWEST
        :: event == new -> eventfd = 1
        :: event != new
#else
        :: DISTANCE(event, new) < DISTANCE(old, new) -> eventfd = 1
        :: !(DISTANCE(event, new) < DISTANCE(old, new))
#endif
        fi;
        old = new
    od
}

active proctype back()
{
    byte cons = START, prod;
    do
    :: taken == TOTAL -> break
    :: taken < TOTAL ->
        /* xen_back_final_check: xen_back_ready(back); */
        /* acquire: request-published. */
        prod = req_prod;
        if
        :: prod != cons ->
            taken = taken + DISTANCE(cons, prod);
            cons = prod
        :: prod == cons ->
#ifdef CHECK_BEFORE_ARMING
            prod = req_prod;
#endif
            /* xen_back_final_check: store_seq_cst(back->ring.req_event, back->req_cons + 1); */
            /* full barrier: request-awaited. */
            back_stores ! (cons + 1) & MASK;
#ifndef NO_CONSUMER_BARRIER
            empty(back_stores);
#endif
#if !defined(NO_FINAL_CHECK) && !defined(CHECK_BEFORE_ARMING)
            /* xen_back_final_check: load_seq_cst(back->ring.req_prod) */
            /* acquire: request-published. */
            prod = req_prod;
#endif
            if
            :: prod != cons
            :: prod == cons -> atomic { eventfd == 1 -> eventfd = 0 }
            fi
        fi
    od
}
