"""A real Kubernetes API server, 1.20, and the etcd it keeps things in, as processes in a network namespace.

Why 1.20: it is what can be had whole from Debian (`./dev test long` builds it, `dev` says how), and of the age that
matters: EndpointSlices as v1beta1 only, no watch that begins whole, history that etcd forgets.
"""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

BINARIES = Path(__file__).parents[1] / ".cache/kubernetes"
PORTS = (6443, 2379, 2380)  # of the API, of etcd for its clients, and for its peers
TOKEN = "the-admins-token"
SECONDS = 60.0  # to start in
FORGETS = 1.0  # seconds of history, about
SLICES = "/apis/discovery.k8s.io/v1beta1/namespaces/default/endpointslices"
SERVICES = "/api/v1/namespaces/default/services"


def missing() -> str:
    """Why it cannot be run; "" where it can."""
    built = all((BINARIES / name).is_file() for name in ("kube-apiserver", "etcd"))
    return "" if built else "no kube-apiserver in .cache/kubernetes: ./dev test long builds it"


class Kubernetes:
    """``address`` and ``ports``: where it listens, in the network namespace ``netns``. Ends with ``close``."""

    def __init__(
        self,
        directory: Path,
        netns: int,
        address: str = "127.0.0.1",
        ports: tuple[int, int, int] = PORTS,
    ) -> None:
        self.directory = directory
        self.address = address
        self.ports = ports
        self.server = f"https://{address}:{ports[0]}"
        self._netns = netns
        self._etcd: subprocess.Popen[bytes] | None = None
        self._api: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "tokens.csv").write_text(f'{TOKEN},admin,admin,"system:masters"\n')
        key = directory / "accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)

    def start(self) -> None:
        """Until it is ready."""
        if self._etcd is None:
            there, peers = (f"http://127.0.0.1:{port}" for port in self.ports[1:])
            self._etcd = self._run(
                "etcd",
                f"--data-dir={self.directory}/etcd",
                f"--listen-client-urls={there}",
                f"--advertise-client-urls={there}",
                f"--listen-peer-urls={peers}",
                f"--initial-advertise-peer-urls={peers}",
                f"--initial-cluster=default={peers}",
                "--unsafe-no-fsync",
            )
        key = self.directory / "accounts.key"
        self._api = self._run(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self.ports[1]}",
            f"--etcd-compaction-interval={FORGETS}s",
            "--watch-cache=false",  # which would remember longer than etcd
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={key}",
            f"--service-account-key-file={key}",
            f"--token-auth-file={self.directory}/tokens.csv",
            f"--cert-dir={self.directory}/certificates",
            f"--bind-address={self.address}",
            f"--advertise-address={self.address}",
            f"--secure-port={self.ports[0]}",
            "--disable-admission-plugins=ServiceAccount",
        )
        deadline = time.monotonic() + SECONDS
        while not self._ready():
            assert self._api.poll() is None, self._log("kube-apiserver")
            assert time.monotonic() < deadline, self._log("kube-apiserver")
            time.sleep(0.1)

    def stop(self) -> None:
        """The API server goes away; what it knows is kept."""
        if self._api is not None:
            self._api.kill()
            self._api.wait()
            self._api = None

    def close(self) -> None:
        """End both."""
        self.stop()
        if self._etcd is not None:
            self._etcd.kill()
            self._etcd.wait()

    @property
    def ca(self) -> bytes:
        """Who vouches for it: its own certificate's file has the authority's as well."""
        return (self.directory / "certificates/apiserver.crt").read_bytes()

    def kubeconfig(self, path: Path) -> None:
        """Write what a client needs."""
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [
                {
                    "name": "k",
                    "cluster": {
                        "server": self.server,
                        "certificate-authority": f"{self.directory}/certificates/apiserver.crt",
                    },
                }
            ],
            "users": [{"name": "u", "user": {"token": TOKEN}}],
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        }
        path.write_text(json.dumps(document))

    def put(self, path: str, obj: dict[str, Any]) -> dict[str, Any]:
        """Create an object in a collection, or replace it."""
        name = obj["metadata"]["name"]
        code, found = self.request("GET", f"{path}/{name}")
        if code == 404:
            return self._ok("POST", path, obj)
        metadata = {**obj["metadata"], "resourceVersion": found["metadata"]["resourceVersion"]}
        return self._ok("PUT", f"{path}/{name}", {**obj, "metadata": metadata})

    def delete(self, path: str, name: str) -> None:
        """Delete an object of a collection."""
        self._ok("DELETE", f"{path}/{name}")

    def revision(self) -> str:
        """The newest one."""
        return str(self._ok("GET", SLICES)["metadata"]["resourceVersion"])

    def wait_until_forgotten(self, revision: str) -> None:
        """Until a watch from there on is refused."""
        deadline = time.monotonic() + SECONDS
        while not self._has_forgotten(revision):
            assert time.monotonic() < deadline, "etcd forgets nothing"
            time.sleep(FORGETS / 4)

    def _has_forgotten(self, revision: str) -> bool:
        query = f"?watch=1&timeoutSeconds=1&resourceVersion={revision}"
        code, text = self._ask("GET", SLICES + query)
        return code == 410 or '"code":410' in text

    def _ok(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        code, found = self.request(method, path, body)
        assert code in (200, 201), found
        return found

    def request(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """An answer's code and object."""
        code, text = self._ask(method, path, body)
        return code, json.loads(text)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
        command = ["curl", "-s", "-X", method, "--cacert", f"{self.directory}/certificates/apiserver.crt"]
        command += ["-H", f"Authorization: Bearer {TOKEN}", "-H", "Content-Type: application/json"]
        command += ["-w", "\n%{http_code}", "--max-time", "10", self.server + path]
        if body is not None:
            command += ["--data-binary", json.dumps(body)]
        done = subprocess.run(self._within(command), pass_fds=[self._netns], capture_output=True, text=True)
        text, _, code = done.stdout.rpartition("\n")
        return int(code or 0), text

    def _ready(self) -> bool:
        return (self.directory / "certificates/apiserver.crt").exists() and self._ask("GET", "/readyz") == (
            200,
            "ok",
        )

    def _run(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.directory / f"{name}.log").open("ab") as log:
            command = self._within([str(BINARIES / name), *arguments])
            return subprocess.Popen(command, pass_fds=[self._netns], stdout=log, stderr=log)

    def _within(self, command: list[str]) -> list[str]:
        return ["nsenter", f"--net=/proc/self/fd/{self._netns}", "--", *command]

    def _log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()[-2000:]
