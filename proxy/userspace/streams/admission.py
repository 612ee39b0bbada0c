"""Whether there is room for another client, and which doors close while there is not.

Why before accept(2): a client in the kernel's queue is served later; one that was accepted, and for whom there is no
descriptor to reach an endpoint with, is lost. So a part of the descriptors is kept back, one is kept to spare, and
doors close before there is none.
"""

import asyncio
import logging
import os
from contextlib import suppress
from select import EPOLLIN
from time import monotonic
from typing import Final

from proxy.userspace.listeners import Listener
from proxy.userspace.poller import Poller, Watched
from proxy.userspace.streams.relaying import Relay

log = logging.getLogger(__name__)

AGAIN: Final = 0.05  # seconds until closed doors are looked at again
SAY_EVERY: Final = 10.0  # seconds between two lines of log that say the same
SHARE = 8  # of the descriptors, this part is left to Services that one process serves alone
RESERVED_DESCRIPTORS = 256  # for pipes, the API connection, files: never spent on new clients


class Host:
    """Whoever takes the clients that wait at a door."""

    def accept(self, listener: Listener) -> None:
        """Take waiting clients, a bounded number at a time."""
        raise NotImplementedError


class Door(Watched):
    """A listener as the poller sees it."""

    __slots__ = ("host", "listener")

    def __init__(self, host: Host, listener: Listener) -> None:
        self.host = host
        self.listener = listener
        self.fd = listener.fd
        self.mask = -1

    def ready(self, events: int) -> None:
        """Clients are waiting."""
        self.host.accept(self.listener)

    def broken(self) -> None:
        """A bug of ours met one client: the next one is served all the same."""


class Admission:
    """The doors of one process. ``descriptors``: how many it may have."""

    def __init__(self, poller: Poller, relay: Relay, host: Host, descriptors: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._poller = poller
        self._relay = relay
        self._host = host
        self._doors: dict[int, Door] = {}
        self._again: asyncio.TimerHandle | None = None  # while doors are closed
        self._closed_to_all = False  # also to clients who have this process only
        self._said = -SAY_EVERY
        self._spare = os.eventfd(0)  # so that whoever is accepted can be given an endpoint; -1: given away
        self._leaves_room = False
        self._limit = self._room_for_most = descriptors - RESERVED_DESCRIPTORS

    @property
    def limit(self) -> int:
        """How many descriptors connections may take."""
        return self._limit

    @limit.setter
    def limit(self, descriptors: int) -> None:
        self._limit = descriptors
        self.leave_room(self._leaves_room)

    def leave_room(self, leaves: bool) -> None:
        """Whether Services are here that no other process serves (with affinity): others leave room for them."""
        self._leaves_room = leaves
        self._room_for_most = self._limit - self._limit // SHARE if leaves else self._limit

    @property
    def room(self) -> int:
        """How many more connections the descriptor limit allows, at two descriptors each."""
        return max(0, self._room_for_most - self._used()) // 2

    def _used(self) -> int:
        return self._poller.count + 2 * self._relay.pipes.open

    # -- doors -----------------------------------------------------------------------------------------

    def add(self, listener: Listener) -> None:
        """Accept from this listener."""
        door = self._doors[listener.fd] = Door(self._host, listener)
        closed = self._again is not None and (self._closed_to_all or listener.target.affinity is None)
        self._poller.add(door, 0 if closed else EPOLLIN)

    def remove(self, listener: Listener) -> None:
        """Accept from it no longer; its flows go on. The socket stays the caller's."""
        door = self._doors.pop(listener.fd, None)
        if door is not None:
            self._poller.forget(door)

    def end(self) -> None:
        """Take no more clients: they wait in the kernel's queues."""
        for door in list(self._doors.values()):
            self.remove(door.listener)

    def forsake(self) -> None:
        """Open closed doors no more."""
        if self._again is not None:
            self._again.cancel()
        self._again = None

    def close(self) -> None:
        """As ``end``, and give the descriptor to spare back."""
        self.forsake()
        self.end()
        if self._spare >= 0:
            os.close(self._spare)

    # -- shortage --------------------------------------------------------------------------------------

    def refuses(self, listener: Listener) -> bool:
        """Whether there is no room for clients of this listener; its door is closed then."""
        used = self._used()
        return used > self._room_for_most and self._close_if_full(listener, used)

    def _close_if_full(self, listener: Listener, used: int) -> bool:
        """Most leave some room to those who have this process only."""
        to_all = used > self._limit
        if not to_all and listener.target.affinity is not None:
            return False
        self.shut("the descriptor limit is near", to_all=to_all)
        return True

    def shut(self, why: str, *, to_all: bool) -> None:
        """Out of descriptors: clients wait in the kernel's queue until flows have ended."""
        if self._again is None:
            if monotonic() - self._said >= SAY_EVERY:
                self._said = monotonic()
                log.warning("accepting no new connections for now: %s (%d flows)", why, self._relay.active)
            self._closed_to_all = False
            self._again = self._loop.call_later(AGAIN, self._look_again)
        self._closed_to_all = self._closed_to_all or to_all
        for door in self._doors.values():
            if self._closed_to_all or door.listener.target.affinity is None:
                self._poller.change(door, 0)

    @property
    def spent(self) -> bool:
        """Whether the descriptor to spare is given away."""
        return self._spare < 0

    def spend_spare(self, why: int) -> bool:
        """Let whoever is being served have it, and accept nobody until there is another; False where there is none."""
        if self._spare < 0:
            return False
        os.close(self._spare)
        self._spare = -1
        self.shut(os.strerror(why), to_all=True)
        return True

    def _look_again(self) -> None:
        used, to_most = self._used(), False
        if self._has_spare():
            to_most = used <= self._room_for_most
            if to_most or (self._closed_to_all and used <= self._limit):
                self._closed_to_all = False
                for door in self._doors.values():
                    if to_most or door.listener.target.affinity is not None:
                        self._poller.change(door, EPOLLIN)
        self._again = None if to_most else self._loop.call_later(AGAIN, self._look_again)

    def _has_spare(self) -> bool:
        """Whether there is a descriptor to spare, now or again."""
        if self._spare < 0:
            with suppress(OSError):
                self._spare = os.eventfd(0)
        return self._spare >= 0
