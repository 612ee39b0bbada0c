"""The built-in runtime: a container is a command run on the host's own files, in the pod's namespaces and cgroup.

No registry and no image is needed. It is not a security boundary: a pod's processes see the host's files.
"""

import asyncio
import os
import secrets
import select
import shutil
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from netplane.errors import KernelError, PeerError, cause_of
from netplane.kube.objects import Object, uid_of
from netplane.linux.cgroups import Cgroup, Layout
from netplane.node import images, sandbox_client, sandbox_process
from netplane.node.runtimes import ContainerSpec, ContainerState, ExecResult, SandboxSpec
from netplane.node.runtimes.refusals import refusals
from netplane.node.sandbox_client import RequestRefused, SandboxGone
from netplane.node.sandbox_process import SandboxProcess

SANDBOX_PROGRAM = Path(__file__).parent.parent / "sandbox"
PACKAGE_ROOT = Path(__file__).parents[3]
START_SECONDS = 20.0
END_SECONDS = 10.0
SYSCTLS = {"net/ipv4/ip_local_port_range": "30000 60999"}  # apart from the proxy's own range, 10300-29999


class StartError(PeerError):
    """The container's program could not be executed."""


def new_sandbox_id() -> str:
    """Fit for a CNI container id."""
    return secrets.token_hex(16)


class ProcessRuntime:
    """Sandboxes under one directory, one per pod; limits under one cgroup."""

    name = "process"

    def __init__(self, directory: Path, cgroup: PurePosixPath, layout: Layout) -> None:
        self._directory = directory
        self._pods = Cgroup(layout, cgroup)

    def refusals(self, pod: Object) -> list[str]:
        """What this runtime does not serve, by field."""
        return refusals(pod)

    def missing_image(self, container: Object) -> str:
        """Only built-in images bring a command; any other needs one in the pod."""
        image = str(container.get("image") or "")
        if container.get("command") or images.module_of(image) is not None:
            return ""
        known = ", ".join(images.BUILT_IN)
        return (
            f'image "{image}" is not built in, and the container has no command: the process runtime runs'
            f" `command` on the node's own files, or one of the images {known}"
        )

    def command(self, container: Object) -> tuple[list[str], Mapping[str, str]]:
        """The program an image stands for. A built-in one finds this very installation of netplane."""
        module = images.module_of(str(container.get("image") or ""))
        if module is None or container.get("command"):
            return [], {}
        return [sys.executable, "-m", module], {"PYTHONPATH": str(PACKAGE_ROOT)}

    async def adopt(self) -> list["ProcessSandbox"]:
        """Every pod directory, whoever made it. One that cannot be read is removed: it never came to life."""
        found: list[ProcessSandbox] = []
        for directory in sorted(self._directory.glob("*")):
            try:
                record = orjson.loads((directory / "pod.json").read_bytes())
                found.append(self._sandbox(directory, record))
            except (OSError, orjson.JSONDecodeError, KeyError):
                await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
        return found

    def _sandbox(self, directory: Path, record: dict[str, Any]) -> "ProcessSandbox":
        return ProcessSandbox(directory, record, self._pods.child(directory.name))

    async def create(self, spec: SandboxSpec) -> "ProcessSandbox":
        """Write the pod's directory, start its process, wait until that says it is ready."""
        # Short: a Unix socket's path has 108 bytes, and a lab's root takes 50 of them.
        directory = self._directory / uid_of(spec.pod).replace("-", "")[:12]
        record = {"sandboxId": spec.sandbox_id, "pod": spec.pod}
        cgroup = self._pods.child(directory.name)
        await asyncio.to_thread(_prepare, directory, spec, record, cgroup)
        try:
            await _launch(directory)
            return self._sandbox(directory, record)
        except BaseException:
            await asyncio.to_thread(_discard, directory, cgroup)
            raise


