"""Echo streams inside a lab machine: `streams.py ADDRESS PORT COUNT`, until standard input closes.

Each connection sends blocks and must get the same bytes back, by SHA-256 over all it ever sent and received.
Prints "streaming" once all are open, and at the end one JSON line: exchanges, the longest one, failures.
"""

import asyncio
import hashlib
import json
import os
import sys
import time


class Streams:
    def __init__(self, address: str, port: int) -> None:
        self.where = (address, port)
        self.exchanges = 0
        self.longest = 0.0
        self.failures: list[str] = []
        self.over = asyncio.Event()

    async def run(self, count: int) -> None:
        opened = [await asyncio.open_connection(*self.where) for _ in range(count)]
        for reader, _ in opened:
            await reader.readline()  # who answers
        print("streaming", flush=True)
        loop = asyncio.get_running_loop()
        loop.add_reader(0, self.over.set)
        await asyncio.gather(*(self.stream(reader, writer) for reader, writer in opened))
        said = {"exchanges": self.exchanges, "longest": self.longest, "failures": self.failures}
        print(json.dumps(said))

    async def stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent, received = hashlib.sha256(), hashlib.sha256()
        try:
            while not self.over.is_set():
                block = os.urandom(2000)
                began = time.monotonic()
                writer.write(block)
                sent.update(block)
                received.update(await reader.readexactly(len(block)))
                self.exchanges += 1
                self.longest = max(self.longest, time.monotonic() - began)
                await asyncio.sleep(0.02)
            if sent.digest() != received.digest():
                self.failures.append("corrupt")
        except (OSError, EOFError) as error:
            self.failures.append(repr(error))
        writer.close()


if __name__ == "__main__":
    asyncio.run(Streams(sys.argv[1], int(sys.argv[2])).run(int(sys.argv[3])))
