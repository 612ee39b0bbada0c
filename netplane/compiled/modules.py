"""The list of what is compiled. A module is added by its name here, and by ``./dev setup``.

A module is compiled by mypyc, which asks for full annotations (they are then enforced as it runs), for no attribute
that its class does not name, and for constants marked ``Final`` where a step of every connection reads them. Where a
file in C of the same name is beside it, that is compiled instead: the same functions, in fewer steps.
"""

MODULES = (
    "proxy.balance",
    "proxy.userspace.datagrams",
    "proxy.userspace.dialing",
    "proxy.userspace.listeners",
    "proxy.userspace.poller",
    "proxy.userspace.sockets",
    "proxy.userspace.sources",
    "proxy.userspace.streams.admission",
    "proxy.userspace.streams.engine",
    "proxy.userspace.streams.flow",
    "proxy.userspace.streams.ledger",
    "proxy.userspace.streams.lifetimes",
    "proxy.userspace.streams.moving",
    "proxy.userspace.streams.pipes",
    "proxy.userspace.streams.relay",
    "proxy.userspace.streams.relaying",
    "proxy.userspace.syscalls",
    "proxy.userspace.traffic",
    "proxy.userspace.workers.descriptors",
    "proxy.userspace.workers.reckoning",
    "proxy.userspace.workers.recovery",
)
