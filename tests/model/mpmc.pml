/* The MPMC ring under one kill at any statement (csrc/mpmc.h, csrc/owners.h).
 *
 * Two producers, two consumers, two slots, and a recoverer that acts on a confirmed
 * death.  Whoever is killed stops for ever between two statements; the C function
 * that a statement stands for is named beside it.  Memory is sequentially
 * consistent here: what weaker orders break is ThreadSanitizer's to find.
 *
 * Shown: nothing is got that was not wholly written, nothing is got twice, every
 * published message is got or counted in doubt, and nobody who lives is stuck.  With
 * -DDROPS consumers may also drop what they meet: that is counted as lost, just once.
 *
 * Controls, each of which must fail: -DNO_RECOVERY, -DPUBLISH_DEAD (recovery
 * publishes what a dead producer left), -DFALSE_DEATH -DEACH=2 (recovery of one that
 * lives, in spite of publishing by a swap: its payload lands in the next lap's slot),
 * -DDROPS -DTAGLESS (a drop is counted by who drops and by who recovers it).
 */
#define SLOTS 2
#ifndef EACH
#define EACH 1          /* messages a producer puts */
#endif
#ifdef FALSE_DEATH
#define KILLS 0
#else
#define KILLS 1
#endif
#define FREE 0
#define WRITING 1
#define FULL 2
#define READING 3
#define TOMB 4
#define DROPPING 5
#define NOBODY 0
#define GARBAGE 0

byte seq[SLOTS], owner[SLOTS], state[SLOTS], data[SLOTS];
byte prod, cons, in_doubt, published, received, kills = KILLS, ended, ended_producers;
byte lost, condemned, tag[5];
bool dead[5], recovered[5], got[8];
#ifdef FALSE_DEATH
#define IS_DEAD(m) (dead[m] || m == 1)
#else
#define IS_DEAD(m) (dead[m])
#endif

#define WORD(i, o, s) (seq[(i) % SLOTS] == (i) && owner[(i) % SLOTS] == (o) && \
                       state[(i) % SLOTS] == (s))
#define SWAP(i, q, o, s) d_step { seq[(i) % SLOTS] = (q); owner[(i) % SLOTS] = (o); \
                                  state[(i) % SLOTS] = (s) }
#ifdef TAGLESS
#define COUNT_DROP(m, i) lost++
#else
#define COUNT_DROP(m, i) if :: tag[m] != (i) + 1 -> tag[m] = (i) + 1; lost++ :: else fi
#endif
#define MAY_DIE if :: atomic { kills > 0 -> kills--; dead[me] = true; goto over } :: skip fi

proctype producer(byte me) {
    byte at, k;
    do
    :: k == EACH -> break
    :: else ->
       at = prod;                                                /* mpmc_index */
       do                                                        /* mpmc_claim */
       :: atomic { WORD(at, NOBODY, FREE) -> SWAP(at, at, me, WRITING); break }
       :: atomic { seq[at % SLOTS] >= at && !WORD(at, NOBODY, FREE) -> at++ }
       :: atomic { seq[at % SLOTS] < at && state[at % SLOTS] == TOMB ->
                   SWAP(at, at, NOBODY, FREE) }
       od;
       MAY_DIE;
       data[at % SLOTS] = GARBAGE;                               /* memcpy, begun */
       MAY_DIE;
       data[at % SLOTS] = me * 2 + k;                            /* memcpy, ended */
       MAY_DIE;
       atomic {                                                  /* mpmc_publish */
           if
           :: WORD(at, me, WRITING) -> SWAP(at, at, NOBODY, FULL); published++
           :: else
           fi
       }
       MAY_DIE;
       atomic { if :: prod <= at -> prod = at + 1 :: else fi };  /* mpmc_advance */
       k++
    od;
over:
    atomic { ended++; ended_producers++ }
}

