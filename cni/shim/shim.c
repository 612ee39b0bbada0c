/* The CNI plugin that container runtimes run: it carries a request to the daemon and the answer back.
 *
 * In C because a process start is most of an ADD: this one starts in 0.15 ms, an interpreter in ten. With musl: what
 * glibc asks of the processor at its start takes 0.3 ms.
 * It decides nothing. What the daemon cannot answer, cni/offline.py does, which this process becomes.
 * The bytes on the socket are described in cni/executable.py.
 *
 * Three paths are written into the finished file by cni/install.py, in place of the words between the @s.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PATH_BYTES 256
#define CONNECT_MS 5000 /* a daemon that restarts is waited for so long */
#define DELETE_MS 1000  /* less: a DEL can be written down instead */
#define ANSWER_SECONDS 45
#define PAUSE_MS 20

/* volatile: the compiler must not take their first value for their last. */
static volatile char socket_path[PATH_BYTES] = "@NETPLANE-SOCKET@";
static volatile char python_path[PATH_BYTES] = "@NETPLANE-PYTHON@";
static volatile char journal_path[PATH_BYTES] = "@NETPLANE-JOURNAL@";

extern char **environ;

struct bytes {
    char *data;
    size_t size;
};

/* Most of what comes fits here; the first malloc would cost as much as five of our system calls. */
#define ROOM 16384
static char input_room[ROOM], answer_room[ROOM], variables_room[ROOM];

/* Status and newline, then a line with its newline: no more comes. Where only the status is there, more may. */
static int is_whole(const struct bytes *answer)
{
    char *newline = memchr(answer->data, '\n', answer->size);
    return newline != NULL && newline + 1 < answer->data + answer->size && answer->data[answer->size - 1] == '\n';
}

/* The whole of a descriptor, or as much as `enough` is content with; -1 and errno where it cannot be read. */
static int read_all(int fd, char *room, struct bytes *into, int (*enough)(const struct bytes *))
{
    size_t size = ROOM;
    into->data = room;
    into->size = 0;
    for (;;) {
        ssize_t n = read(fd, into->data + into->size, size - into->size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        into->size += (size_t)n;
        if (n == 0 || (enough != NULL && enough(into)))
            return 0;
        if (into->size == size) {
            char *grown = into->data == room ? malloc(size *= 2) : realloc(into->data, size *= 2);
            if (grown == NULL)
                return -1;
            if (into->data == room)
                memcpy(grown, room, into->size);
            into->data = grown;
        }
    }
}

static int write_all(int fd, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t n = write(fd, data, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        data += n;
        size -= (size_t)n;
    }
    return 0;
}

/* Become the Python that answers without a daemon; `kind` is "stdin" or "daemon", what could not be reached. */
static int offline(const char *kind, const char *cause, const struct bytes *input, int status_verb)
{
    char *arguments[] = {(char *)python_path, "-I", "-m", "cni.offline", (char *)socket_path,
                         (char *)journal_path, (char *)kind, (char *)cause, NULL};
    int fd = input->size > 0 ? memfd_create("stdin", 0) : open("/dev/null", O_RDONLY);
    if (fd >= 0 && write_all(fd, input->data, input->size) == 0) {
        if (input->size > 0)
            lseek(fd, 0, SEEK_SET);
        dup2(fd, 0);
        signal(SIGPIPE, SIG_DFL);
        execve((char *)python_path, arguments, environ);
    }
    printf("{\"cniVersion\":\"1.1.0\",\"code\":%d,\"msg\":\"cannot reach the netplane CNI daemon: %s; "
           "cannot run Python: %s\"}\n",
           status_verb ? 50 : 11, cause, strerror(errno));
    return 1;
}

/* CNI_* as KEY=VALUE with NUL between. */
static struct bytes variables(void)
{
    struct bytes found = {variables_room, 0};
    size_t needed = 0;
    for (char **pair = environ; *pair != NULL; pair++)
        if (strncmp(*pair, "CNI_", 4) == 0)
            needed += strlen(*pair) + 1;
    if (needed > ROOM && (found.data = malloc(needed)) == NULL)
        return found;
    for (char **pair = environ; *pair != NULL; pair++) {
        if (strncmp(*pair, "CNI_", 4) != 0)
            continue;
        size_t size = strlen(*pair) + 1;
        memcpy(found.data + found.size, *pair, size);
        found.size += size;
    }
    if (found.size > 0)
        found.size--; /* between, not after */
    return found;
}

static int connect_within(int milliseconds)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timespec pause = {0, PAUSE_MS * 1000000L};
    struct timeval patience = {ANSWER_SECONDS, 0};
    for (size_t i = 0; i < sizeof address.sun_path - 1; i++)
        address.sun_path[i] = socket_path[i];
    for (int waited = 0;; waited += PAUSE_MS) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
            return -1;
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
            return fd;
        int cause = errno;
        close(fd);
        errno = cause;
        if (waited >= milliseconds)
            return -1;
        nanosleep(&pause, NULL);
    }
}

