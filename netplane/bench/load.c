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
 * A client prints one line: count seconds p50 p99 failures (bytes for bulk; times in microseconds).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
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

static void serve(int fd) { /* the first byte says what is wanted */
    ssize_t n = read(fd, block, BLOCK);
    if (n <= 0) {
        close(fd);
        return;
    }
    if (!mode_of[fd]) mode_of[fd] = block[0];
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

static void done(int fd) {
    if (count == room) times = realloc(times, (room = room ? 2 * room : 65536) * sizeof *times);
    times[count++] = now() - begun[fd];
}

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
    else
        client(&to, !strcmp(argv[1], "connect") ? 'c' : !strcmp(argv[1], "idle") ? 'i' : 'e', seconds, parallel);
    return 0;
}
