"""Debian's container runtimes on a node of the CNI tests, shut off from the machine they run on.

Whatever a runtime starts lives in one PID namespace and ends with its first process; what it mounts and what it
writes to /run, /etc, /opt and /var/lib is seen there alone. There is no registry: the image is busybox, packed here.
"""

import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import grpc
from cri_api.v1 import api_pb2 as cri
from cri_api.v1.api_pb2_grpc import RuntimeServiceStub

from netplane.linux.namespaces import socket_in
from netplane.node.network import conflist, write
from tests.netns.cni_node import POD_CIDR, CniNode, until

POD_CIDR6 = "fd00:10:244:1::/64"
IMAGE = "localhost/box:1"
APPLETS = ("cat", "echo", "httpd", "sh", "sleep", "wget")
SECONDS = 30

# Runtimes look for networks and plugins where a user's do; there we put the node's own.
ENCLOSE = """
set -e
mount -t tmpfs run /run
for place in etc opt var/lib; do
  mkdir -p "$1/$place/upper" "$1/$place/work"
  mount -t overlay overlay -o "lowerdir=/$place,upperdir=$1/$place/upper,workdir=$1/$place/work" "/$place"
done
rm -rf /etc/cni /opt/cni
mkdir /etc/cni /opt/cni
ln -s "$2/etc/cni/net.d" /etc/cni/net.d
ln -s "$2/opt/cni/bin" /opt/cni/bin
echo ready
sleep infinity & wait
"""


@dataclass
class Enclosure:
    """Where a node's runtimes run; ``cgroup`` is the parent of all their containers' cgroups."""

    node: CniNode
    work: Path
    pid: int
    cgroup: str

    @contextmanager
    def started(
        self, *words: str, stdout: Any = subprocess.PIPE, **keys: Any
    ) -> Iterator[subprocess.Popen[str]]:
        """A process inside, ended with the block."""
        command = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--net", *words]
        with subprocess.Popen(command, text=True, stdin=subprocess.DEVNULL, stdout=stdout, **keys) as process:
            try:
                yield process
            finally:
                process.kill()  # and what it started, if that still runs, with the enclosure

    def run(self, *words: str, check: bool = True, **keys: Any) -> str:
        """Standard output of a command inside, of one that fails both outputs."""
        with self.started(*words, stderr=subprocess.PIPE, **keys) as process:
            output, errors = process.communicate(timeout=SECONDS)
        assert not check or process.returncode == 0, f"{words}: {output}{errors}"
        return output if process.returncode == 0 else output + errors


