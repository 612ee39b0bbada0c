"""The list of what is compiled. A module is added by its name here, and by ``./dev setup``.

What that asks of it: full annotations (which are then enforced as it runs), no attributes set from outside that the
class does not name, and constants marked ``Final`` where a step of every connection reads them.
"""

MODULES = (
    "proxy.balance",
    "proxy.userspace.dialing",
    "proxy.userspace.engine",
    "proxy.userspace.flow",
    "proxy.userspace.ledger",
    "proxy.userspace.lifetimes",
    "proxy.userspace.listeners",
    "proxy.userspace.pipes",
    "proxy.userspace.poller",
    "proxy.userspace.relay",
    "proxy.userspace.relaying",
    "proxy.userspace.syscalls",
    "proxy.userspace.traffic",
)
