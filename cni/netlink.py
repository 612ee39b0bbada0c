"""The only doer: applies planned steps to the kernel, and takes back what it did when one of them fails.

Synchronous, for worker threads. Steps that follow one another in one namespace are one send. A netlink socket
keeps the namespace it was opened in, so a step in the pod enters nothing: only the opening of its socket does.
"""

import errno
import itertools
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

from pyroute2.netlink.exceptions import NetlinkError

from cni import firewall, messages, plan, recipes, templates
from cni.bandwidth import LATENCY_MS
from cni.conntrack import forget_udp
from cni.errors import CniError, Code
from cni.kernel import HostSockets
from cni.lease import Lease
from cni.plan import (
    CreateVeth,
    DefaultRoute,
    DeleteLink,
    Firewall,
    ForgetFlows,
    HostRoute,
    Label,
    LinkUp,
    LocalRoute,
    Neighbour,
    NoLinkLocal,
    NoMulticastRoute,
    PodAddress,
    Setting,
    Shape,
    Step,
    Transmit,
    Where,
)
from cni.recipes import Part, Recipe
from netplane.errors import KernelError, NetplaneError
from netplane.linux import nft, sysctl
from netplane.linux.rtnl import rtnl

_DOOMED = 0x4E500000  # the group of links that are deleted together, and a number below 2 ** 20
_FIRST_INDEX, _INDICES = 1 << 20, 1 << 20  # links of ours, above what the kernel gives by itself
_INDEX_TRIES = 64
_TBF_HANDLE, _ROOT = 0x10000, 0xFFFFFFFF  # 1:, TC_H_ROOT
_DETACHING = (DeleteLink, Firewall, ForgetFlows)


def apply(
    steps: Iterable[Step],
    sockets: HostSockets,
    netns: int | None = None,
    undo: Callable[[Step], Step | None] = lambda _: None,
) -> None:
    """Do ``steps`` in order; ``netns`` is a descriptor of the pod's namespace for those that work there.

    When one fails, what ``undo`` says of it and of those done is done, last first, and the failure raised: KernelError
    naming the step, or CniError ALREADY_ATTACHED where the pod has a link of that name.
    """
    done: list[Step] = []
    with _Worker(netns, sockets) as worker:
        try:
            for batch in messages.batches(steps):
                done += batch  # first: one that failed may have been done all the same
                worker.do(batch)
        except BaseException as failure:
            _take_back(worker, (undo(step) for step in reversed(done)), failure)
            raise


def attach(
    lease: Lease, kind: recipes.Kind | None, sockets: HostSockets, netns: int, begin: Callable[[], None]
) -> None:
    """``plan.attach``, by its recipe where a pod of this kind has one; where it fails nothing of it, as ``apply`` says.

    ``begin`` is called before the first message: what is to be done beside this.
    """
    recipe = recipes.of(kind) if kind is not None and sockets.ipv6 else None
    if recipe is None or not _follow(recipe, lease, sockets, netns, begin):
        begin()
        apply(plan.attach(lease), sockets, netns, undo=lambda step: plan.undo(step, lease))


def _follow(
    recipe: Recipe, lease: Lease, sockets: HostSockets, netns: int, begin: Callable[[], None]
) -> bool:
    """False where the pair could not be made, and so nothing was: the steps say why, or find another index."""
    values = recipes.values(lease, index_of(lease.terms.link), netns)
    sends = [part if isinstance(part, Setting) else (part, part.fill(values)) for part in recipe]
    reached = 0
    with _Worker(netns, sockets) as worker:
        try:
            begin()
            for send in sends:
                reached += 1  # first: what failed may have been done all the same
                if isinstance(send, Setting):
                    worker.do([send])
                elif (failed := worker.replay(*send)) and reached == 1:
                    return False
                elif failed:
                    _mend(send[0], failed, _steps(lease)[reached - 1], sockets)
        except BaseException as failure:
            done = itertools.chain.from_iterable(_steps(lease)[:reached])
            _take_back(worker, (plan.undo(step, lease) for step in reversed(list(done))), failure)
            raise
    return True


def _steps(lease: Lease) -> list[list[Step]]:
    """One list a part of a recipe."""
    return list(messages.batches(plan.attach(lease)))


def _mend(part: Part, failed: Mapping[int, int], steps: Sequence[Step], sockets: HostSockets) -> None:
    """An nftables table that is not there, or not whole, can be. Raises KernelError naming the step that failed."""
    if part.where is None:
        _change_firewall([step for step in steps if isinstance(step, Firewall)], sockets)
        return
    number, status = next(iter(failed.items()))
    raise KernelError(f"cannot {describe(steps[number - 1])}: {os.strerror(status)}")


