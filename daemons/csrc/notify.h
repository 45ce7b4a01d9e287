/* Waking a peer that shares the eventfd with us, and wishes us ill.
 *
 * The O_NONBLOCK flag of an eventfd belongs to both ends: a hostile frontend can clear
 * it, fill the counter, and a write(2) of ours would never return; a read(2) likewise,
 * once it has emptied the counter behind our poll.  So the counter is read with
 * RWF_NOWAIT, and raised the way the kernel itself does it: by completing an
 * asynchronous read (io_submit with IOCB_FLAG_RESFD), which saturates and never waits.
 *
 * Where there is no asynchronous I/O, write(2) follows a look at the flag and the
 * counter; what is left then is a race that the frontend must win in a few hundred
 * nanoseconds.
 */
#ifndef RINGSD_NOTIFY_H
#define RINGSD_NOTIFY_H

#include <linux/aio_abi.h>
#include <stdbool.h>

struct notifier {
    aio_context_t context; /* 0: there is none */
    int source_fd;         /* read from it, one byte, to have something complete */
    unsigned unreaped;
};

void notifier_open(struct notifier *);
void notifier_close(struct notifier *);
/* Raise the counter of an eventfd; false if the peer has made it blocking. */
bool notifier_raise(struct notifier *, int event_fd);
/* Forget the notifications so far; never waits. */
void notifier_drain(int event_fd);

#endif