@contextmanager
def enclosed(node: CniNode, work: Path) -> Iterator[Enclosure]:
    """Room for runtimes on ``node``, with the network that the node agent writes; gone afterwards, cgroups too."""
    directory = node.root / "etc/cni/net.d"
    cidrs, cluster = [ip_network(POD_CIDR), ip_network(POD_CIDR6)], [ip_network("10.244.0.0/16")]
    write(directory, conflist(cidrs, cluster), held=False)
    cgroup = f"/netplane-test-{os.getpid()}"
    command = [
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "sh",
        "-c",
        ENCLOSE,
        "sh",
    ]
    with subprocess.Popen(
        ["nsenter", f"--net=/proc/self/fd/{node.netns}", *command, str(work / "over"), str(node.root)],
        pass_fds=[node.netns],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as outer:
        try:
            assert outer.stdout is not None
            assert outer.stdout.readline() == b"ready\n"
            first = int(Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text())
            try:
                yield Enclosure(node, work, first, cgroup)
            finally:
                os.kill(
                    first, signal.SIGKILL
                )  # and the kernel ends every process in there before it is reaped
                outer.wait(SECONDS)
        finally:
            outer.kill()
            remove_cgroups(cgroup)


def remove_cgroups(name: str) -> None:
    for top in (*Path("/sys/fs/cgroup").glob(f"*{name}"), Path(f"/sys/fs/cgroup{name}")):
        for group, _, _ in os.walk(top, topdown=False):
            until(lambda group=group: _removed(Path(group)), f"{group} to be empty")


def _removed(group: Path) -> bool:
    with suppress(OSError):
        group.rmdir()
    return not group.exists()


def image(path: Path) -> Path:
    """An OCI archive of ``IMAGE``: busybox and its names."""
    layer = _tar(
        *(_directory(name) for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "www")),
        (_entry("bin/busybox", mode=0o755), Path(shutil.which("busybox") or "/bin/busybox").read_bytes()),
        *(_link(f"bin/{name}", "busybox") for name in APPLETS),
    )
    kind = "application/vnd.oci.image"
    config = {
        "architecture": "arm64" if os.uname().machine == "aarch64" else "amd64",
        "os": "linux",
        "config": {"Cmd": ["sleep", "1000000"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }
    parts = [json.dumps(config).encode(), layer]
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": _descriptor(f"{kind}.config.v1+json", parts[0]),
            "layers": [_descriptor(f"{kind}.layer.v1.tar", layer)],
        }
    ).encode()
    names = {"org.opencontainers.image.ref.name": IMAGE, "io.containerd.image.name": IMAGE}
    described = {**_descriptor(f"{kind}.manifest.v1+json", manifest), "annotations": names}
    index = json.dumps({"schemaVersion": 2, "manifests": [described]}).encode()
    blobs = {f"blobs/sha256/{_digest(part).partition(':')[2]}": part for part in (*parts, manifest)}
    files = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": index, **blobs}
    path.write_bytes(_tar(*((_entry(name), content) for name, content in files.items())))
    return path


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _descriptor(kind: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": _digest(data), "size": len(data)}


def _entry(name: str, mode: int = 0o644) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.mode = mode
    return entry


def _directory(name: str) -> tuple[tarfile.TarInfo, bytes]:
    entry = _entry(name, 0o755)
    entry.type = tarfile.DIRTYPE
    return entry, b""


def _link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    entry = _entry(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    return entry, b""


def _tar(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for entry, content in entries:
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return whole.getvalue()


# --- containerd -------------------------------------------------------------------------------------------

CONTAINERD = """
version = 2
root = "{work}/containerd"
state = "/run/containerd-test"
[grpc]
address = "{work}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image}"
restrict_oom_score_adj = true
disable_apparmor = true
"""


@dataclass
class Containerd:
    """containerd with the image in it; ``socket`` speaks CRI too."""

    inside: Enclosure
    socket: Path

    def ctr(self, *words: str, **keys: Any) -> str:
        return self.inside.run("ctr", "-a", str(self.socket), *words, **keys)

    def ctr_run(self, name: str, *command: str) -> AbstractContextManager[subprocess.Popen[str]]:
        """`ctr run --cni`, which attaches before the container starts and detaches when it has ended."""
        words = ("run", "--rm", "--cni", "--cgroup", f"{self.inside.cgroup}/{name}", IMAGE, name, *command)
        return self.inside.started("ctr", "-a", str(self.socket), *words)

    @contextmanager
    def cri(self) -> Iterator["Cri"]:
        with grpc.insecure_channel(f"unix://{self.socket}") as channel:
            yield Cri(RuntimeServiceStub(channel), self.inside.cgroup)


@contextmanager
def containerd(inside: Enclosure, archive: Path) -> Iterator[Containerd]:
    """The daemon; it ends with the enclosure."""
    config = inside.work / "containerd.toml"
    config.write_text(CONTAINERD.format(work=inside.work, image=IMAGE))
    # containerd attaches `lo` by Debian's plugin of that name whatever the network is.
    loopback = inside.node.plugin.parent / "loopback"
    loopback.symlink_to("/usr/lib/cni/loopback")
    with (
        (inside.work / "containerd.log").open("w") as log,
        inside.started("containerd", "-c", str(config), stdout=log, stderr=log),
    ):
        made = Containerd(inside, inside.work / "containerd.sock")
        until(made.socket.exists, "containerd to listen")
        for namespace in ("default", "k8s.io"):
            made.ctr("-n", namespace, "image", "import", str(archive))
        yield made


@dataclass
class Cri:
    """What kubelet does with a pod, in its own words (CRI v1)."""

    stub: RuntimeServiceStub
    cgroup: str

    def config(self, name: str, ports: dict[int, int] | None = None, **annotations: str) -> Any:
        """Of a pod whose ``ports`` of the node lead to ports of its own."""
        return cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=name, uid=name, namespace="default"),
            hostname=name,
            port_mappings=[
                cri.PortMapping(protocol=kind, host_port=host, container_port=container)
                for host, container in (ports or {}).items()
                for kind in (cri.TCP, cri.UDP)
            ],
            annotations={
                f"kubernetes.io/{key.replace('_', '-')}": value for key, value in annotations.items()
            },
            linux=cri.LinuxPodSandboxConfig(cgroup_parent=self.cgroup),
        )

    def run(self, config: Any) -> str:
        """RunPodSandbox; the sandbox's id."""
        return self.stub.RunPodSandbox(
            cri.RunPodSandboxRequest(config=config), timeout=SECONDS
        ).pod_sandbox_id

    def start(self, sandbox: str, config: Any, *command: str) -> str:
        """CreateContainer and StartContainer; the container's id."""
        container = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name="main"), image=cri.ImageSpec(image=IMAGE), command=command
        )
        request = cri.CreateContainerRequest(pod_sandbox_id=sandbox, config=container, sandbox_config=config)
        made = self.stub.CreateContainer(request, timeout=SECONDS).container_id
        self.stub.StartContainer(cri.StartContainerRequest(container_id=made), timeout=SECONDS)
        return str(made)

    def addresses(self, sandbox: str) -> list[str]:
        """PodSandboxStatus: what kubelet writes to the pod's status."""
        request = cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox)
        found = self.stub.PodSandboxStatus(request, timeout=SECONDS).status.network
        return [found.ip, *(entry.ip for entry in found.additional_ips)]

    def execute(self, container: str, *command: str) -> str:
        """ExecSync; standard output."""
        request = cri.ExecSyncRequest(container_id=container, cmd=command, timeout=10)
        answer = self.stub.ExecSync(request, timeout=SECONDS)
        assert answer.exit_code == 0, answer
        return bytes(answer.stdout).decode()

    def stop(self, sandbox: str) -> None:
        """StopPodSandbox and RemovePodSandbox."""
        self.stub.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=sandbox), timeout=SECONDS)
        self.stub.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=sandbox), timeout=SECONDS)