def _prepare(directory: Path, spec: SandboxSpec, record: dict[str, Any], cgroup: Cgroup) -> None:
    try:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True, mode=0o700)
        own = cgroup.child("sandbox")
        own.create()
        (directory / "hosts").write_text(spec.hosts)
        (directory / "resolv.conf").write_text(spec.resolv_conf)
        plan = {
            "hostname": spec.hostname,
            "host_network": spec.host_network,
            "cgroups": [str(path) for path in own.procs],
            "sysctls": {} if spec.host_network else SYSCTLS,
            "mounts": [(str(mount.source), mount.target, mount.read_only) for mount in spec.mounts],
        }
        (directory / "sandbox.json").write_bytes(orjson.dumps(plan))
        (directory / "pod.json").write_bytes(orjson.dumps(record))
    except OSError as error:
        raise KernelError(f"cannot prepare the pod's directory {directory}: {cause_of(error)}") from None


async def _launch(directory: Path) -> None:
    """Start the sandbox program; it leaves our process tree by itself."""
    with (directory / "sandbox.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-IS", str(SANDBOX_PROGRAM), str(directory),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=log, cwd="/",
        )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_SECONDS):
            said = (await process.stdout.read()).decode("utf-8", "replace").strip()
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise KernelError(f"cannot start a sandbox: not ready after {START_SECONDS:.0f} s") from None
    if said != "ready":
        cause = said or (directory / "sandbox.log").read_text(errors="replace").strip()[-300:]
        raise KernelError(f"cannot start a sandbox: {cause or 'it ended without a word'}")


def _discard(directory: Path, cgroup: Cgroup) -> None:
    cgroup.remove()
    shutil.rmtree(directory, ignore_errors=True)


