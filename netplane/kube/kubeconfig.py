"""Who and where: the kubeconfig file that every Kubernetes client reads.

Only what netplane itself writes and what kubectl's users commonly have is understood: one current context, a
CA, a client certificate or a bearer token, in the file or beside it. What else would decide who one is or whom one
speaks with is refused by name.
"""

import base64
import contextlib
import os
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from netplane.errors import ConfigError, cause_of

UNSUPPORTED = {
    "users": ("exec", "auth-provider", "username", "password", "as", "as-uid", "as-groups", "as-user-extra"),
    "clusters": ("proxy-url", "tls-server-name", "insecure-skip-tls-verify"),
}


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """The current context, resolved. PEM texts are bytes; ``token`` may be empty, and is the one that ``token_file``
    held when this was read."""

    server: str
    ca: bytes = b""
    certificate: bytes = b""
    key: bytes = b""
    token: str = ""
    token_file: Path | None = None

    @classmethod
    def load(cls, path: Path) -> "Kubeconfig":
        """Read a file. Raises ConfigError naming the file and the field that is missing or wrong."""
        try:
            document = yaml.safe_load(path.read_text())
        except FileNotFoundError:
            raise ConfigError(
                f"cannot read kubeconfig {path}: no such file", "Pass --kubeconfig FILE"
            ) from None
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read kubeconfig {path}: {cause_of(error)}") from None
        return _Reader(path, document).resolve()

    def ssl_context(self) -> ssl.SSLContext | None:
        """TLS for this server, or None where the URL is plain http. Raises ConfigError on unusable PEM."""
        if not self.server.startswith("https://"):
            return None
        try:
            context = ssl.create_default_context(cadata=self.ca.decode() if self.ca else None)
            if self.certificate:
                _load_chain(context, self.certificate, self.key)
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError(f"cannot use the certificates for {self.server}: {error}") from None
        return context


class Bearer:
    """The token to send now.

    That of a ``tokenFile`` changes while it is in use (kubelet renews a pod's, by another file of the same name), so it
    is looked at before each request, which costs one stat(2). While it cannot be read the last one is sent, as by
    client-go.
    """

    def __init__(self, kubeconfig: Kubeconfig) -> None:
        self._token = kubeconfig.token
        self._file = kubeconfig.token_file
        self._read_from: tuple[int, int, int] | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What a request is to carry; nothing where there is no token."""
        if self._file is not None:
            self._look(self._file)
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def _look(self, file: Path) -> None:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            found = file.stat()
            identity = (found.st_dev, found.st_ino, found.st_mtime_ns)
            if identity != self._read_from and (token := file.read_text().strip()):
                self._token, self._read_from = token, identity


def _load_chain(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """OpenSSL takes a client certificate only from a file: give it one for the moment of reading."""
    descriptor, name = tempfile.mkstemp(prefix="netplane-", suffix=".pem")
    try:
        os.write(descriptor, certificate + b"\n" + key)
        os.close(descriptor)
        context.load_cert_chain(name)
    finally:
        Path(name).unlink()


class _Reader:
    """Follows ``current-context`` through a kubeconfig, saying where it breaks off."""

    def __init__(self, path: Path, document: Any) -> None:
        self._path = path
        if not isinstance(document, dict):
            raise ConfigError(f"cannot read kubeconfig {path}: it is not a mapping")
        self._document = document

    def resolve(self) -> Kubeconfig:
        current = self._document.get("current-context")
        if not current:
            raise self._error("current-context is missing")
        context = self._named("contexts", "context", str(current))
        cluster = self._named("clusters", "cluster", str(context.get("cluster") or ""))
        user = self._named("users", "user", str(context.get("user") or ""))
        for section, entry in (("users", user), ("clusters", cluster)):
            for field in UNSUPPORTED[section]:
                if entry.get(field) not in (None, False, ""):
                    raise self._error(f"{section}: {field!r} is not supported by netplane")
        server = cluster.get("server")
        if not isinstance(server, str):
            raise self._error("clusters: 'server' is missing")
        token_file = self._path.parent / str(user["tokenFile"]) if user.get("tokenFile") else None
        return Kubeconfig(
            server=server.rstrip("/"),
            ca=self._pem(cluster, "certificate-authority"),
            certificate=self._pem(user, "client-certificate"),
            key=self._pem(user, "client-key"),
            token=self._token(token_file) if token_file is not None else str(user.get("token") or ""),
            token_file=token_file,
        )

    def _named(self, section: str, field: str, name: str) -> dict[str, Any]:
        for entry in self._document.get(section) or []:
            if entry.get("name") == name:
                return entry.get(field) or {}
        raise self._error(f"{section}: there is no entry named {name!r}")

    def _pem(self, entry: dict[str, Any], field: str) -> bytes:
        try:
            if data := entry.get(f"{field}-data"):
                return base64.b64decode(data, validate=True)
            if file := entry.get(field):
                return (self._path.parent / str(file)).read_bytes()
        except (ValueError, OSError) as error:
            raise self._error(f"{field}: {cause_of(error)}") from None
        return b""

    def _token(self, file: Path) -> str:
        try:
            token = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise self._error(f"tokenFile {file}: {cause_of(error)}") from None
        if not token:
            raise self._error(f"tokenFile {file}: it is empty")
        return token

    def _error(self, cause: str) -> ConfigError:
        return ConfigError(f"cannot use kubeconfig {self._path}: {cause}")


def render(
    server: str, ca: bytes, certificate: bytes, key: bytes, user: str, cluster: str = "netplane"
) -> str:
    """The text of a kubeconfig with one context, credentials embedded. Write it with mode 0600."""

    def encoded(pem: bytes) -> str:
        return base64.b64encode(pem).decode()

    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": cluster, "cluster": {"server": server, "certificate-authority-data": encoded(ca)}}
        ],
        "users": [
            {
                "name": user,
                "user": {"client-certificate-data": encoded(certificate), "client-key-data": encoded(key)},
            }
        ],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": user}}],
        "current-context": cluster,
    }
    return yaml.safe_dump(document, sort_keys=False)