# --- podman -----------------------------------------------------------------------------------------------

CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=20000:20000"]
[network]
network_backend = "cni"
default_network = "netplane"
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
events_logger = "none"
"""


@dataclass
class Podman:
    """podman with its CNI backend."""

    inside: Enclosure
    config: Path

    def __call__(self, *words: str, **keys: Any) -> str:
        store = ("--root", str(self.inside.work / "podman"), "--runroot", "/run/podman-test")
        environment = {**os.environ, "CONTAINERS_CONF": str(self.config)}
        return self.inside.run("podman", *store, *words, env=environment, **keys).strip()

    def run(self, name: str, *words: str, **keys: Any) -> str:
        return self("run", "--name", name, "--cgroup-parent", self.inside.cgroup, *words, **keys)


def podman(inside: Enclosure) -> Podman:
    config = inside.work / "containers.conf"
    config.write_text(CONTAINERS_CONF)
    return Podman(inside, config)


# --- who reaches whom -------------------------------------------------------------------------------------


def serve(name: str) -> tuple[str, ...]:
    """A container's command: an HTTP server on port 80 that says ``name``."""
    return "sh", "-c", f"echo {name} >/www/index.html; exec httpd -f -p 80 -h /www"


def fetch(netns: int, address: str, port: int = 80) -> str:
    """What an HTTP server says to a client in ``netns``; "" where it does not get there."""
    with socket_in(netns, socket.AF_INET) as client:
        client.settimeout(5)
        try:
            client.connect((address, port))
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            whole = b"".join(iter(lambda: client.recv(4096), b""))
        except OSError:
            return ""
    return whole.partition(b"\r\n\r\n")[2].decode().strip()


@contextmanager
def answering(netns: int, address: str, port: int, text: str) -> Iterator[None]:
    """An HTTP server in ``netns`` that says ``text``."""
    listener = socket_in(netns, socket.AF_INET)
    listener.bind((address, port))
    listener.listen()

    def serve() -> None:
        with suppress(OSError):  # the listener was shut down
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(f"HTTP/1.0 200 OK\r\n\r\n{text}".encode())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(SECONDS)
        listener.close()
