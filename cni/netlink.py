"""The only doer: applies planned steps to the kernel, and takes back what it did when one of them fails.

Synchronous, for worker threads. A netlink socket keeps the namespace it was opened in, so a step in the pod
enters nothing: only the opening of its socket does.
"""

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from cni.errors import CniError, Code
from cni.plan import (
    LINK_GROUP,
    ROUTE_PROTOCOL,
    AddRoute,
    CreateVeth,
    DeleteLink,
    Firewall,
    Label,
    LinkUp,
    Neighbour,
    PodAddress,
    Setting,
    Step,
    Where,
)
from netplane.errors import KernelError, NetplaneError
from netplane.linux import nft, sysctl
from netplane.linux.namespaces import entered_netns

_IFF_UP = 1
_IFA_F_NODAD = 0x02
_LOOPBACK = 1
_SCOPE_LINK = 253


def apply(
    steps: Iterable[Step], netns: int | None = None, undo: Callable[[Step], Step | None] = lambda _: None
) -> None:
    """Do ``steps`` in order; ``netns`` is a descriptor of the pod's namespace for those that work there.

    When one fails, what ``undo`` says of it and of those done is done, last first, and the failure raised: KernelError
    naming the step, or CniError ALREADY_ATTACHED where the pod has a link of that name.
    """
    done: list[Step] = []
    with _Worker.open(netns) as worker:
        try:
            for step in steps:
                done.append(step)  # first: one that failed may have been done all the same
                worker.do(step)
        except BaseException as failure:
            _take_back(worker, (undo(step) for step in reversed(done)), failure)
            raise


class UndoFailedError(KernelError):
    """A step failed and what was done before could not be taken back: the lease must stay."""


def _take_back(worker: "_Worker", steps: Iterable[Step | None], failure: BaseException) -> None:
    failed: list[NetplaneError] = []
    for step in steps:
        if step is None:
            continue
        try:
            worker.do(step)
        except NetplaneError as error:
            failed.append(error)
    if failed:
        raise UndoFailedError(f"{failure}; {failed[0].message}") from failure