def detach(sockets: HostSockets, burst: Sequence[tuple[Step, ...]]) -> list[BaseException | None]:
    """The steps of many DELs, together; one by one where that fails, so that each has its own failure."""
    try:
        # Stable: of each kind in the order they came.
        apply(
            sorted(itertools.chain.from_iterable(burst), key=lambda step: _DETACHING.index(type(step))),
            sockets,
        )
    except NetplaneError:
        return [_alone(steps, sockets) for steps in burst]
    return [None] * len(burst)


def _alone(steps: tuple[Step, ...], sockets: HostSockets) -> NetplaneError | None:
    try:
        apply(steps, sockets)
    except NetplaneError as error:
        return error
    return None


class UndoFailedError(KernelError):
    """A step failed and what was done before could not be taken back: the lease must stay."""


def _take_back(worker: "_Worker", steps: Iterable[Step | None], failure: BaseException) -> None:
    failed: list[NetplaneError] = []
    for step in steps:
        if step is None:
            continue
        try:
            worker.do([step])
        except NetplaneError as error:
            failed.append(error)
    if failed:
        raise UndoFailedError(f"{failure}; {failed[0].message}") from failure


class _Worker:
    """Two netlink sockets, and one batch of steps at a time."""

    def __init__(self, netns: int | None, sockets: HostSockets) -> None:
        self._netns, self._sockets = -1 if netns is None else netns, sockets
        self._made = 0
        self._host = sockets.take()
        try:
            self._pod = None if netns is None else sockets.pod(netns)
        except BaseException:
            sockets.give_back(self._host, reusable=True)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pod is not None:
            self._pod.close()
        self._sockets.give_back(self._host, reusable=error is None)

    def do(self, steps: Sequence[Step]) -> None:
        """A batch. Raises KernelError naming the step that failed."""
        try:
            self._do(steps)
        except OSError as error:
            raise KernelError(f"cannot {describe(steps[0])}: {error.strerror or error}") from error

    def replay(self, part: Part, data: bytearray) -> Mapping[int, int]:
        """A part of a recipe: errno of its messages that failed, by number. Raises KernelError."""
        kernel = {Where.HOST: self._host, Where.POD: self._pod, None: self._sockets}[part.where]
        if kernel is None:
            raise KernelError("cannot enter the pod's network namespace: none was given")
        try:
            failed = kernel.replay(data, part.asked)
        except OSError as error:
            raise KernelError(f"cannot attach the pod: {error.strerror or error}") from error
        return (
            {n: status for n, status in failed.items() if (n, status) not in part.fine} if failed else failed
        )

    def _do(self, steps: Sequence[Step]) -> None:
        match steps[0]:
            case CreateVeth():
                for step in steps:
                    self._create(step)  # type: ignore[arg-type]  # a batch has one place, and this place one type
            case Setting():
                for step in steps:
                    self._set(step)  # type: ignore[arg-type]  # as above
            case Firewall():
                _change_firewall(steps, self._sockets)  # type: ignore[arg-type]  # as above
            case Shape():
                for step in steps:
                    self._shape(step)  # type: ignore[arg-type]  # as above
            case ForgetFlows():
                forget_udp({port for step in steps if isinstance(step, ForgetFlows) for port in step.ports})
            case DeleteLink():
                self._delete([step.link for step in steps if isinstance(step, DeleteLink)])
            case _:
                self._send(steps)

    def _send(self, steps: Sequence[Step]) -> None:
        where = messages.place(steps[0])
        link = self._host if where is Where.HOST else self._pod
        if link is None:
            raise KernelError("cannot enter the pod's network namespace: none was given")
        if not self._sockets.ipv6:
            steps = [step for step in steps if not isinstance(step, NoLinkLocal | NoMulticastRoute)]
        wanted = [messages.of(step, self._made, ipv6=self._sockets.ipv6) for step in steps]
        for step, status in zip(steps, link.ask(wanted), strict=True):
            if status and not (status == errno.ESRCH and isinstance(step, NoMulticastRoute)):
                raise KernelError(f"cannot {describe(step)}: {os.strerror(status)}")

    def _create(self, step: CreateVeth) -> None:
        for offset in range(_INDEX_TRIES):
            index = index_of(step.host, offset)
            (status,) = self._host.ask([messages.veth(step, index, self._netns)])
            if status == 0:
                self._made = index
                return
            if status == errno.EBUSY or (status == errno.EEXIST and _is_index_taken(index, step.host)):
                continue
            if status == errno.EEXIST:
                raise _exists(step)
            raise KernelError(f"cannot {describe(step)}: {os.strerror(status)}")
        raise KernelError(f"cannot {describe(step)}: no free interface index from {index_of(step.host)}")

    def _set(self, step: Setting) -> None:
        if step.name.startswith("net.ipv6.") and not self._sockets.ipv6:
            return
        sysctl.write(step.name, step.value)  # reads first: a change here concerns every link

    def _shape(self, step: Shape) -> None:
        """pyroute2 as it is: few pods ask for this."""
        rate, burst = step.bucket.rate, step.bucket.burst
        latency = f"{LATENCY_MS}ms"
        options = {"handle": _TBF_HANDLE, "parent": _ROOT, "rate": rate, "burst": burst, "latency": latency}
        try:
            with rtnl(self._netns if step.where is Where.POD else None) as ipr:
                ipr.tc("replace", "tbf", index=self._made, **options)
        except NetlinkError as error:
            raise KernelError(f"cannot {describe(step)}: {os.strerror(abs(error.code))}") from error

    def _delete(self, links: Sequence[str]) -> None:
        """Grouped: the kernel waits for its readers (17 to 30 ms) once for all of them."""
        group = _DOOMED + int(links[0][2:] or "0", 16) % (1 << 20)
        moves = [templates.regroup(len(link)).fill(name=link, group=group) for link in links]
        statuses = self._host.ask(moves)
        for link, status in zip(links, statuses, strict=True):
            if status not in (0, errno.ENODEV):
                raise KernelError(f"cannot {describe(DeleteLink(link))}: {os.strerror(status)}")
        if 0 not in statuses:
            return
        (status,) = self._host.ask([templates.delete_group().fill(group=group)])
        if status not in (0, errno.ENODEV, errno.ESRCH):  # its namespace ended in between
            raise KernelError(f"cannot {describe(DeleteLink(links[0]))}: {os.strerror(status)}")


