"""The runtime's side of CNI: run a network's plugins in order, remember results, undo in reverse.

Source: CNI specification 1.1.0, sections 2 to 5. Results are kept in a directory of ours (as libcni does in
/var/lib/cni), so that DEL and CHECK speak of what ADD made, also after the agent or the machine was restarted.
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from netplane.errors import NetplaneError, PeerError
from netplane.node.cni_config import Json, Network, parse
from netplane.node.turns import Turns

log = logging.getLogger(__name__)

PLUGIN_SECONDS = 60.0
STATUS_SECONDS = 10.0
NOT_AVAILABLE = 50  # the specification's: no ADD now, but what is attached goes on


class CniError(NetplaneError):
    """A plugin failed; ``code`` is the specification's (50: not available, 51: limited), 0 when it gave none."""

    def __init__(self, message: str, code: int = 0, hint: str = "") -> None:
        super().__init__(message, hint)
        self.code = code


@dataclass(frozen=True, slots=True)
class Attachment:
    """One container's interface on a network."""

    container_id: str
    netns: str
    ifname: str = "eth0"
    args: Mapping[str, str] = field(default_factory=dict)
    capability_args: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cached:
    """What an ADD left behind: the attachment, the network as it was then, and its result."""

    network: Network
    attachment: Attachment
    result: Json


