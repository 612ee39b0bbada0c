/* syscalls.py in C: the same functions, which say there what they do. That file runs where this was not compiled.
 *
 * Why: a short connection takes eighteen system calls, and the objects and arguments that Python puts around them cost
 * as much as all the rest that the relay does. No call here blocks, so the interpreter's lock is kept. */
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CHUNK = 32 * 1024 };
static char chunk[CHUNK];

struct address {
    struct sockaddr_storage storage;
    socklen_t size;
};

static PyObject *failed(void) { return PyErr_SetFromErrno(PyExc_OSError); }

/* A packed address and a port. False, with an exception, where it is neither IPv4 nor IPv6. */
static bool address_of(PyObject *packed, PyObject *port, struct address *into) {
    char *bytes;
    Py_ssize_t size;
    in_port_t number = htons(PyLong_AsLong(port));
    if (PyBytes_AsStringAndSize(packed, &bytes, &size)) return false;
    memset(into, 0, sizeof *into);
    if (size == sizeof(struct in_addr)) {
        struct sockaddr_in *four = (struct sockaddr_in *)&into->storage;
        four->sin_family = AF_INET;
        four->sin_port = number;
        memcpy(&four->sin_addr, bytes, size);
        into->size = sizeof *four;
    } else if (size == sizeof(struct in6_addr)) {
        struct sockaddr_in6 *six = (struct sockaddr_in6 *)&into->storage;
        six->sin6_family = AF_INET6;
        six->sin6_port = number;
        memcpy(&six->sin6_addr, bytes, size);
        into->size = sizeof *six;
    } else {
        PyErr_SetString(PyExc_ValueError, "an address has 4 or 16 bytes");
        return false;
    }
    return !PyErr_Occurred();
}

static bool be_transparent(int fd, int family) {
    int one = 1;
    if (family == AF_INET) return !setsockopt(fd, SOL_IP, IP_TRANSPARENT, &one, sizeof one);
    return !setsockopt(fd, SOL_IPV6, IPV6_TRANSPARENT, &one, sizeof one);
}

static bool start_connecting(int fd, const struct address *from, const struct address *to, bool early) {
    int one = 1, zero = 0;
    if (!be_transparent(fd, from->storage.ss_family)) return false;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one)) return false;
    if (bind(fd, (const struct sockaddr *)&from->storage, from->size)) return false;
    if (early && setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &zero, sizeof zero)) return false;
    return !connect(fd, (const struct sockaddr *)&to->storage, to->size) || errno == EINPROGRESS;
}

/* dial_as(source: bytes, source_port: int, address: bytes, port: int, early: bool) -> int */
static PyObject *dial_as(PyObject *module, PyObject *const *given, Py_ssize_t count) {
    struct address from, to;
    if (count != 5) return PyErr_Format(PyExc_TypeError, "dial_as takes 5 arguments");
    if (!address_of(given[0], given[1], &from) || !address_of(given[2], given[3], &to)) return NULL;
    int fd = socket(from.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return failed();
    if (start_connecting(fd, &from, &to, given[4] == Py_True)) return PyLong_FromLong(fd);
    int number = errno;
    close(fd);
    errno = number;
    return failed();
}

/* accept(listener: int) -> tuple[int, bytes] | None */
static PyObject *accept_one(PyObject *module, PyObject *listener) {
    union {
        struct sockaddr any;
        struct sockaddr_in four;
        struct sockaddr_in6 six;
    } peer;
    socklen_t size = sizeof peer;
    int fd = accept4(PyLong_AsLong(listener), &peer.any, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
        if (errno != EAGAIN) return failed();
        Py_RETURN_NONE;
    }
    if (peer.any.sa_family == AF_INET) return Py_BuildValue("iy#", fd, &peer.four.sin_addr, (Py_ssize_t)4);
    return Py_BuildValue("iy#", fd, &peer.six.sin6_addr, (Py_ssize_t)16);
}

/* read(fd: int) -> bytes | None */
static PyObject *read_chunk(PyObject *module, PyObject *fd) {
    ssize_t size = recv(PyLong_AsLong(fd), chunk, CHUNK, 0);
    if (size >= 0) return PyBytes_FromStringAndSize(chunk, size);
    if (errno != EAGAIN) return failed();
    Py_RETURN_NONE;
}

/* write(fd: int, data: bytes) -> int */
static PyObject *write_chunk(PyObject *module, PyObject *const *given, Py_ssize_t count) {
    char *data;
    Py_ssize_t size;
    if (count != 2) return PyErr_Format(PyExc_TypeError, "write takes 2 arguments");
    if (PyBytes_AsStringAndSize(given[1], &data, &size)) return NULL;
    ssize_t sent = send(PyLong_AsLong(given[0]), data, size, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) return failed();
    return PyLong_FromSsize_t(sent < 0 ? 0 : sent);
}

/* move(source: int, sink: int, ending: bool) -> int | tuple[bytes, int, int]. No object holds what is moved. */
static PyObject *move_chunk(PyObject *module, PyObject *const *given, Py_ssize_t count) {
    if (count != 3) return PyErr_Format(PyExc_TypeError, "move takes 3 arguments");
    ssize_t size = recv(PyLong_AsLong(given[0]), chunk, CHUNK, 0);
    if (size < 0 && errno != EAGAIN) return failed();
    if (size <= 0) return PyLong_FromSsize_t(size);
    int more = given[2] == Py_True && size < CHUNK ? MSG_MORE : 0;
    ssize_t sent = send(PyLong_AsLong(given[1]), chunk, size, MSG_NOSIGNAL | more);
    if (sent == size) return PyLong_FromSsize_t(size);
    int number = sent < 0 && errno != EAGAIN ? errno : 0;
    return Py_BuildValue("y#ni", chunk, (Py_ssize_t)size, (Py_ssize_t)(sent < 0 ? 0 : sent), number);
}

/* end_writing(fd: int) -> None */
static PyObject *end_writing(PyObject *module, PyObject *fd) {
    shutdown(PyLong_AsLong(fd), SHUT_WR);
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"accept", accept_one, METH_O, NULL},
    {"dial_as", (PyCFunction)(void *)dial_as, METH_FASTCALL, NULL},
    {"end_writing", end_writing, METH_O, NULL},
    {"move", (PyCFunction)(void *)move_chunk, METH_FASTCALL, NULL},
    {"read", read_chunk, METH_O, NULL},
    {"write", (PyCFunction)(void *)write_chunk, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "proxy.userspace.syscalls", NULL, -1, functions};

PyMODINIT_FUNC PyInit_syscalls(void) {
    PyObject *made = PyModule_Create(&module);
    if (made && (PyModule_AddIntMacro(made, CHUNK) || PyModule_AddIntMacro(made, IP_TRANSPARENT) ||
                 PyModule_AddIntMacro(made, IPV6_TRANSPARENT)))
        Py_CLEAR(made);
    return made;
}
