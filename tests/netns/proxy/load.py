"""Load whose every byte is checked: `load.py serve PORT`, `stream ADDRESS PORT BULK IDLE`, `visit ADDRESS PORT`;
`serve-short PORT` and `short ADDRESS PORT COUNT` for many connections of one byte; `serve-amount PORT MIB` and
`amount ADDRESS PORT MIB` for one connection with so much in both directions at once, summed at both ends.

A bulk stream sends all the time, both ways, and ends with the SHA-256 of all that it sent. An idle one says a word
at its beginning and one at its end. A visit is a connection of its own, one after the other. Each program prints
"running", runs until its standard input closes, and then says in one JSON line what happened.
"""

import asyncio
import hashlib
import json
import os
import resource
import select
import socket
import sys
import threading
import time

DIGEST = 32
CHUNK = 64 * 1024
BLOCK = os.urandom(CHUNK)
PARALLEL = 4  # connections at once of the short ones
PAUSE = 0.002  # seconds between two blocks: as fast as it goes, and the machine has no time for anything else


async def send_stream(writer: asyncio.StreamWriter, over: asyncio.Event) -> None:
    digest = hashlib.sha256()
    number = 0
    while not over.is_set():
        number += 1
        data = BLOCK[: number % CHUNK or 1]
        digest.update(data)
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(PAUSE)
    writer.write(digest.digest())
    await writer.drain()
    writer.write_eof()


async def check_stream(reader: asyncio.StreamReader, over: asyncio.Event) -> bool:
    """Whether all that came, until the end, is what was sent. Ends what we send as well."""
    digest, last = hashlib.sha256(), b""
    try:
        while data := await reader.read(CHUNK * 4):
            last += data
            digest.update(last[:-DIGEST])
            last = last[-DIGEST:]
    finally:
        over.set()
    return digest.digest() == last


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        if await reader.read(1) == b"b":
            over = asyncio.Event()
            _, good = await asyncio.gather(send_stream(writer, over), check_stream(reader, over))
            if not good:
                print("corrupt", flush=True)
        else:
            while data := await reader.read(CHUNK):
                writer.write(data)
                await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


class Client:
    def __init__(self, address: str, port: int) -> None:
        self.where = (address, port)
        self.said = {"kept": 0, "cut": 0, "corrupt": 0, "idle": 0, "idleCut": 0}
        self.ends: list[asyncio.Event] = []

    def end(self) -> None:
        for event in self.ends:
            event.set()

    async def run(self, bulk: int, idle: int) -> None:
        idles = [await self.open(b"i") for _ in range(idle)]
        bulks = [await self.open(b"b") for _ in range(bulk)]
        asyncio.get_running_loop().add_reader(0, self.end)
        print("running", flush=True)
        await asyncio.gather(*(self.stream(*pair) for pair in bulks))
        for reader, writer in idles:
            await self.wake(reader, writer)
        print(json.dumps(self.said))

    async def open(self, kind: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*self.where, limit=CHUNK * 4)
        writer.write(kind)
        if kind == b"i":
            writer.write(b"word")
            await reader.readexactly(4)
        return reader, writer

    async def stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            sent = asyncio.Event()
            self.ends.append(sent)
            _, good = await asyncio.gather(send_stream(writer, sent), check_stream(reader, sent))
            self.said["kept" if good else "corrupt"] += 1
        except OSError:
            self.said["cut"] += 1
        writer.close()

    async def wake(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            word = os.urandom(1000)
            writer.write(word)
            good = await reader.readexactly(1000) == word
            self.said["idle" if good else "corrupt"] += 1
        except (OSError, EOFError):
            self.said["idleCut"] += 1
        writer.close()


def visit(address: str, port: int) -> None:
    """New connections, one after the other."""
    visits, failures, slowest = 0, [], 0.0
    print("running", flush=True)
    while not select.select([0], [], [], 0.002)[0]:
        began = time.monotonic()
        try:
            with socket.create_connection((address, port), timeout=20) as sock:
                sock.sendall(b"ihello")
                assert sock.recv(100) == b"hello"
            visits += 1
        except (OSError, AssertionError) as error:
            failures.append(repr(error))
        slowest = max(slowest, time.monotonic() - began)
    print(json.dumps({"visits": visits, "failures": failures[:5], "slowest": round(slowest, 3)}))


def answer_short(port: int) -> None:
    listener = socket.create_server(("0.0.0.0", port), backlog=4096)

    def answer_them() -> None:
        while True:
            sock, _ = listener.accept()
            with sock:
                sock.sendall(sock.recv(1))

    for _ in range(PARALLEL):
        threading.Thread(target=answer_them).start()
    print("running", flush=True)


def short(address: str, port: int, count: int) -> None:
    """So many connections, a byte there and back each."""
    done = []

    def make_some() -> None:
        for _ in range(count // PARALLEL):
            with socket.socket() as sock:
                sock.connect((address, port))
                sock.sendall(b"x")
                assert sock.recv(2) == b"x"
                assert sock.recv(1) == b""
        done.append(count // PARALLEL)

    print("running", flush=True)
    threads = [threading.Thread(target=make_some) for _ in range(PARALLEL)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"done": sum(done)}))


def pass_amount(sock: socket.socket, mib: int) -> None:
    """Send and receive at once; then say the SHA-256 of each direction."""
    sent, received, size = hashlib.sha256(), hashlib.sha256(), 0
    source = os.urandom(2 << 20)

    def send() -> None:
        for number in range(mib):
            start = number * 16_411 % (1 << 20)  # no two blocks in a row the same
            block = source[start : start + (1 << 20)]
            sent.update(block)
            sock.sendall(block)
        sock.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    while data := sock.recv(1 << 20):
        received.update(data)
        size += len(data)
    sender.join()
    sock.close()
    print(json.dumps({"sent": sent.hexdigest(), "received": received.hexdigest(), "bytes": size}))


def serve_amount(port: int, mib: int) -> None:
    with socket.create_server(("0.0.0.0", port)) as listener:
        print("running", flush=True)
        pass_amount(listener.accept()[0], mib)


def amount(address: str, port: int, mib: int) -> None:
    sock = socket.create_connection((address, port))
    print("running", flush=True)
    pass_amount(sock, mib)


async def serve(port: int) -> None:
    server = await asyncio.start_server(answer, "0.0.0.0", port, backlog=4096, limit=CHUNK * 4)
    print("running", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    match sys.argv[1:]:
        case ["serve", port]:
            asyncio.run(serve(int(port)))
        case ["serve-short", port]:
            answer_short(int(port))
        case ["short", address, port, count]:
            short(address, int(port), int(count))
        case ["serve-amount", port, mib]:
            serve_amount(int(port), int(mib))
        case ["amount", address, port, mib]:
            amount(address, int(port), int(mib))
        case ["stream", address, port, bulk, idle]:
            asyncio.run(Client(address, int(port)).run(int(bulk), int(idle)))
        case ["visit", address, port]:
            visit(address, int(port))
