/* Load for `netplane bench`: a server and clients that cost as little as they can, so that what lies between
 * them is what is measured. Built by the bench itself; no part of netplane runs it.
 *
 *   load server PORT                              until killed
 *   load connect ADDRESS PORT SECONDS PARALLEL    new connections: one byte there, one back, the server closes
 *   load request ADDRESS PORT SECONDS PARALLEL    64 bytes there and back over connections that stay
 *   load bulk ADDRESS PORT SECONDS PARALLEL       one way, until the last byte has arrived
 *   load idle ADDRESS PORT SECONDS PARALLEL       open, one exchange each, say "ready", and wait
 *   load pace ADDRESS PORT RATE PARALLEL          the same, then RATE exchanges a second over them all in turn,
 *                                                 until a line comes; the slowest is printed in place of the seconds
 *   load probe ADDRESS PORT INTERVAL PARALLEL     a stamped message on each connection every INTERVAL seconds, until
 *                                                 a line comes: how long each was on its way, either way, by the
 *                                                 kernel's own clock readings at its arrival, so that neither end's
 *                                                 own slowness counts. Slowest in place of the seconds.
 * Probes and the servers that they reach run before everything else (SCHED_FIFO, or else nice -20).
 * A client prints one line: count seconds p50 p99 failures (bytes for bulk; times in microseconds).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 64, BLOCK = 256 * 1024, MOST = 65536 };
static char block[BLOCK];
static double begun[MOST];
static char mode_of[MOST];
static double *times;
static long count, failures, room;
static int set;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void watch(int fd, unsigned events, int op) {
    struct epoll_event e = {.events = events, .data.fd = fd};
    if (epoll_ctl(set, op, fd, &e)) die("epoll_ctl");
}

/* -- stamped messages: what a probe sends, and what it gets back -------------------------------------------- */

struct stamps {
    char kind, pad[7];
    double asked, arrived, answered; /* CLOCK_REALTIME, as the kernel stamps arrivals */
    char rest[SIZE - 32];
};

static double real(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void hurry(void) {
    struct sched_param first = {.sched_priority = 1};
    if (sched_setscheduler(0, SCHED_FIFO, &first) && setpriority(PRIO_PROCESS, 0, -20)) perror("priority");
}

static void stamp(int fd) {
    int one = 1;
    setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one);
}

/* One message, and when its last byte arrived; what came together was together on its way. 0: the end, -1: none. */
static ssize_t take(int fd, struct stamps *message, double *arrived) {
    char notes[256];
    struct iovec into = {message, sizeof *message};
    struct msghdr asked = {.msg_iov = &into, .msg_iovlen = 1, .msg_control = notes, .msg_controllen = sizeof notes};
    ssize_t got = recvmsg(fd, &asked, 0);
    *arrived = real();
    if (got > 0)
        for (struct cmsghdr *note = CMSG_FIRSTHDR(&asked); note; note = CMSG_NXTHDR(&asked, note))
            if (note->cmsg_level == SOL_SOCKET && note->cmsg_type == SCM_TIMESTAMPNS) {
                struct timespec at;
                memcpy(&at, CMSG_DATA(note), sizeof at);
                if (at.tv_sec) *arrived = at.tv_sec + at.tv_nsec / 1e9;
            }
    return got;
}

static void answer_stamped(int fd) {
    struct stamps message;
    ssize_t got;
    while ((got = take(fd, &message, &message.arrived)) > 0) {
        message.answered = real();
        if (write(fd, &message, sizeof message) != sizeof message) break;
    }
    if (!got) close(fd);
}

static void serve(int fd) { /* the first byte says what is wanted */
    if (!mode_of[fd] && recv(fd, &mode_of[fd], 1, MSG_PEEK) == 1 && mode_of[fd] == 'w') {
        hurry();
        stamp(fd);
    }
    if (mode_of[fd] == 'w') {
        answer_stamped(fd);
        return;
    }
    ssize_t n = read(fd, block, BLOCK);
    if (n <= 0) {
        close(fd);
        return;
    }
    if (mode_of[fd] == 'd') return;
    if (write(fd, block, n) != n || mode_of[fd] == 'c') close(fd);
}

