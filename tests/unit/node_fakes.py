"""An API server's verbs in memory, and CNI plugins of a few lines: what the node agent's tests stand on."""

import asyncio
import copy
import json
import sys
from contextlib import asynccontextmanager

from controlplane.api.writing.patch import merge_patch
from netplane.errors import PeerError
from netplane.kube import errors
from netplane.kube.client import ObjectList


class FakeApi:
    """The parts of ``netplane.kube.client.Client`` that the agent uses. ``away`` makes every verb fail."""

    def __init__(self):
        self.objects = {}
        self.revision = 0
        self.log = []
        self.away = False
        self.changed = asyncio.Condition()

    def _key(self, resource, namespace, name):
        return (resource.plural, namespace or "", name)

    def _here(self):
        if self.away:
            raise PeerError("cannot reach the API server: it is away")

    async def _store(self, kind, key, obj):
        self.revision += 1
        obj["metadata"]["resourceVersion"] = str(self.revision)
        if kind == "DELETED":
            del self.objects[key]
        else:
            self.objects[key] = obj
        self.log.append((self.revision, key[0], {"type": kind, "object": copy.deepcopy(obj)}))
        async with self.changed:
            self.changed.notify_all()
        return copy.deepcopy(obj)

    async def get(self, resource, name, namespace=None):
        self._here()
        found = self.objects.get(self._key(resource, namespace, name))
        if found is None:
            raise errors.not_found(resource, name)
        return copy.deepcopy(found)

    async def list(self, resource, namespace=None, *, label_selector="", field_selector=""):
        self._here()
        items = [copy.deepcopy(o) for key, o in self.objects.items() if key[0] == resource.plural]
        return ObjectList(items, str(self.revision))

    async def create(self, resource, obj, namespace=None, *, subresource=""):
        self._here()
        obj = copy.deepcopy(obj)
        meta = obj["metadata"]
        key = self._key(resource, namespace or meta.get("namespace"), meta["name"])
        if key in self.objects:
            raise errors.already_exists(resource, meta["name"])
        meta.setdefault("uid", f"0000000{self.revision}-uid")
        return await self._store("ADDED", key, obj)

    async def patch(self, resource, name, body, *, namespace=None, kind="merge", subresource=""):
        self._here()
        old = await self.get(resource, name, namespace)
        new = merge_patch(old, body)
        return await self._store("MODIFIED", self._key(resource, namespace, name), new)

    async def delete(self, resource, name, namespace=None, *, grace_seconds=None, propagation=None, uid=None):
        self._here()
        old = await self.get(resource, name, namespace)
        return await self._store("DELETED", self._key(resource, namespace, name), old)

    async def watch(
        self,
        resource,
        namespace=None,
        *,
        resource_version,
        initial=False,
        label_selector="",
        field_selector="",
    ):
        assert not initial, "the fake's watches begin after a list"
        seen = int(resource_version)
        while True:
            self._here()
            for revision, plural, event in list(self.log):
                if revision > seen:
                    seen = revision
                    if plural == resource.plural:
                        yield copy.deepcopy(event)
            async with self.changed:
                while not self.away and self.revision <= seen:
                    await self.changed.wait()

    async def go_away(self):
        self.away = True
        async with self.changed:
            self.changed.notify_all()

    async def until(self, test, seconds=10.0):
        """Wait until ``test(self)`` gives something true, and return it."""
        async with asyncio.timeout(seconds):
            while True:
                async with self.changed:
                    if found := test(self):
                        return found
                    await self.changed.wait()


PLUGIN = """#!{python} -IS
import json, os, sys
conf = json.load(sys.stdin)
env = {{key: value for key, value in os.environ.items() if key.startswith("CNI_")}}
verb = env["CNI_COMMAND"]
with open({log!r}, "a") as log:
    log.write(json.dumps({{"plugin": {name!r}, "verb": verb, "env": env, "conf": conf}}) + "\\n")
{body}
"""

GIVES_ADDRESS = """
if verb == "ADD":
    result = conf.get("prevResult") or {"cniVersion": conf["cniVersion"], "ips": []}
    result["ips"].append({"address": "10.244.1.%d/32" % (int(env["CNI_CONTAINERID"][:2], 16) or 1)})
    print(json.dumps(result))
"""


def write_plugin(directory, name, body=GIVES_ADDRESS):
    """An executable CNI plugin that notes each call in ``directory/calls``."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(PLUGIN.format(python=sys.executable, log=str(directory / "calls"), name=name, body=body))
    path.chmod(0o755)
    return path


def calls(directory):
    """What the plugins were asked, in order."""
    log = directory / "calls"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


@asynccontextmanager
async def background(*work):
    """Run coroutines beside the block, and end them with it, as a killed process would: at once."""
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(one) for one in work]
        yield
        for task in running:
            task.cancel()