/* All of a message; what its control part carries goes with the first byte. */
static int send_all(int fd, struct msghdr *message)
{
    while (message->msg_iovlen > 0) {
        ssize_t n = sendmsg(fd, message, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        message->msg_control = NULL;
        message->msg_controllen = 0;
        while (message->msg_iovlen > 0 && (size_t)n >= message->msg_iov->iov_len) {
            n -= (ssize_t)message->msg_iov->iov_len;
            message->msg_iov++;
            message->msg_iovlen--;
        }
        if (message->msg_iovlen > 0) {
            message->msg_iov->iov_base = (char *)message->msg_iov->iov_base + n;
            message->msg_iov->iov_len -= (size_t)n;
        }
    }
    return 0;
}

/* Header, with the opened namespace, then environment and standard input. */
struct request {
    char header[32], control[CMSG_SPACE(sizeof(int))];
    struct iovec parts[3];
    struct msghdr message;
};

static void prepare(struct request *request, const struct bytes *input)
{
    const char *path = getenv("CNI_NETNS");
    int netns = path != NULL && *path != '\0' ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    struct bytes environment = variables();
    int length = snprintf(request->header, sizeof request->header, "NPCNI1 %08zx %08zx\n", environment.size,
                          input->size);
    request->parts[0] = (struct iovec){request->header, (size_t)length};
    request->parts[1] = (struct iovec){environment.data, environment.size};
    request->parts[2] = (struct iovec){input->data, input->size};
    request->message = (struct msghdr){.msg_iov = request->parts, .msg_iovlen = 3};
    if (netns >= 0) {
        request->message.msg_control = request->control;
        request->message.msg_controllen = sizeof request->control;
        struct cmsghdr *rights = CMSG_FIRSTHDR(&request->message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(rights), &netns, sizeof netns);
    }
}

int main(void)
{
    struct bytes input, answer;
    const char *command = getenv("CNI_COMMAND");
    if (command == NULL)
        command = "";
    signal(SIGPIPE, SIG_IGN);
    int is_status = strcmp(command, "STATUS") == 0;
    if (read_all(0, input_room, &input, NULL) != 0) {
        input.size = 0;
        return offline("stdin", strerror(errno), &input, is_status);
    }
    int patience = strcmp(command, "DEL") == 0 ? DELETE_MS : CONNECT_MS;
    if (is_status || strcmp(command, "VERSION") == 0)
        patience = 0;
    /* Before we connect, which wakes the daemon: it finds the request, and need not sleep again until that comes. */
    static struct request request;
    prepare(&request, &input);
    int fd = connect_within(patience);
    if (fd < 0 || send_all(fd, &request.message) != 0 || read_all(fd, answer_room, &answer, is_whole) != 0)
        return offline("daemon", errno == EAGAIN ? "it did not answer" : strerror(errno), &input, is_status);
    char *newline = memchr(answer.data, '\n', answer.size), *end;
    long status = newline != NULL ? strtol(answer.data, &end, 10) : -1;
    int cut = newline != NULL && newline + 1 < answer.data + answer.size && !is_whole(&answer);
    if (newline == NULL || end != newline || end == answer.data || status < 0 || status > 255 || cut)
        return offline("daemon", "it went away before it answered", &input, is_status);
    newline++;
    /* Nobody reads: then the runtime does not have the answer, and the exit status must say so. */
    return write_all(1, newline, answer.size - (size_t)(newline - answer.data)) == 0 ? (int)status : 1;
}