static void server(int port) {
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (bind(listener, (void *)&at, sizeof at) || listen(listener, 4096)) die("listen");
    watch(listener, EPOLLIN, EPOLL_CTL_ADD);
    for (;;) {
        struct epoll_event events[256];
        int n = epoll_wait(set, events, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd, client;
            if (fd != listener) {
                serve(fd);
                continue;
            }
            while ((client = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                if (client >= MOST) die("too many");
                mode_of[client] = 0;
                watch(client, EPOLLIN, EPOLL_CTL_ADD);
            }
        }
    }
}

static void note(double seconds) {
    if (count == room) times = realloc(times, (room = room ? 2 * room : 65536) * sizeof *times);
    times[count++] = seconds;
}

static void done(int fd) { note(now() - begun[fd]); }

static int dial(struct sockaddr_in *to, char first) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0 || fd >= MOST) die("socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    mode_of[fd] = first;
    begun[fd] = now();
    if (connect(fd, (void *)to, sizeof *to) && errno != EINPROGRESS) die("connect");
    watch(fd, EPOLLOUT, EPOLL_CTL_ADD);
    return fd;
}

static void bulk(struct sockaddr_in *to, double seconds, int parallel) {
    double start = now();
    long total = 0;
    int fds[64], left = parallel;
    for (int i = 0; i < parallel; i++) fds[i] = dial(to, 'd');
    memset(block, 'd', BLOCK);
    while (left) {
        struct epoll_event events[64];
        int n = epoll_wait(set, events, 64, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (events[i].events & EPOLLIN) { /* the server has seen the end */
                close(fd);
                left--;
            } else if (now() - start < seconds) {
                ssize_t sent = write(fd, block, BLOCK);
                if (sent < 0 && errno != EAGAIN) die("write");
                if (sent > 0) total += sent;
            } else {
                shutdown(fd, SHUT_WR);
                watch(fd, EPOLLIN, EPOLL_CTL_MOD);
            }
        }
    }
    (void)fds;
    printf("%ld %.6f 0 0 0\n", total, now() - start);
}

static int by_value(const void *a, const void *b) {
    double x = *(double *)a, y = *(double *)b;
    return (x > y) - (x < y);
}

static void client(struct sockaddr_in *to, char kind, double seconds, int parallel) {
    size_t size = kind == 'c' ? 1 : SIZE;
    memset(block, kind, size);
    double start = 0, end = now() + 10;
    int live = 0, answered = 0;
    for (; live < parallel; live++) dial(to, kind);
    while (now() < end) {
        struct epoll_event events[256];
        int n = epoll_wait(set, events, 256, 100);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (events[i].events & EPOLLOUT) {
                if (write(fd, block, size) < 0) {
                    failures++;
                    close(fd);
                    dial(to, kind);
                    continue;
                }
                watch(fd, EPOLLIN, EPOLL_CTL_MOD);
                continue;
            }
            char back[SIZE];
            ssize_t got = read(fd, back, sizeof back);
            if (kind == 'c' && got == 1) continue; /* its end follows */
            if (got < 0 || (kind != 'c' && got == 0)) {
                failures++;
                close(fd);
                dial(to, kind);
                continue;
            }
            if (!start && ++answered >= parallel) { /* all are there: the measured time begins */
                if (kind == 'i') {
                    puts("ready");
                    fflush(stdout);
                    sleep((unsigned)seconds);
                    exit(0);
                }
                start = now();
                end = start + seconds;
            }
            if (kind == 'i') continue;
            if (start) done(fd);
            if (kind == 'c') {
                close(fd);
                dial(to, kind);
            } else {
                begun[fd] = now();
                if (write(fd, block, size) != (ssize_t)size) failures++;
            }
        }
    }
    if (!count) die("nothing answered");
    qsort(times, count, sizeof *times, by_value);
    printf("%ld %.6f %.1f %.1f %ld\n", count, now() - start, times[count / 2] * 1e6,
           times[(long)(count * 0.99)] * 1e6, failures);
}

