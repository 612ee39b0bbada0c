"""Remembers how the machine's kernel settings were before netplane first changed any: uninstall puts them back."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from netplane.config import Paths
from netplane.errors import KernelError
from netplane.linux import sysctl
from netplane.linux.rtnl import rtnl

# What the parts write outside the interfaces they make themselves. Forwarding first: setting it resets others.
MACHINE = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv4.tcp_tw_reuse")
INTERFACE = ("arp_ignore", "arp_announce")


def record(root: Path) -> None:
    """Note the settings as they are, unless that was done before. Blocks: for worker threads and commands."""
    path = _path(root)
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_current(), indent=1))


def restore(root: Path) -> list[str]:
    """Put back what was noted; what was changed comes back, in words."""
    changed = []
    for name, value in _recorded(root).items():
        with suppress(KernelError):  # the interface is gone, and its settings with it
            if sysctl.write(name, value):
                changed.append(f"sysctl {name}={value}")
    return changed


def _current() -> dict[str, str]:
    with rtnl() as netlink:
        links = [str(link.get_attr("IFLA_IFNAME")).replace(".", "/") for link in netlink.get_links()]
    names = [*MACHINE, *(f"net.ipv4.conf.{link}.{key}" for link in links for key in INTERFACE)]
    found = {}
    for name in names:
        with suppress(KernelError):  # a kernel without IPv6
            found[name] = sysctl.read(name)
    return found


def _recorded(root: Path) -> Mapping[str, str]:
    try:
        return dict(json.loads(_path(root).read_text()))
    except (FileNotFoundError, ValueError):
        return {}


def _path(root: Path) -> Path:
    return Paths(root).state / "before.json"