proctype consumer(byte me) {
    byte at, out;
again:
    at = cons;                                                   /* mpmc_index */
    do                                                           /* mpmc_take */
    :: atomic { WORD(at, NOBODY, FULL) -> SWAP(at, at, me, READING); break }
#ifdef DROPS
    :: atomic { WORD(at, NOBODY, FULL) -> SWAP(at, at, me, DROPPING);   /* mpmc_condemn */
                condemned++; goto drop }
#endif
    :: atomic { seq[at % SLOTS] > at || (seq[at % SLOTS] == at &&
                (state[at % SLOTS] == READING || state[at % SLOTS] == DROPPING)) -> at++ }
    :: atomic { WORD(at, NOBODY, TOMB) -> SWAP(at, at + SLOTS, NOBODY, FREE) }
    :: atomic { ended_producers == 2 && (WORD(at, NOBODY, FREE) || seq[at % SLOTS] < at) ->
                goto over }
    od;
    MAY_DIE;
    out = data[at % SLOTS];                                      /* memcpy */
    MAY_DIE;
    atomic {                                                     /* mpmc_free */
        if
        :: WORD(at, me, READING) -> SWAP(at, at + SLOTS, NOBODY, FREE)
        :: else
        fi;
        assert(out != GARBAGE);
        assert(!got[out]);
        got[out] = true;
        received++
    }
    MAY_DIE;
    atomic { if :: cons <= at -> cons = at + 1 :: else fi };     /* mpmc_advance */
    out = GARBAGE;
    goto again;
drop:
    MAY_DIE;
    atomic { COUNT_DROP(me, at) };                               /* owner_count_drop */
    MAY_DIE;
    atomic {                                                     /* mpmc_free_condemned */
        if
        :: WORD(at, me, DROPPING) -> SWAP(at, at + SLOTS, NOBODY, FREE)
        :: else
        fi
    }
    MAY_DIE;
    atomic { if :: cons <= at -> cons = at + 1 :: else fi };     /* mpmc_advance */
    goto again;
over:
    ended++
}

/* Settles a dead member's slots, one swap each (owner_recover). */
proctype recoverer() {
    byte i, m;
wait:
    if
    :: atomic { IS_DEAD(1) && !recovered[1] -> m = 1 }
    :: atomic { IS_DEAD(2) && !recovered[2] -> m = 2 }
    :: atomic { IS_DEAD(3) && !recovered[3] -> m = 3 }
    :: atomic { IS_DEAD(4) && !recovered[4] -> m = 4 }
    :: ended == 4 && kills == KILLS -> goto over
    fi;
    i = 0;
    do
    :: i == SLOTS -> break
    :: else ->
       atomic {
           if
           :: owner[i] == m && state[i] == WRITING -> owner[i] = NOBODY;
#ifdef PUBLISH_DEAD
              state[i] = FULL; published++
#else
              state[i] = TOMB
#endif
           :: owner[i] == m && state[i] == READING ->
              owner[i] = NOBODY; state[i] = FREE; seq[i] = seq[i] + SLOTS; in_doubt++
           :: owner[i] == m && state[i] == DROPPING ->
              COUNT_DROP(m, seq[i]);
              owner[i] = NOBODY; state[i] = FREE; seq[i] = seq[i] + SLOTS
           :: else
           fi
       };
       i++
    od;
    recovered[m] = true;
over:
    skip
}

/* When the four have ended, one way or the other, the books must balance. */
proctype auditor() {
    ended == 4;
    if
    :: kills == KILLS || recovered[1] || recovered[2] || recovered[3] || recovered[4]
    fi;
    assert(published <= received + in_doubt + lost);
    assert(lost == condemned);
    assert(in_doubt <= 1)
}

init {
    byte i;
    atomic {
        for (i : 0 .. SLOTS - 1) { seq[i] = i; }
        run producer(1); run producer(2); run consumer(3); run consumer(4);
#ifndef NO_RECOVERY
        run recoverer();
#endif
        run auditor()
    }
}
