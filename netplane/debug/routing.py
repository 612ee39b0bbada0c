"""What the kernel's routing says of one packet, asked as the kernel is asked: RTM_GETROUTE (rtnetlink(7))."""

import errno
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from netplane.debug.facts import Lookup, Route

FIB_MATCH = 0x2000  # RTM_F_FIB_MATCH: answer with the table's own entry, protocol included
KINDS = {1: "unicast", 2: "local", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
REFUSALS = {
    errno.EINVAL: "blackhole",
    errno.EHOSTUNREACH: "unreachable",
    errno.EACCES: "prohibited",
    errno.ENETUNREACH: "no route",
    errno.EXDEV: "not accepted from there",
}


def ask(ipr: IPRoute, lookup: Lookup) -> Route:
    """The decision for one packet, in the namespace of the socket."""
    options: dict[str, Any] = {"dst": lookup.to}
    if lookup.source:
        options["src"] = lookup.source
    if lookup.mark:
        options["mark"] = lookup.mark
    if lookup.arriving:
        towards = ask(ipr, Lookup(to=lookup.arriving))
        if towards.error:
            return Route(error=f"no device leads to {lookup.arriving}: {towards.error}")
        (options["iif"],) = ipr.link_lookup(ifname=towards.device)
    try:
        (message,) = ipr.route("get", flags=FIB_MATCH, **options)
    except NetlinkError as error:
        if error.code == errno.EINVAL and lookup.arriving and not ask(ipr, Lookup(to=lookup.to)).error:
            # fib_validate_source of the kernel: not the way there is refused, but such a packet.
            return Route(error=f"no packet from {lookup.source} may arrive there (EINVAL)")
        return Route(error=REFUSALS.get(error.code, str(error)))
    names = ipr.get_links(message.get_attr("RTA_OIF")) if message.get_attr("RTA_OIF") else ()
    default = "0.0.0.0" if message["family"] == 2 else "::"
    return Route(
        kind=KINDS.get(message["type"], str(message["type"])),
        device=next(iter(names)).get_attr("IFLA_IFNAME") if names else "",
        gateway=message.get_attr("RTA_GATEWAY") or "",
        network=f"{message.get_attr('RTA_DST') or default}/{message['dst_len']}",
        protocol=message["proto"],
        table=message.get_attr("RTA_TABLE") or message["table"],
    )
