#define _GNU_SOURCE
#include "notify.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 0x00000008
#endif

enum { IN_FLIGHT = 128, REAP_AT = 64 };

void notifier_open(struct notifier *notifier)
{
    memset(notifier, 0, sizeof *notifier);
    notifier->source_fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    if (notifier->source_fd < 0 || syscall(__NR_io_setup, IN_FLIGHT, &notifier->context) < 0)
        notifier->context = 0;
}

void notifier_close(struct notifier *notifier)
{
    if (notifier->context != 0)
        syscall(__NR_io_destroy, notifier->context);
    if (notifier->source_fd >= 0)
        close(notifier->source_fd);
    notifier->context = 0;
    notifier->source_fd = -1;
}

static void reap(struct notifier *notifier)
{
    struct io_event events[REAP_AT];
    struct timespec none = {0, 0};
    syscall(__NR_io_getevents, notifier->context, 0, REAP_AT, events, &none);
    notifier->unreaped = 0;
}

static bool raise_by_completion(struct notifier *notifier, int event_fd)
{
    char byte;
    struct iocb iocb = {
        .aio_lio_opcode = IOCB_CMD_PREAD,
        .aio_fildes = (uint32_t)notifier->source_fd,
        .aio_buf = (uint64_t)(uintptr_t)&byte,
        .aio_nbytes = 1,
        .aio_flags = IOCB_FLAG_RESFD,
        .aio_resfd = (uint32_t)event_fd,
    };
    struct iocb *list[1] = {&iocb};
    if (notifier->unreaped >= REAP_AT)
        reap(notifier);
    if (syscall(__NR_io_submit, notifier->context, 1, list) != 1)
        return false;
    notifier->unreaped++;
    return true;
}

bool notifier_raise(struct notifier *notifier, int event_fd)
{
    if (notifier->context != 0 && raise_by_completion(notifier, event_fd))
        return true;
    struct pollfd room = {.fd = event_fd, .events = POLLOUT};
    uint64_t one = 1;
    if (!(fcntl(event_fd, F_GETFL) & O_NONBLOCK))
        return false;
    if (poll(&room, 1, 0) == 1) {
        ssize_t ignored = write(event_fd, &one, sizeof one);
        (void)ignored;
    }
    return true;
}

void notifier_drain(int event_fd)
{
    uint64_t count;
    struct iovec iov = {&count, sizeof count};
    ssize_t ignored = preadv2(event_fd, &iov, 1, -1, RWF_NOWAIT);
    if (ignored < 0 && errno == EOPNOTSUPP && fcntl(event_fd, F_GETFL) & O_NONBLOCK)
        ignored = read(event_fd, &count, sizeof count);
    (void)ignored;
}
