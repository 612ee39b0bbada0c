"""The rules that look beyond one object: what exists, what is taken, who may.

Each returns guards: operations that make the commit fail if what the rule looked at has changed meanwhile.
"""

from collections.abc import Callable, Iterable
from typing import Any

from controlplane.api.kinds.kind import Kind
from controlplane.api.memory.hub import Hub
from controlplane.api.memory.records import key_for
from controlplane.api.writing import lifecycle
from controlplane.api.writing.pod_admission import (
    USUAL,
    Patience,
    give_account,
    give_priority,
    give_tolerations,
)
from controlplane.store.contract import Check, Operation, Put
from netplane.kube.errors import Cause, invalid, not_found
from netplane.kube.objects import Object, name_of
from netplane.kube.resources import (
    NAMESPACES,
    NODES,
    PODS,
    PRIORITYCLASSES,
    SERVICEACCOUNTS,
    SERVICES,
    Resource,
)

AllocateService = Callable[[Object, Object | None, Iterable[Object]], None]
"""(new, old or None, all Services): fills in addresses and ports. Raises StatusError 422."""


class Admission:
    """Asked in the middle of every create and update: `place` before validation, `claim` after it."""

    def __init__(self, hub: Hub, allocate_service: AllocateService, patience: Patience = USUAL) -> None:
        self._hub = hub
        self._allocate_service = allocate_service
        self._patience = patience

    def place(self, kind: Kind, obj: Object) -> tuple[Operation, ...]:
        """A new object needs a namespace that lives; a pod also its priority, account and tolerations.

        Raises StatusError 403 or 404.
        """
        if not kind.resource.namespaced:
            return ()
        namespace = obj["metadata"]["namespace"]
        found = self._hub.get(NAMESPACES, key_for(NAMESPACES, "", namespace))
        if found is None:
            raise not_found(NAMESPACES, namespace)
        if lifecycle.terminating(found.obj):
            raise lifecycle.cannot_create_in(kind.resource, name_of(obj), namespace)
        if kind.resource == PODS:
            give_priority(obj, self._stored(PRIORITYCLASSES))
            give_account(obj, self._stored(SERVICEACCOUNTS))
            give_tolerations(obj, self._patience)
        return (Check(found.key, found.revision),)

    def _stored(self, resource: Resource) -> Iterable[Object]:
        return (record.obj for record in self._hub.all(resource).values())

    def claim(self, kind: Kind, new: Object, old: Object | None) -> tuple[Operation, ...]:
        """Take what the cluster has once only; may fill in ``new``. Raises StatusError 422 for what is taken."""
        if kind.resource == SERVICES:
            others = [record.obj for record in self._hub.all(SERVICES).values()]
            self._allocate_service(new, old, others)
            return self._guard("services") if _claims(new) != _claims(old) else ()
        if kind.resource == NODES:
            check_node(new, old, (record.obj for record in self._hub.all(NODES).values()))
            taken = set(internal_addresses(new)) - set(internal_addresses(old or {}))
            return self._guard("node-addresses") if taken else ()
        return ()

    def _guard(self, name: str) -> tuple[Operation, ...]:
        key, revision = self._hub.guard(name)
        return (Put(key, b"", revision),)


def _claims(service: Object | None) -> object:
    """The addresses and ports that a Service takes from the cluster's ranges."""
    spec = (service or {}).get("spec") or {}
    ports = [(p.get("nodePort"), p.get("protocol")) for p in spec.get("ports") or [] if isinstance(p, dict)]
    return spec.get("clusterIPs"), spec.get("clusterIP"), spec.get("healthCheckNodePort"), ports


def internal_addresses(node: Object) -> list[str]:
    """The InternalIP addresses that a Node's status claims."""
    addresses: Any = (node.get("status") or {}).get("addresses") or []
    return [str(a.get("address")) for a in addresses if isinstance(a, dict) and a.get("type") == "InternalIP"]


def check_node(new: Object, old: Object | None, nodes: Iterable[Object]) -> None:
    """One name is one machine, and one address is one Node. Raises StatusError 422 naming both."""
    causes = []
    name = name_of(new)
    owners = {address: name_of(n) for n in nodes if name_of(n) != name for address in internal_addresses(n)}
    for address in internal_addresses(new):
        if address in owners:
            text = f"InternalIP {address} is in use by node {owners[address]}, so node {name} cannot have it"
            causes.append(Cause("status.addresses", f'Invalid value: "{address}": {text}'))
    before, after = _machine(old or {}), _machine(new)
    if before and after and before != after:
        text = (
            f"node {name} is machine {before}; machine {after} needs another name, or delete the Node first"
        )
        causes.append(Cause("status.nodeInfo.machineID", f'Invalid value: "{after}": {text}'))
    if causes:
        raise invalid(NODES, name, causes)


def _machine(node: Object) -> str:
    info = (node.get("status") or {}).get("nodeInfo")
    return str(info.get("machineID") or "") if isinstance(info, dict) else ""