class ProcessSandbox:
    """One pod's sandbox, found by its directory."""

    def __init__(self, directory: Path, record: dict[str, Any], cgroup: Cgroup) -> None:
        self.sandbox_id: str = record["sandboxId"]
        self.pod: Object = record["pod"]
        self._directory = directory
        self._socket = directory / "s"
        self._cgroup = cgroup
        self.pid = 0
        self._pidfd = -1
        with suppress(SandboxGone):
            self._find()

    def _find(self) -> None:
        with sandbox_client.connect(self._socket) as connection:
            self.pid = sandbox_client.peer_pid(connection)
            # The open connection proves that this pid is still the sandbox's when the pidfd is taken.
            self._pidfd = os.pidfd_open(self.pid)

    def __del__(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)

    @property
    def alive(self) -> bool:
        """Whether PID 1 of the pod has not ended."""
        if self._pidfd < 0:
            return False
        poll = select.poll()  # not select(): that fails from descriptor 1024 on
        poll.register(self._pidfd, select.POLLIN)
        return not poll.poll(0)

    @property
    def netns(self) -> str:
        """Valid for as long as the sandbox lives, and released by the kernel with it."""
        return f"/proc/{self.pid}/ns/net" if self.alive else ""

    def set_hosts(self, text: str) -> None:
        """Written in place: the pod has this very file mounted."""
        (self._directory / "hosts").write_text(text)

    async def watch(self) -> AsyncGenerator[Mapping[str, ContainerState], None]:
        """The newest attempt of each container."""
        with suppress(SandboxGone):
            async with aclosing(sandbox_client.watch(self._socket)) as statuses:
                async for status in statuses:
                    yield {raw["name"]: self._state(raw) for raw in status["containers"]}

    def _state(self, raw: dict[str, Any]) -> ContainerState:
        code = raw["exitCode"]
        reason = "" if code is None else "Completed" if code == 0 else "Error"
        if raw["signal"] == signal.SIGKILL and self._container(raw["name"], raw["attempt"]).oom_kills() > 0:
            reason = "OOMKilled"
        return ContainerState(
            raw["name"], raw["attempt"], raw["startedAt"], raw["finishedAt"], code, raw["signal"], reason
        )

    def _container(self, name: str, attempt: int) -> Cgroup:
        return self._cgroup.child(f"{name}-{attempt}")

    async def start(self, spec: ContainerSpec) -> None:
        """Limits first, so that the program's first instruction is under them."""
        cgroup = self._container(spec.name, spec.attempt)
        await asyncio.to_thread(self._make_cgroups, cgroup, spec)
        request = {
            "op": "start", "name": spec.name, "attempt": spec.attempt, "argv": list(spec.argv),
            "env": dict(spec.env), "cwd": spec.cwd, "log": str(spec.log), "uid": spec.uid, "gid": spec.gid,
            "stdin": spec.stdin, "stdinOnce": spec.stdin_once, "tty": spec.tty,
        }  # fmt: skip
        try:
            with _opened(cgroup.procs) as descriptors:
                async with asyncio.timeout(sandbox_client.ANSWER_SECONDS):
                    await sandbox_client.ask(self._socket, request, descriptors)
        except RequestRefused as error:
            await asyncio.to_thread(cgroup.remove)
            raise StartError(error.message) from None
        except TimeoutError:
            raise PeerError(f"cannot start container {spec.name}: the sandbox does not answer") from None

    def _make_cgroups(self, cgroup: Cgroup, spec: ContainerSpec) -> None:
        for old in range(spec.attempt):
            self._container(spec.name, old).remove()  # what an earlier attempt left running goes with it
        cgroup.create(spec.limits)

    async def signal(self, container: str, number: int, *, everything: bool = False) -> None:
        """To the main process, or to its process group."""
        request = {"op": "signal", "name": container, "signal": number, "all": everything}
        with suppress(SandboxGone):
            async with asyncio.timeout(sandbox_client.ANSWER_SECONDS):
                await sandbox_client.ask(self._socket, request)

    async def execute(self, container: str, argv: Sequence[str], *, timeout: float) -> ExecResult:
        """Within the container's environment and limits."""
        async with asyncio.timeout(timeout):
            status = await sandbox_client.ask(self._socket, {"op": "status"})
            attempts = {raw["name"]: raw["attempt"] for raw in status["containers"]}
            if container not in attempts:
                raise PeerError(f"cannot execute in container {container}: it has not been started")
            with _opened(self._container(container, attempts[container]).procs) as descriptors:
                code, output = await sandbox_client.execute(self._socket, container, argv, descriptors)
        return ExecResult(code, output)

    @asynccontextmanager
    async def executing(
        self, container: str, argv: Sequence[str], *, stdin: bool, tty: bool
    ) -> AsyncIterator[SandboxProcess]:
        """Like `execute`, with its streams at hand."""
        status = await sandbox_client.ask(self._socket, {"op": "status"})
        attempts = {raw["name"]: raw["attempt"] for raw in status["containers"]}
        if container not in attempts:
            raise PeerError(f"cannot execute in container {container}: it has not been started")
        with _opened(self._container(container, attempts[container]).procs) as descriptors:
            process = await sandbox_process.execute(
                self._socket, container, argv, descriptors, stdin=stdin, tty=tty
            )
        with process:
            yield process

    @asynccontextmanager
    async def attached(self, container: str, *, stdin: bool) -> AsyncIterator[SandboxProcess]:
        """What the sandbox reads from the container is copied to us."""
        with await sandbox_process.attach(self._socket, container, stdin=stdin) as process:
            yield process

    async def remove(self) -> None:
        """Kill PID 1: the kernel ends all else in its PID namespace. Then its cgroups and its directory."""
        if self.alive:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            await self._ended()
        await asyncio.to_thread(_discard, self._directory, self._cgroup)

    async def _ended(self) -> None:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(self._pidfd, ended.set)
        try:
            async with asyncio.timeout(END_SECONDS):
                await ended.wait()
        except TimeoutError:
            raise KernelError(f"cannot end sandbox {self.sandbox_id}: pid {self.pid} does not die") from None
        finally:
            loop.remove_reader(self._pidfd)


@contextmanager
def _opened(paths: Sequence[Path]) -> Iterator[list[int]]:
    """Descriptors to write a pid into; the container's process does so itself, before it runs anything."""
    descriptors: list[int] = []
    try:
        for path in paths:
            descriptors.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC))  # noqa: PERF401 - closed if one fails
        yield descriptors
    except OSError as error:
        raise KernelError(f"cannot open cgroup {error.filename}: {error.strerror}") from None
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