static void pace(struct sockaddr_in *to, double rate, int parallel) {
    int *fds = calloc(parallel, sizeof *fds), next = 0;
    double slowest = 0, due = 0;
    memset(block, 'e', SIZE);
    for (int i = 0; i < parallel; i++) { /* one after the other: a listener's queue has an end */
        int fd = fds[i] = socket(AF_INET, SOCK_STREAM, 0), one = 1;
        if (fd < 0 || fd >= MOST || connect(fd, (void *)to, sizeof *to)) die("connect");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (write(fd, block, SIZE) != SIZE || read(fd, block, SIZE) != SIZE) die("exchange");
        watch(fd, EPOLLIN, EPOLL_CTL_ADD);
    }
    watch(0, EPOLLIN, EPOLL_CTL_ADD);
    puts("ready");
    fflush(stdout);
    for (due = now();;) {
        struct epoll_event events[256];
        for (; due <= now(); due += 1 / rate, next = (next + 1) % parallel) {
            if (begun[fds[next]] > 0) continue; /* the last one is on its way still */
            begun[fds[next]] = now();
            if (write(fds[next], block, SIZE) != SIZE) failures++;
        }
        int n = epoll_wait(set, events, 256, 1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            char back[SIZE];
            if (fd == 0) {
                for (int j = 0; j < parallel; j++) /* one that never came back counts as well */
                    if (begun[fds[j]] > 0 && now() - begun[fds[j]] > slowest) slowest = now() - begun[fds[j]];
                printf("%ld %.6f 0 0 %ld\n", count, slowest, failures);
                return;
            }
            if (read(fd, back, SIZE) <= 0) {
                failures++;
                watch(fd, 0, EPOLL_CTL_DEL);
                continue;
            }
            done(fd);
            if (times[count - 1] > slowest) slowest = times[count - 1];
            begun[fd] = 0;
        }
    }
}

static void probe(struct sockaddr_in *to, double interval, int parallel) {
    struct stamps message = {.kind = 'w'};
    double slowest = 0, arrived, *due = calloc(parallel, sizeof *due), end = 0;
    int *fds = calloc(parallel, sizeof *fds);
    long sent = 0;
    for (int i = 0; i < parallel; i++) {
        int fd = fds[i] = socket(AF_INET, SOCK_STREAM, 0), one = 1;
        if (fd < 0 || connect(fd, (void *)to, sizeof *to)) die("connect");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        stamp(fd);
        if (write(fd, &message, SIZE) != SIZE || take(fd, &message, &arrived) != SIZE) die("exchange");
        fcntl(fd, F_SETFL, O_NONBLOCK);
        watch(fd, EPOLLIN, EPOLL_CTL_ADD);
    }
    hurry();
    watch(0, EPOLLIN, EPOLL_CTL_ADD);
    puts("ready");
    fflush(stdout);
    for (int i = 0; i < parallel; i++) due[i] = real() + interval * (i + 1) / parallel;
    while (!end || (count < sent && failures < parallel && real() < end)) {
        double now = real(), next = now + interval;
        for (int i = 0; i < parallel && !end; i++) {
            if (due[i] <= now) {
                message.asked = real();
                sent++;
                if (write(fds[i], &message, SIZE) != SIZE) due[i] = 1e18; /* it has ended, which a read tells as well */
                while (due[i] <= now) due[i] += interval;
            }
            if (due[i] < next) next = due[i];
        }
        struct timespec until = {.tv_nsec = (next > (now = real()) ? next - now : 0) * 1e9};
        struct epoll_event events[256];
        int n = epoll_pwait2(set, events, 256, &until, NULL);
        for (int i = 0; i < n; i++) {
            ssize_t got;
            int fd = events[i].data.fd;
            if (fd == 0) { /* the last ones may take their time to come back */
                end = real() + 10;
                watch(0, 0, EPOLL_CTL_DEL);
                continue;
            }
            while ((got = take(fd, &message, &arrived)) == SIZE) {
                double up = message.arrived - message.asked, down = arrived - message.answered;
                note(up > down ? up : down);
                if (times[count - 1] > slowest) slowest = times[count - 1];
            }
            if (got < 0 && errno == EAGAIN) continue;
            failures++;
            watch(fd, 0, EPOLL_CTL_DEL);
        }
    }
    qsort(times, count, sizeof *times, by_value);
    printf("%ld %.6f %.1f %.1f %ld\n", count, slowest, times[count / 2] * 1e6, times[(long)(count * 0.99)] * 1e6,
           failures);
}

int main(int argc, char **argv) {
    set = epoll_create1(0);
    if (argc == 3) server(atoi(argv[2]));
    if (argc != 6) return 2;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[3]))};
    inet_pton(AF_INET, argv[2], &to.sin_addr);
    double seconds = atof(argv[4]);
    int parallel = atoi(argv[5]);
    if (!strcmp(argv[1], "bulk"))
        bulk(&to, seconds, parallel);
    else if (!strcmp(argv[1], "pace"))
        pace(&to, seconds, parallel);
    else if (!strcmp(argv[1], "probe"))
        probe(&to, seconds, parallel);
    else
        client(&to, !strcmp(argv[1], "connect") ? 'c' : !strcmp(argv[1], "idle") ? 'i' : 'e', seconds, parallel);
    return 0;
}
