"""Takes netplane off a machine: processes, pods, kernel objects, files; what was removed is said.

Every step asks first whether there is something to remove, so it may be run again after it was interrupted.
Only what carries our own name, number or path is touched: see the owners of kernel objects in the documentation.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from pyroute2 import NetlinkError

from cni import firewall as cni_firewall
from cni import observe as cni_observe
from netplane.config import DNS_ADDRESSES, Paths
from netplane.dns import sockets as dns_sockets
from netplane.errors import ConfigError, KernelError, PeerError
from netplane.linux import nft
from netplane.linux.cgroups import Cgroup, detect
from netplane.linux.rtnl import rtnl
from netplane.machine import before
from netplane.node.supervise import control as supervisor
from proxy.flush import flush

ROUTE_PROTOCOLS = (96, 97, 98)
STOP_SECONDS = 60.0
PREFIX = Path("/opt/netplane")
UNITS = (
    "netplane.target",
    *(f"netplane-{part}.service" for part in ("controlplane", "cni", "node", "proxy", "dns")),
)
UNIT_DIRECTORY = Path("/etc/systemd/system")
COMMAND = Path("/usr/local/bin/netplane")


def uninstall(root: Path, say: Callable[[str], None]) -> None:
    """Remove everything of the machine at `root`; `say` gets one line for each thing that was done.

    Raises KernelError or PeerError naming what does not go, ConfigError for a root that has nothing of netplane: what
    is in the kernel may be another one's. Blocks; run it in the machine's namespaces.
    """
    paths = Paths(root.absolute())
    if paths.root != Path("/") and not any(one.exists() for one in (paths.etc, paths.run, paths.state)):
        raise ConfigError(f"cannot uninstall: nothing of netplane is under {root}", "--root says where it is")
    for verb, step in (
        ("stopped", stop_daemons),
        ("removed", end_pods),
        ("removed", clear_kernel),
        ("restored", lambda paths: before.restore(paths.root)),
        ("removed", remove_files),
    ):
        for what in step(paths):
            say(f"{verb} {what}")


def stop_daemons(paths: Paths) -> Iterator[str]:
    """Units of systemd, then whoever supervises this root."""
    if paths.root == Path("/"):
        yield from _stop_units()
    try:
        pid = supervisor.peer_pid(paths.supervise_socket)
    except PeerError:
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while _answers(paths.supervise_socket):
        if time.monotonic() > deadline:
            raise PeerError(f"cannot stop the supervisor of {paths.root}: pid {pid} does not end")
        time.sleep(0.05)
    yield f"supervisor, pid {pid}"


def _stop_units() -> Iterator[str]:
    present = [unit for unit in UNITS if (UNIT_DIRECTORY / unit).exists()]
    if not present:
        return
    systemctl = shutil.which("systemctl")
    if systemctl is not None:
        subprocess.run([systemctl, "disable", "--now", *present], capture_output=True, check=False)
    for unit in present:
        (UNIT_DIRECTORY / unit).unlink()
        yield f"unit {unit}"
    if systemctl is not None:
        subprocess.run([systemctl, "daemon-reload"], capture_output=True, check=False)


def _answers(path: Path) -> bool:
    try:
        supervisor.peer_pid(path)
    except PeerError:
        return False
    return True


def end_pods(paths: Paths) -> Iterator[str]:
    """Sandboxes, with everything inside them, and their cgroups and logs."""
    for directory in sorted((paths.run / "pods").glob("*")):
        with suppress(PeerError, ProcessLookupError):
            os.kill(supervisor.peer_pid(directory / "s"), signal.SIGKILL)
            yield f"pod {_pod_name(directory)}"
        if uid := _pod(directory).get("uid"):
            for log in (paths.root / "var/log/pods").glob(f"*_{uid}"):
                shutil.rmtree(log)
    group = Cgroup(detect(), PurePosixPath(paths.cgroup_name))
    for cgroup in (group.child("pods"), group):
        if any(directory.exists() for directory in cgroup.directories) and os.getpid() not in cgroup.pids():
            cgroup.remove()
            yield f"cgroup {cgroup.path}"


def _pod(directory: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, KeyError):
        return dict(json.loads((directory / "pod.json").read_text())["pod"]["metadata"])
    return {}


def _pod_name(directory: Path) -> str:
    metadata = _pod(directory)
    return f"{metadata.get('namespace')}/{metadata.get('name')}" if metadata else directory.name


def clear_kernel(paths: Paths) -> Iterator[str]:
    """Links, routes, rules, tables, addresses: in this network namespace."""
    for name in sorted(cni_observe.our_links()):
        with rtnl() as netlink, suppress(NetlinkError):
            for index in netlink.link_lookup(ifname=name):
                netlink.link("del", index=index)
                yield f"link {name}"
    yield from flush(paths)
    if nft.delete_table(cni_firewall.FAMILY, cni_firewall.TABLE):
        yield f"nft table {cni_firewall.FAMILY} {cni_firewall.TABLE}"
    yield from _remove_routes()
    dns_sockets.disown(DNS_ADDRESSES)


def _remove_routes() -> Iterator[str]:
    with rtnl() as netlink:
        for route in list(netlink.get_routes()):
            if route["proto"] not in ROUTE_PROTOCOLS:
                continue
            destination = f"{route.get_attr('RTA_DST') or 'default'}/{route['dst_len']}"
            words = {"dst": destination, "table": route.get_attr("RTA_TABLE"), "proto": route["proto"]}
            try:
                netlink.route("del", family=route["family"], type=route["type"], **words)
            except NetlinkError as error:
                if error.code != 3:  # ESRCH: it went with its link
                    raise KernelError(f"cannot remove route {destination}: {error}") from error
                continue
            yield f"route {destination} proto {route['proto']}"


def remove_files(paths: Paths) -> Iterator[str]:
    """What is under the root, and on a whole machine the installation itself."""
    ours = [
        paths.etc,
        paths.run,
        paths.logs,
        paths.cni_conf_dir / "10-netplane.conflist",
        paths.cni_bin_dir / "netplane",
    ]
    ours += [path for path in paths.state.glob("*") if path.name != "labs"]
    if paths.root == Path("/"):
        ours += [COMMAND] if COMMAND.is_symlink() and COMMAND.readlink().is_relative_to(PREFIX) else []
        ours += [PREFIX] if Path(sys.prefix).is_relative_to(PREFIX) else []
    for path in ours:
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            continue
        yield str(path)
    for directory in (
        paths.state,
        paths.run,
        paths.cni_conf_dir,
        paths.cni_bin_dir,
        paths.root / "var/log/pods",
    ):
        _remove_while_empty(directory, paths.root)


def _remove_while_empty(directory: Path, root: Path) -> None:
    """The directory, and its parents below the root, as long as nobody else's files are in them."""
    with suppress(OSError):
        while directory not in (root, Path("/"), *_standard(root)):
            if directory.exists():
                directory.rmdir()
            directory = directory.parent


def _standard(root: Path) -> tuple[Path, ...]:
    """What a machine has without us, even if it is empty."""
    names = ("etc", "opt", "run", "var", "var/lib", "var/log") if root == Path("/") else ()
    return tuple(root / name for name in names)