class CniClient:
    """Executes plugins found in ``path``; keeps results in ``cache``. ``observe(verb, seconds, ok)`` is for metrics."""

    def __init__(
        self,
        path: Sequence[Path],
        cache: Path,
        observe: Callable[[str, float, bool], None] = lambda verb, seconds, ok: None,
        *,
        plugin_seconds: float = PLUGIN_SECONDS,
    ) -> None:
        self._path = tuple(path)
        self._cache = cache
        self._observe = observe
        self._plugin_seconds = plugin_seconds
        self._turns = Turns()

    async def add(self, network: Network, attachment: Attachment) -> Json:
        """Attach. On failure everything is deleted again, as the specification asks, and CniError is raised."""
        async with self._turns.beside_others():
            return await self._add(network, attachment)

    async def _add(self, network: Network, attachment: Attachment) -> Json:
        result: Json | None = None
        try:
            for plugin in network.plugins:
                body = network.request(plugin, attachment.capability_args, result)
                result = await self._run("ADD", plugin, body, attachment) or {}
        except BaseException:
            with contextlib.suppress(NetplaneError):
                await self._delete(Cached(network, attachment, {}))
            raise
        assert result is not None
        cached = Cached(network, attachment, {**result, "cniVersion": network.version})
        await asyncio.to_thread(self._remember, cached)
        return cached.result

    async def check(self, cached: Cached) -> None:
        """Raise CniError when an attachment is no longer as ADD made it."""
        if cached.network.disable_check or not cached.network.at_least("0.4.0"):
            return
        for plugin in cached.network.plugins:
            body = cached.network.request(plugin, cached.attachment.capability_args, cached.result)
            await self._run("CHECK", plugin, body, cached.attachment)

    async def delete(self, cached: Cached, *, netns: str | None = None) -> None:
        """Detach. ``netns`` replaces the path of ADD's day; "" says that it is gone. Repeating is fine."""
        attachment = cached.attachment
        if netns is not None:
            attachment = Attachment(
                attachment.container_id, netns, attachment.ifname, attachment.args, attachment.capability_args
            )
        async with self._turns.beside_others():
            await self._delete(Cached(cached.network, attachment, cached.result))
            self._file(cached.network.name, attachment).unlink(missing_ok=True)

    async def _delete(self, cached: Cached) -> None:
        network, attachment = cached.network, cached.attachment
        previous = cached.result if cached.result and network.at_least("0.4.0") else None
        for plugin in reversed(network.plugins):
            body = network.request(plugin, attachment.capability_args, previous)
            await self._run("DEL", plugin, body, attachment)

    async def status(self, network: Network) -> None:
        """Raise CniError when the network cannot attach anything now."""
        for plugin in network.plugins:
            self._find(plugin["type"])
        if network.at_least("1.1.0"):
            for plugin in network.plugins:
                await self._run("STATUS", plugin, network.request(plugin, {}, None), None)

    async def collect_garbage(self, network: Network) -> None:
        """Tell plugins which attachments live, and they free all others of this network; no ADD or DEL meanwhile."""
        if network.disable_gc or not network.at_least("1.1.0"):
            return
        async with self._turns.alone():
            await self._collect_garbage(network, await asyncio.to_thread(self.attachments))

    async def _collect_garbage(self, network: Network, valid: Sequence[Cached]) -> None:
        living = [
            {"containerID": cached.attachment.container_id, "ifname": cached.attachment.ifname}
            for cached in valid
            if cached.network.name == network.name
        ]
        for plugin in network.plugins:
            body = {**network.request(plugin, {}, None), "cni.dev/valid-attachments": living}
            await self._run("GC", plugin, body, None)

    def attachments(self) -> list[Cached]:
        """All that ADD made and DEL has not undone. A broken file is reported and skipped."""
        found: list[Cached] = []
        for path in sorted(self._cache.glob("*.json")):
            try:
                found.append(_parse_cached(orjson.loads(path.read_bytes()), str(path)))
            except (OSError, orjson.JSONDecodeError, KeyError, TypeError, NetplaneError) as error:
                log.warning("cannot use the cached network result %s: %s", path, error)
        return found

    def _file(self, network: str, attachment: Attachment) -> Path:
        return self._cache / f"{network}-{attachment.container_id}-{attachment.ifname}.json"

    def _remember(self, cached: Cached) -> None:
        self._cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._file(cached.network.name, cached.attachment)
        attachment = cached.attachment
        document = {
            "kind": "cniCacheV1",
            "containerId": attachment.container_id,
            "netns": attachment.netns,
            "ifName": attachment.ifname,
            "networkName": cached.network.name,
            "config": cached.network.as_json(),
            "cniArgs": dict(attachment.args),
            "capabilityArgs": dict(attachment.capability_args),
            "result": cached.result,
        }
        fresh = path.with_suffix(".new")
        with fresh.open("wb") as file:
            file.write(orjson.dumps(document))
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)

    def _find(self, kind: str) -> Path:
        for directory in self._path:
            program = directory / kind
            if program.is_file() and os.access(program, os.X_OK):
                return program
        places = ", ".join(str(directory) for directory in self._path)
        raise CniError(f"cannot find the CNI plugin {kind} in {places}", hint="Install it there")

    async def _run(self, verb: str, plugin: Json, body: Json, attachment: Attachment | None) -> Json | None:
        program = self._find(plugin["type"])
        environment = {
            **os.environ,
            "CNI_COMMAND": verb,
            "CNI_PATH": ":".join(str(directory) for directory in self._path),
        }
        if attachment is not None:
            environment |= {
                "CNI_CONTAINERID": attachment.container_id,
                "CNI_NETNS": attachment.netns,
                "CNI_IFNAME": attachment.ifname,
                "CNI_ARGS": ";".join(f"{key}={value}" for key, value in attachment.args.items()),
            }
        began = time.monotonic()
        succeeded = False
        try:
            answer = await self._execute(program, verb, environment, orjson.dumps(body))
            succeeded = True
            return answer
        finally:
            self._observe(verb, time.monotonic() - began, succeeded)

    async def _execute(
        self, program: Path, verb: str, environment: Mapping[str, str], body: bytes
    ) -> Json | None:
        action = f"cannot {verb} by the CNI plugin {program.name}"
        seconds = STATUS_SECONDS if verb == "STATUS" else self._plugin_seconds
        try:
            process = await asyncio.create_subprocess_exec(
                str(program),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise CniError(f"{action}: {program}: {error.strerror}") from None
        try:
            async with asyncio.timeout(seconds):
                output, errors = await process.communicate(body)
        except TimeoutError:
            raise CniError(f"{action}: it did not answer within {seconds:g} s") from None
        finally:
            if process.returncode is None:
                # Its whole session: a plugin may have started others.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        return _answer(action, verb, process.returncode or 0, output, errors)


def _answer(action: str, verb: str, exit_code: int, output: bytes, errors: bytes) -> Json | None:
    """A plugin's answer: a result (ADD), nothing, or an error object. Source: specification, section 5."""
    said = output.strip()
    try:
        document = orjson.loads(said) if said else None
    except orjson.JSONDecodeError:
        document = None
    if exit_code != 0:
        if isinstance(document, dict) and "msg" in document:
            details = f" ({document['details']})" if document.get("details") else ""
            raise CniError(f"{action}: {document['msg']}{details}", int(document.get("code") or 0))
        noise = (errors.strip() or said)[-300:].decode("utf-8", "replace")
        raise CniError(f"{action}: exit status {exit_code}: {noise or 'no message'}")
    if verb != "ADD":
        return None
    if not isinstance(document, dict):
        raise PeerError(
            f"{action}: its result is not a JSON object: {said[:100].decode('utf-8', 'replace')!r}"
        )
    return document


def _parse_cached(document: Json, source: str) -> Cached:
    attachment = Attachment(
        document["containerId"],
        document["netns"],
        document["ifName"],
        document["cniArgs"],
        document["capabilityArgs"],
    )
    return Cached(parse(document["config"], source), attachment, document["result"])


def addresses(result: Json) -> list[str]:
    """The addresses a result gives, without prefix lengths, in its order."""
    return [str(entry["address"]).partition("/")[0] for entry in result.get("ips") or []]
