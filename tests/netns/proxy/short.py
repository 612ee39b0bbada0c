"""Both ends of many short connections, each a process: one byte there, one back, then the server closes.

    short.py server ADDRESS PORT    until killed
    short.py client ADDRESS PORT    for each number read: so many connections, 16 at a time; then "N answered"

Why with so little around the system calls: it is the relay between them that is to be kept busy.
"""

import select
import socket
import sys

TOGETHER = 16


def serve(address: str, port: int) -> None:
    """Answer for ever."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(1024)
    listener.setblocking(False)
    watched = select.epoll()
    watched.register(listener.fileno(), select.EPOLLIN)
    clients: dict[int, socket.socket] = {}
    print("ready", flush=True)
    while True:
        for fd, _ in watched.poll():
            if fd != listener.fileno():
                with clients.pop(fd) as client:
                    client.send(client.recv(1))
                continue
            client, _ = listener.accept()
            clients[client.fileno()] = client
            watched.register(client.fileno(), select.EPOLLIN)


def visit(address: str, port: int, count: int) -> int:
    """So many connections; how many were answered."""
    watched, open_ones, begun, answered = select.epoll(), {}, 0, 0
    while answered < count:
        while begun < count and len(open_ones) < TOGETHER:
            sock = socket.create_connection((address, port))
            sock.send(b"x")
            open_ones[sock.fileno()] = sock
            watched.register(sock.fileno(), select.EPOLLIN)
            begun += 1
        for fd, _ in watched.poll(10):
            with open_ones.pop(fd) as sock:
                assert sock.recv(1) == b"x"
                assert sock.recv(1) == b""
            answered += 1
    return answered


if __name__ == "__main__":
    role, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if role == "server":
        serve(address, port)
    print("ready", flush=True)
    for line in sys.stdin:
        print(f"{visit(address, port, int(line))} answered", flush=True)
