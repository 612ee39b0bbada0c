"""The lab's wires: a bridge as the underlay, and one link from it to each machine.

Everything here happens in namespaces that the lab's PID 1 owns; there is no route from any of them to the
machine's own network. Each function talks rtnetlink synchronously: call it from a worker thread.
"""

import os
from dataclasses import dataclass
from ipaddress import IPv4Interface
from typing import Any

from pyroute2 import NetlinkError

from netplane.errors import KernelError
from netplane.lab.spec import NAT_ADDRESS, NAT_GATEWAY, OUTSIDE_ADDRESS, UNDERLAY, Machine
from netplane.linux.namespaces import new_netns
from netplane.linux.rtnl import rtnl

BRIDGE = "underlay"
BRIDGE_MAC = "02:00:c0:a8:4d:01"  # a bridge without one of its own changes it with every port


@dataclass(frozen=True, slots=True)
class Wired:
    """The namespaces of a machine that is switched on; the machine's own has the descriptor `netns`."""

    netns: int
    nat: int | None

    def close(self) -> None:
        """Let the kernel take them, as soon as no process is left inside."""
        os.close(self.netns)
        if self.nat is not None:
            os.close(self.nat)


def make_underlay() -> None:
    """The bridge in the caller's own namespace, which has the underlay's first address: the outside."""
    address = IPv4Interface(f"{OUTSIDE_ADDRESS}/{UNDERLAY.prefixlen}")
    with rtnl() as netlink:
        try:
            _up(netlink, "lo")
            netlink.link("add", ifname=BRIDGE, kind="bridge", address=BRIDGE_MAC)
            _address(netlink, BRIDGE, address)
            _up(netlink, BRIDGE)
        except NetlinkError as error:
            raise KernelError(f"cannot make the lab's underlay: {error}") from error


def wire(machine: Machine, *, nat_interface: bool) -> Wired:
    """A new namespace for `machine`, on the underlay; with `nat_interface` behind a VirtualBox-like NAT as well."""
    wired = Wired(new_netns(), new_netns() if nat_interface else None)
    underlay = "eth1" if nat_interface else "eth0"
    try:
        if wired.nat is not None:
            _wire_nat(wired.netns, wired.nat)
        with rtnl() as netlink:
            port = _port(machine)
            peer = {"ifname": underlay, "net_ns_fd": wired.netns}
            netlink.link("add", ifname=port, kind="veth", peer=peer)
            netlink.link("set", index=_index(netlink, port), master=_index(netlink, BRIDGE), state="up")
        with rtnl(wired.netns) as netlink:
            _up(netlink, "lo")
            _address(netlink, underlay, IPv4Interface(f"{machine.address}/{UNDERLAY.prefixlen}"))
            _up(netlink, underlay)
    except NetlinkError as error:
        wired.close()
        raise KernelError(f"cannot connect {machine.name} to the underlay: {error}") from error
    except BaseException:
        wired.close()
        raise
    return wired


def unwire(machine: Machine) -> None:
    """Pull the machine's plug out of the underlay, at once; its namespace goes when its processes have gone."""
    with rtnl() as netlink:
        for index in netlink.link_lookup(ifname=_port(machine)):
            netlink.link("del", index=index)


def _wire_nat(netns: int, nat: int) -> None:
    """eth0 with the address that every VirtualBox machine has, and a gateway that leads nowhere."""
    with rtnl(nat) as netlink:
        netlink.link("add", ifname="nat", kind="veth", peer={"ifname": "eth0", "net_ns_fd": netns})
        _address(netlink, "nat", NAT_GATEWAY)
        _up(netlink, "nat")
    with rtnl(netns) as netlink:
        _address(netlink, "eth0", NAT_ADDRESS)
        _up(netlink, "eth0")
        netlink.route("add", dst="default", gateway=str(NAT_GATEWAY.ip))


def _port(machine: Machine) -> str:
    return f"to-{machine.name}"


def _index(netlink: Any, name: str) -> int:
    return int(netlink.link_lookup(ifname=name)[0])


def _up(netlink: Any, name: str) -> None:
    netlink.link("set", index=_index(netlink, name), state="up")


def _address(netlink: Any, name: str, address: IPv4Interface) -> None:
    netlink.addr(
        "add", index=_index(netlink, name), address=str(address.ip), prefixlen=address.network.prefixlen
    )
