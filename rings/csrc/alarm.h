/* What ends a sleep that has no timeout of its own, once a slice.
 *
 * A timeout sets a kernel timer at every sleep and cancels it at every wake-up: a
 * twelfth of a round trip on one core.  An alarm is a timerfd in the sleeper's epoll,
 * set when there is none on its way that rings in time, and then left alone by all
 * the sleeps that end before it does.  So a slice may be shorter than asked, by what
 * has passed since an earlier sleep set it, and never longer.
 *
 * One thread at a time uses an alarm.  Where there is none (a filter or a full
 * descriptor table refused it), a sleep has a timeout again.
 *
 * Source: timerfd_create(2), epoll(7) on edges.
 */
#ifndef RINGS_ALARM_H
#define RINGS_ALARM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "wait.h"

#define ALARM_ENDS_IT UINT64_MAX

struct alarm {
    int fd;          /* -1: none */
    uint64_t set_ns; /* it rings so long after somebody set it; 0: it is not set */
};

static inline void alarm_close(struct alarm *alarm)
{
    if (alarm->fd >= 0)
        close(alarm->fd);
    *alarm = (struct alarm){.fd = -1};
}

/* Its edges go to this epoll, as events of its descriptor. */
static inline void alarm_open(struct alarm *alarm, int epoll_fd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    alarm->set_ns = 0;
    alarm->fd = event.data.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (alarm->fd >= 0 && epoll_ctl(epoll_fd, EPOLL_CTL_ADD, alarm->fd, &event) < 0)
        alarm_close(alarm);
}

static inline bool alarm_change(struct alarm *alarm, uint64_t ns)
{
    struct itimerspec once = {.it_value = {.tv_sec = (time_t)(ns / 1000000000u),
                                           .tv_nsec = (long)(ns % 1000000000u)}};
    alarm->set_ns = ns;
    if (alarm->fd >= 0 && timerfd_settime(alarm->fd, 0, &once, NULL) == 0)
        return true;
    alarm->set_ns = 0;
    return false;
}

/* See that it rings within `ns` from now; false if it cannot. */
static inline bool alarm_within(struct alarm *alarm, uint64_t ns)
{
    if (__builtin_expect(alarm->set_ns != 0 && alarm->set_ns <= ns, 1))
        return true;
    return alarm_change(alarm, ns);
}

/* How long to sleep, in ns: a slice or what is left until the deadline, whichever is
 * less; ALARM_ENDS_IT: without a timeout, the alarm is set. */
static inline uint64_t alarm_slice(struct alarm *alarm, uint64_t slice_ns, uint64_t deadline_ns)
{
    uint64_t now = deadline_ns == NO_DEADLINE ? 0 : now_ns();
    if (deadline_ns < now + slice_ns)
        return deadline_ns > now ? deadline_ns - now : 0;
    return alarm_within(alarm, slice_ns) ? ALARM_ENDS_IT : slice_ns;
}

/* True if this event was the alarm, which is then no longer set. */
static inline bool alarm_rang(struct alarm *alarm, const struct epoll_event *event)
{
    if (event->data.fd != alarm->fd)
        return false;
    alarm->set_ns = 0;
    return true;
}

#endif
