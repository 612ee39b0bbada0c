"""A small API server in memory, as fast as a dictionary, for tests of what is built on ``netplane.kube.client``.

It has the client's verbs and the server's rules that controllers depend on: one revision for everything,
optimistic concurrency, status isolation, generations, finalizers, graceful deletion, bindings. It can do what the
server must not be made to do on purpose: hold back watches, lose answers, refuse. Its contract is tested against
the real server too (tests/contract/controlplane_controllers).
"""

import asyncio
import copy
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from controlplane.api.writing.patch import merge_patch
from netplane.errors import PeerError
from netplane.kube import errors
from netplane.kube.cache import Cache
from netplane.kube.client import ObjectList
from netplane.kube.following import follow
from netplane.kube.objects import (
    Object,
    ObjectKey,
    is_deleting,
    is_true,
    key_of,
    meta,
    name_of,
    namespace_of,
    new_uid,
    now_rfc3339,
    resource_version_of,
    set_condition,
    uid_of,
)
from netplane.kube.resources import LEASES, NAMESPACES, NODES, PODS, Resource
from netplane.kube.selectors import Selector

Fault = Callable[[str, Resource, Object], Exception | None]
Faults = list[Fault]
Log = list[tuple[int, Resource, str, Object]]


class FakeApi:
    """The server and, at once, a client of it."""

    def __init__(self) -> None:
        self.revision = 0
        self.objects: dict[Resource, dict[ObjectKey, Object]] = {}
        self.log: Log = []
        self.requests: Counter[str] = Counter()
        self.before: Faults = []  # each may refuse a write
        self.after: Faults = []  # each may lose a write's answer
        self._news = asyncio.Condition()
        self._flowing = asyncio.Event()
        self._flowing.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    @contextmanager
    def watches_held(self):
        """No watch delivers anything meanwhile: caches lag."""
        self._flowing.clear()
        try:
            yield
        finally:
            self._flowing.set()

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        self.requests[f"get {resource.plural}"] += 1
        return copy.deepcopy(self._find(resource, ObjectKey(namespace or "", name)))

    async def list(
        self, resource: Resource, namespace: str | None = None, *, label_selector="", field_selector=""
    ) -> ObjectList:
        assert not field_selector, "the fake has no field selectors"
        selector = Selector.parse(label_selector)
        items = [
            copy.deepcopy(obj)
            for key, obj in self.objects.get(resource, {}).items()
            if namespace in (None, key.namespace) and selector.matches(meta(obj).get("labels") or {})
        ]
        return ObjectList(items, str(self.revision))

    async def watch(
        self, resource: Resource, namespace: str | None = None, *, resource_version: str, **_: str
    ) -> AsyncIterator[dict[str, Any]]:
        position = 0
        since = int(resource_version)
        while True:
            async with self._news:
                while len(self.log) <= position:
                    await self._news.wait()
            await self._flowing.wait()
            while position < len(self.log):
                revision, of, kind, obj = self.log[position]
                position += 1
                if of == resource and revision > since and namespace in (None, namespace_of(obj)):
                    yield {"type": kind, "object": copy.deepcopy(obj)}

    async def create(
        self, resource: Resource, obj: Object, namespace: str | None = None, *, subresource: str = ""
    ) -> Object:
        obj = copy.deepcopy(obj)
        if namespace:
            obj["metadata"].setdefault("namespace", namespace)
        if subresource == "binding":
            return await self._bind(obj)
        self._meddle(self.before, "create", resource, obj)
        if key_of(obj) in self.objects.get(resource, {}):
            raise errors.already_exists(resource, name_of(obj))
        self._check_namespace(resource, obj)
        obj.setdefault("apiVersion", resource.api_version)
        obj.setdefault("kind", resource.kind)
        obj["metadata"] |= {"uid": new_uid(), "creationTimestamp": now_rfc3339(), "generation": 1}
        obj.setdefault("spec", {})
        if resource == NAMESPACES:
            obj["spec"]["finalizers"] = ["kubernetes"]
        if resource == PODS:
            obj.setdefault("status", {"phase": "Pending"})
        await self._put(resource, "ADDED", obj)
        return self._answer("create", resource, obj)

    async def replace(self, resource: Resource, obj: Object, *, subresource: str = "") -> Object:
        self._meddle(self.before, "replace", resource, obj)
        return await self._update("replace", resource, key_of(obj), lambda old: obj, subresource)

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: Any,
        *,
        namespace: str | None = None,
        kind: str = "merge",
        subresource: str = "",
    ) -> Object:
        assert kind == "merge", "the fake knows merge patches only"
        self._meddle(self.before, "patch", resource, body)
        key = ObjectKey(namespace or "", name)
        return await self._update("patch", resource, key, lambda old: merge_patch(old, body), subresource)

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        grace_seconds: int | None = None,
        propagation: str | None = None,
        uid: str | None = None,
    ) -> Object:
        old = self._find(resource, ObjectKey(namespace or "", name))
        self._meddle(self.before, "delete", resource, old)
        if uid is not None and uid != uid_of(old):
            raise errors.conflict(resource, name, "the uid in the precondition does not match")
        obj = copy.deepcopy(old)
        finalizer = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}.get(propagation or "")
        finalizers = meta(obj).setdefault("finalizers", [])
        if finalizer and finalizer not in finalizers and not is_deleting(obj):
            finalizers.append(finalizer)
        running = resource == PODS and bool((obj.get("spec") or {}).get("nodeName"))
        waits = (
            running
            and grace_seconds != 0
            and (obj.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
        )
        if finalizers or waits or (resource == NAMESPACES and obj["spec"].get("finalizers")):
            if not is_deleting(obj):
                obj["metadata"]["deletionTimestamp"] = now_rfc3339()
                await self._put(resource, "MODIFIED", obj)
        else:
            await self._remove(resource, obj)
        return self._answer("delete", resource, obj)

    async def _update(
        self,
        verb: str,
        resource: Resource,
        key: ObjectKey,
        change: Callable[[Object], Object],
        subresource: str,
    ) -> Object:
        old = self._find(resource, key)
        new = copy.deepcopy(change(old))
        sent = resource_version_of(new)
        if sent and sent != resource_version_of(old):
            raise errors.conflict(resource, key.name, "the object has been modified")
        if uid_of(new) not in ("", uid_of(old)):
            raise errors.conflict(resource, key.name, "the uid does not match")
        if subresource == "status":
            new = {**copy.deepcopy(old), "status": new.get("status") or {}}
        elif subresource == "finalize":
            new = {**copy.deepcopy(old), "spec": new["spec"]}
        else:
            new["status"] = copy.deepcopy(old.get("status") or {})
        kept = ("uid", "creationTimestamp", "generation", "deletionTimestamp", "resourceVersion")
        new["metadata"] |= {field: meta(old)[field] for field in kept if field in meta(old)}
        if new.get("spec") != old.get("spec"):
            new["metadata"]["generation"] += 1
        done = is_deleting(new) and not meta(new).get("finalizers") and resource != PODS
        if done and not (resource == NAMESPACES and new["spec"].get("finalizers")):
            await self._remove(resource, new)
        elif new != old:
            await self._put(resource, "MODIFIED", new)
        return self._answer(verb, resource, new)

    async def _bind(self, binding: Object) -> Object:
        old = self._find(PODS, key_of(binding))
        self._meddle(self.before, "bind", PODS, old)
        if uid_of(binding) not in ("", uid_of(old)):
            raise errors.conflict(PODS, name_of(old), "the uid does not match")
        if (old.get("spec") or {}).get("nodeName"):
            raise errors.conflict(PODS, name_of(old), "it is already assigned to a node")
        pod = copy.deepcopy(old)
        pod.setdefault("spec", {})["nodeName"] = binding["target"]["name"]
        conditions = pod["status"].get("conditions") or []
        pod["status"]["conditions"] = set_condition(conditions, "PodScheduled", "True", "", "", now_rfc3339())
        await self._put(PODS, "MODIFIED", pod)
        self._meddle(self.after, "bind", PODS, pod)
        return {"kind": "Status", "status": "Success"}

    def _find(self, resource: Resource, key: ObjectKey) -> Object:
        found = self.objects.get(resource, {}).get(key)
        if found is None:
            raise errors.not_found(resource, key.name)
        return found

    def _check_namespace(self, resource: Resource, obj: Object) -> None:
        namespace = self.objects.get(NAMESPACES, {}).get(ObjectKey("", namespace_of(obj)))
        if resource.namespaced and namespace is not None and is_deleting(namespace):
            raise errors.refused(resource, name_of(obj), "its namespace is being terminated")

    def _meddle(self, faults: Faults, verb: str, resource: Resource, obj: Object) -> None:
        self.requests[f"{verb} {resource.plural}"] += faults is self.before
        for fault in list(faults):
            if (error := fault(verb, resource, obj)) is not None:
                raise error

    def _answer(self, verb: str, resource: Resource, obj: Object) -> Object:
        self._meddle(self.after, verb, resource, obj)
        return copy.deepcopy(obj)

    async def _put(self, resource: Resource, kind: str, obj: Object) -> None:
        self.revision += 1
        obj["metadata"]["resourceVersion"] = str(self.revision)
        self.objects.setdefault(resource, {})[key_of(obj)] = obj
        await self._tell(resource, kind, obj)

    async def _remove(self, resource: Resource, obj: Object) -> None:
        self.revision += 1
        del self.objects[resource][key_of(obj)]
        gone = copy.deepcopy(obj)
        gone["metadata"]["resourceVersion"] = str(self.revision)
        await self._tell(resource, "DELETED", gone)

    async def _tell(self, resource: Resource, kind: str, obj: Object) -> None:
        self.log.append((self.revision, resource, kind, copy.deepcopy(obj)))
        async with self._news:
            self._news.notify_all()


def lose_answer(verb: str, resource: Resource, times: int = 1) -> Fault:
    """A fault: the request is done, but its answer never arrives."""
    left = [times]

    def fault(done: str, of: Resource, obj: Object) -> Exception | None:
        if (done, of) != (verb, resource) or left[0] == 0:
            return None
        left[0] -= 1
        return PeerError(f"cannot {verb} {of.plural}: connection lost")

    return fault


def refuse(verb: str, resource: Resource, error: Exception, times: int = 1) -> Fault:
    """A fault: the server says no."""
    left = [times]

    def fault(wanted: str, of: Resource, obj: Object) -> Exception | None:
        if (wanted, of) != (verb, resource) or left[0] == 0:
            return None
        left[0] -= 1
        return error

    return fault


class Kubelet:
    """All node agents at once, for pods that exist in the API only: bound pods become ready, deleted ones go."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.pods = Cache(PODS)
        self.dead: set[str] = set()
        self.hold_ready = False
        self._beats = 0
        self._work: asyncio.Queue[ObjectKey] = asyncio.Queue()
        self._addresses: dict[str, str] = {}

    async def add_node(self, name: str, **allocatable: str) -> None:
        """A Node that is ready, with its first heartbeat."""
        sizes = {"cpu": "4", "memory": "8Gi", "pods": "110", **allocatable}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
        await self.client.create(NODES, node)
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name, "namespace": "kube-node-lease"},
            "spec": {"holderIdentity": name},
        }
        await self.client.create(LEASES, lease)
        await self.say_ready(name, sizes)

    async def say_ready(self, name: str, sizes: dict[str, str] | None = None) -> None:
        """What an agent writes when it (re)starts."""
        node = await self.client.get(NODES, name)
        conditions = set_condition(
            (node.get("status") or {}).get("conditions") or [], "Ready", "True", "Up", "", now_rfc3339()
        )
        status = {"conditions": conditions, **({"allocatable": sizes, "capacity": sizes} if sizes else {})}
        await self.client.patch(NODES, name, {"status": status}, subresource="status")
        await self.beat(name)

    async def beat(self, *names: str) -> None:
        """Renew the Leases."""
        for name in names:
            self._beats += 1
            renewed = (datetime.now(UTC) + timedelta(microseconds=self._beats)).strftime(
                "%Y-%m-%dT%H:%M:%S.%fZ"
            )
            body = {"spec": {"renewTime": renewed}}
            await self.client.patch(LEASES, name, body, namespace="kube-node-lease")

    async def run(self) -> None:
        """Do what agents do, for ever."""
        async with asyncio.TaskGroup() as tasks:
            changed = lambda change: self._work.put_nowait(change.key)  # noqa: E731
            tasks.create_task(follow(self.client, self.pods, on_change=changed))
            tasks.create_task(self._run())

    async def _run(self) -> None:
        while True:
            key = await self._work.get()
            pod = self.pods.get(*key)
            try:
                if pod is not None:
                    await self._sync(pod)
            except errors.StatusError as error:
                if not errors.is_not_found(error) and not errors.is_conflict(error):
                    raise

    async def _sync(self, pod: Object) -> None:
        node = (pod.get("spec") or {}).get("nodeName")
        if not node or node in self.dead:
            return
        if is_deleting(pod):
            await self.client.delete(PODS, name_of(pod), namespace_of(pod), grace_seconds=0, uid=uid_of(pod))
        elif not self.hold_ready and not is_true(pod, "Ready"):
            address = self._addresses.setdefault(
                uid_of(pod), f"10.244.{len(self._addresses) // 250}.{len(self._addresses) % 250 + 1}"
            )
            conditions = set_condition(
                pod["status"].get("conditions") or [], "Ready", "True", "", "", now_rfc3339()
            )
            status = {
                "phase": "Running",
                "podIP": address,
                "podIPs": [{"ip": address}],
                "conditions": conditions,
            }
            body = {"metadata": {"uid": uid_of(pod)}, "status": status}
            await self.client.patch(
                PODS, name_of(pod), body, namespace=namespace_of(pod), subresource="status"
            )
