"""The verbs of the specification, each reading from top to bottom."""

import orjson

from cni import netlink, observe, plan, recipes, results
from cni.check import differences
from cni.errors import CniError, Code
from cni.lease import Lease, State, Terms
from cni.netconf import NetworkConfig
from cni.node import Node
from cni.protocol import Attachment, Command, Request, render_version
from netplane.errors import NetplaneError
from netplane.linux import sysctl


def answer(request: Request, node: Node, netns: int | None) -> bytes:
    """What goes to standard output. ``netns`` is a descriptor of CNI_NETNS where it could be opened.

    Raises NetplaneError; CniError where the specification has a code for it.
    """
    match request.command:
        case Command.VERSION:
            return render_version(request.version)
        case Command.ADD:
            with node.locks.held(request.attachment):
                return add(request, node, netns)
        case Command.DEL:
            with node.locks.held(request.attachment):
                delete(request.attachment, node)
        case Command.CHECK:
            with node.locks.held(request.attachment):
                check(request, node, netns)
        case Command.GC:
            collect(request, node)
        case Command.STATUS:
            status(request, node)
    return b""


def add(request: Request, node: Node, netns: int | None) -> bytes:
    """Lease an address → plan the steps → apply them, undone on failure → render the result."""
    config, pod = _config(request), _pod_netns(request, node, netns)
    if node.journal.has(request.attachment):  # a DEL came before this, and could not be done yet
        delete(request.attachment, node)
    lease = _reserve(request, config, node, pod)
    kind = recipes.kind(lease)
    _make(lease, kind, node, pod)
    return _rendered(request, config, lease, kind)


def delete(attachment: Attachment, node: Node) -> None:
    """Whatever an ADD of this attachment left is gone; nothing there is success, as the specification says."""
    lease = node.leases.begin_release(attachment)
    if lease is None:
        node.detach((plan.DeleteLink(plan.link_name(attachment)),))
    else:
        node.detach(plan.detach(lease))
        node.leases.release(attachment)
    node.journal.forget(attachment)


def check(request: Request, node: Node, netns: int | None) -> None:
    """The kernel holds what the lease and ``prevResult`` say. Raises CniError naming the differences."""
    pod = _pod_netns(request, node, netns)
    lease = node.leases.get(request.attachment)
    if lease is None or lease.state is not State.LIVE:
        raise CniError(Code.UNKNOWN_CONTAINER, f"cannot check {request.attachment}: it is not attached")
    seen = observe.attachment(lease.terms.link, lease.attachment.ifname, pod)
    found = differences(lease, seen, request.previous)
    if found:
        raise CniError(Code.CHECK_FAILED, f"cannot confirm {request.attachment}: {'; '.join(found)}")


def collect(request: Request, node: Node) -> None:
    """Detach everything of this network that the runtime does not list; go on past errors, then report them."""
    network, failed = request.attachment.network, []
    for attachment in [lease.attachment for lease in node.leases.all()]:
        if attachment.network != network or attachment in request.valid:
            continue
        try:
            with node.locks.held(attachment):
                delete(attachment, node)
        except NetplaneError as error:
            failed.append(f"{attachment}: {error.message}")
    if failed:
        raise CniError(Code.KERNEL, f"cannot free {len(failed)} attachments: {'; '.join(failed)}")


def status(request: Request, node: Node) -> None:
    """Raises CniError NOT_AVAILABLE where an ADD now would fail, LIMITED_CONNECTIVITY where pods are cut off too."""
    for pool in _config(request).pools:
        if not node.leases.free(pool):
            raise CniError(Code.NOT_AVAILABLE, f"cannot take pods: every address of {pool} is in use")
    try:
        node.leases.probe()
    except CniError as error:
        raise CniError(Code.NOT_AVAILABLE, f"cannot take pods: {error.message}", error.hint) from error
    leases = node.leases.all()
    for name in plan.forwarding(leases):
        if sysctl.read(name) == "0":
            code = Code.LIMITED_CONNECTIVITY if leases else Code.NOT_AVAILABLE
            raise CniError(code, f"cannot forward for pods: {name} is 0", "`netplane cni gc` sets it again")


def _reserve(request: Request, config: NetworkConfig, node: Node, netns: int) -> Lease:
    attachment = request.attachment
    inode = observe.netns_inode(netns)
    stale = node.leases.get(attachment)
    if stale is not None and (stale.state is not State.LIVE or stale.terms.netns_inode != inode):
        delete(attachment, node)  # of an earlier life of this container, or of an ADD or DEL cut short
    mtu = config.mtu or node.mtu or node.underlay.mtu()
    link = plan.link_name(attachment)
    own = tuple(r.subnet for pool in config.pools for r in pool.ranges)
    exclude = None if config.exclude is None else tuple(dict.fromkeys((*config.exclude, *own)))
    asked = (config.ports, config.mac, config.bandwidth)
    terms = Terms(link, request.netns, inode, node.boot_id, mtu, exclude, *asked)
    return node.leases.reserve(attachment, config.pools, terms, config.ips)


def _make(lease: Lease, kind: recipes.Kind | None, node: Node, netns: int) -> None:
    """All of it and written down as done, or nothing; where something may be left, the lease stays."""
    try:
        netlink.attach(lease, kind, node.sockets, netns, lambda: node.leases.sync(lease.attachment))
    except netlink.UndoFailedError:
        node.leases.begin_release(lease.attachment)
        raise
    except BaseException:
        node.leases.release(lease.attachment)
        raise
    try:
        node.leases.confirm(lease.attachment)
    except BaseException:
        netlink.apply(plan.detach(lease), node.sockets)
        node.leases.release(lease.attachment)
        raise


def _rendered(request: Request, config: NetworkConfig, lease: Lease, kind: recipes.Kind | None) -> bytes:
    if kind is not None and request.previous is None:
        return recipes.answer(lease, request.netns, config.dns, kind, request.version)
    made = plan.result(lease, config.dns, request.netns)
    whole = request.previous.followed_by(made) if request.previous is not None else made
    return orjson.dumps(results.render(whole, request.version)) + b"\n"


def _pod_netns(request: Request, node: Node, netns: int | None) -> int:
    if netns is None:
        raise CniError(Code.INVALID_ENVIRONMENT, f"cannot open CNI_NETNS {request.netns}: no such namespace")
    if not observe.is_netns(netns):
        cause = "it is not a network namespace"
        raise CniError(Code.INVALID_ENVIRONMENT, f"cannot use CNI_NETNS {request.netns}: {cause}")
    if observe.netns_inode(netns) == node.sockets.inode:
        raise CniError(
            Code.INVALID_NETNS, f"cannot use CNI_NETNS {request.netns}: it is the node's own namespace"
        )
    return netns


def _config(request: Request) -> NetworkConfig:
    if request.config is None:
        raise CniError(
            Code.INTERNAL, f"cannot answer {request.command}: it was parsed without a configuration"
        )
    return request.config