class _Worker:
    """Two netlink sockets, and one step at a time."""

    def __init__(self, host: IPRoute, pod: IPRoute | None) -> None:
        self._host = host
        self._pod_socket = pod
        self._netns = -1
        self._indices: dict[tuple[Where, str], int] = {(Where.POD, "lo"): _LOOPBACK}

    @classmethod
    @contextmanager
    def open(cls, netns: int | None) -> Iterator["_Worker"]:
        with ExitStack() as stack:
            host = IPRoute()
            stack.callback(host.close)
            pod = None
            if netns is not None:
                with entered_netns(netns):
                    pod = IPRoute()
                stack.callback(pod.close)
            worker = cls(host, pod)
            worker._netns = -1 if netns is None else netns
            yield worker

    def do(self, step: Step) -> None:
        """One step. Raises KernelError naming it."""
        try:
            self._do(step)
        except NetlinkError as error:
            raise KernelError(f"cannot {describe(step)}: {os.strerror(abs(error.code))}") from error
        except OSError as error:
            raise KernelError(f"cannot {describe(step)}: {error.strerror or error}") from error

    def _do(self, step: Step) -> None:
        match step:
            case CreateVeth():
                self._create(step)
            case Label():
                index = self._index(Where.HOST, step.link)
                self._host.link("set", index=index, ifalias=step.text)
            case LinkUp():
                self._pod.link("set", index=self._index(Where.POD, step.link), state="up")
            case PodAddress():
                self._address(step)
            case Neighbour():
                self._neighbour(step)
            case AddRoute():
                self._route(step)
            case Setting():
                _set(step)
            case Firewall():
                _change_firewall(step)
            case DeleteLink():
                self._delete(step.link)

    @property
    def _pod(self) -> IPRoute:
        if self._pod_socket is None:
            raise KernelError("cannot enter the pod's network namespace: none was given")
        return self._pod_socket

    def _create(self, step: CreateVeth) -> None:
        peer = {"ifname": step.pod, "address": step.pod_mac, "mtu": step.mtu, "net_ns_fd": self._netns}
        options = {"address": step.host_mac, "mtu": step.mtu, "group": LINK_GROUP, "peer": peer}
        try:
            # Up in the same message; the pod's end cannot be (ENOTCONN: its peer is not there yet).
            self._host.link("add", ifname=step.host, kind="veth", flags=_IFF_UP, change=_IFF_UP, **options)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
            if self._host.link_lookup(ifname=step.host):
                hint = "`netplane cni gc` removes links that belong to no lease"
                raise KernelError(f"cannot {describe(step)}: {step.host} exists", hint) from error
            raise CniError(
                Code.ALREADY_ATTACHED, f"cannot {describe(step)}: the container has a link {step.pod} already"
            ) from error

    def _address(self, step: PodAddress) -> None:
        family = {"flags": _IFA_F_NODAD} if step.address.version == 6 else {}
        index = self._index(Where.POD, step.link)
        self._pod.addr(
            "add", index=index, address=str(step.address), prefixlen=step.address.max_prefixlen, **family
        )

    def _neighbour(self, step: Neighbour) -> None:
        self._socket(step.where).neigh(
            "replace",
            dst=str(step.address),
            lladdr=step.mac,
            ifindex=self._index(step.where, step.link),
            state="permanent",
        )

    def _route(self, step: AddRoute) -> None:
        index = self._index(step.where, step.link)
        options = {"dst": str(step.dst), "oif": index, "proto": ROUTE_PROTOCOL, "family": _family(step)}
        if step.gateway is not None:
            options.update(gateway=str(step.gateway), flags="onlink")
        elif step.dst.version == 4:
            options["scope"] = _SCOPE_LINK
        # In the pod, never in the place of another interface's: a container may have several of ours.
        verb = "replace" if step.where is Where.HOST else "append"
        self._socket(step.where).route(verb, **options)

    def _delete(self, link: str) -> None:
        found = self._host.link_lookup(ifname=link)
        try:
            if found:
                self._host.link("del", index=found[0])
        except NetlinkError as error:
            if error.code != errno.ENODEV:  # its namespace ended in between
                raise

    def _socket(self, where: Where) -> IPRoute:
        return self._host if where is Where.HOST else self._pod

    def _index(self, where: Where, link: str) -> int:
        key = (where, link)
        if key not in self._indices:
            found = self._socket(where).link_lookup(ifname=link)
            if not found:
                raise KernelError(f"cannot find the link {link} in the {where}'s network namespace")
            self._indices[key] = found[0]
        return self._indices[key]


def _change_firewall(step: Firewall) -> None:
    try:
        nft.apply(step.script)
    except KernelError:
        nft.apply(step.otherwise)


def _family(step: AddRoute) -> int:
    return 2 if step.dst.version == 4 else 10


def _set(step: Setting) -> None:
    if step.name.startswith("net.ipv6.") and not _has_ipv6():
        return
    sysctl.write(step.name, step.value)


def _has_ipv6() -> bool:
    return os.path.isdir("/proc/sys/net/ipv6")  # noqa: PTH112 - a Path costs more than the question


_WORDS: dict[type, str] = {
    CreateVeth: "make the veth pair {s.host} and {s.pod}",
    Label: "label {s.link}",
    LinkUp: "bring up {s.link} in the pod",
    PodAddress: "give {s.link} the address {s.address}",
    Neighbour: "add the neighbour {s.address} on {s.link} ({s.where})",
    AddRoute: "add the route to {s.dst} on {s.link} ({s.where})",
    Setting: "set {s.name}={s.value}",
    Firewall: "change the nftables table netplane_cni",
    DeleteLink: "delete the link {s.link}",
}


def describe(step: Step) -> str:
    """The step in words, for the error that names it."""
    return _WORDS[type(step)].format(s=step)