def index_of(link: str, offset: int = 0) -> int:
    """The interface index that a pair gets, or the one after ``offset`` that are taken."""
    return _FIRST_INDEX + (int(link[2:], 16) + offset) % _INDICES


def _is_index_taken(index: int, own: str) -> bool:
    try:
        return socket.if_indextoname(index) != own
    except OSError:
        return False


def _exists(step: CreateVeth) -> NetplaneError:
    if any(name == step.host for _, name in socket.if_nameindex()):
        hint = "`netplane cni gc` removes links that belong to no lease"
        return KernelError(f"cannot {describe(step)}: {step.host} exists", hint)
    return CniError(
        Code.ALREADY_ATTACHED, f"cannot {describe(step)}: the container has a link {step.pod} already"
    )


def _change_firewall(steps: Sequence[Firewall], sockets: HostSockets) -> None:
    """All in one transaction; where that fails, each by its script."""
    changes = [message for step in steps for message in messages.elements(step.lease, adding=step.adding)]
    if sockets.transaction(changes):
        for step in steps:
            nft.apply(firewall.attach(step.lease) if step.adding else firewall.detach(step.lease))


_WORDS: dict[type, str] = {
    CreateVeth: "make the veth pair {s.host} and {s.pod}",
    Label: "label {s.link}",
    NoLinkLocal: "keep {s.link} from making itself an address",
    LinkUp: "bring up {s.link} ({s.where})",
    Transmit: "have {s.link} transmit ({s.where})",
    NoMulticastRoute: "take the IPv6 multicast route off {s.link}",
    PodAddress: "give {s.link} the address {s.address}",
    Neighbour: "add the neighbour {s.address} on {s.link} ({s.where})",
    LocalRoute: "have the pod take what is sent to {s.address}",
    HostRoute: "add the route to {s.address} on {s.link}",
    DefaultRoute: "add the pod's default route by {s.gateway} on {s.link}",
    Setting: "set {s.name}={s.value}",
    Firewall: "change the nftables table netplane_cni",
    Shape: "limit {s.link} to {s.bucket.rate} bytes a second",
    ForgetFlows: "forget the UDP flows to {s.ports}",
    DeleteLink: "delete the link {s.link}",
}


def describe(step: Step) -> str:
    """The step in words, for the error that names it."""
    return _WORDS[type(step)].format(s=step)
