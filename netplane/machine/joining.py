"""A further machine joins a cluster: a token from its control plane buys this node's certificates.

The control plane is believed by the hash of its CA, which a person typed; only then the token is sent.
"""

import ipaddress
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from controlplane.auth import enroll
from controlplane.auth.enroll import Enrolment
from netplane.config import IPAddress, Paths
from netplane.errors import ConfigError, PeerError, cause_of
from netplane.machine import before, setup
from netplane.node import address as node_address
from netplane.node.supervise import files as supervise_files

SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Invitation:
    """`TOKEN@HOST[:PORT]`."""

    token: str
    host: str
    port: int

    @property
    def server(self) -> str:
        """The API's URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Joined:
    """The cluster, and who this machine is in it."""

    server: str
    node: str


def parse(text: str) -> Invitation:
    """Read `TOKEN@HOST[:PORT]`. Raises ConfigError saying what is wrong with it."""
    token, at, place = text.partition("@")
    try:
        parts = urlsplit(f"//{place}")
        port = parts.port or setup.API_PORT
        host = parts.hostname or ""
    except ValueError as error:
        raise ConfigError(f"cannot use --join {text!r}: {error}") from None
    if not (token and at and host) or parts.path:
        raise ConfigError(f"cannot use --join {text!r}: it is TOKEN@HOST or TOKEN@HOST:PORT")
    return Invitation(token, host, port)


def join(root: Path, text: str, ca_hash: str, name: str | None = None) -> Joined:
    """Make the machine at `root` a node of that cluster. Blocks.

    Raises ConfigError for what was typed, PeerError with the control plane's refusal.
    """
    invitation = parse(text)
    paths = Paths(root.absolute())
    node = setup.node_name(name)
    ca = enroll.trusted_authority(enroll.presented_chain(invitation.host, invitation.port), ca_hash)
    before.record(paths.root)
    address = _own_address(invitation)
    enrolment = Enrolment.begin(node, [address])
    answer = _post(invitation, ca, enrolment.request(invitation.token))
    enrolment.write(paths.etc, answer, invitation.server)
    _settle(paths, enrolment.node, address, answer.get("cluster") or {})
    return Joined(invitation.server, enrolment.node)


def _settle(paths: Paths, node: str, address: IPAddress, cluster: Mapping[str, Any]) -> None:
    """The cluster's own numbers into every settings file that has them."""
    pods, services = cluster.get("clusterCIDRs"), cluster.get("serviceCIDRs")
    dns, domain = cluster.get("dnsAddresses"), cluster.get("clusterDomain")
    shared = {"clusterCIDRs": pods, "dnsAddresses": dns, "clusterDomain": domain}
    setup.furnish_node(paths, node, {"nodeIp": str(address), **_known(shared)})
    setup.merge(paths.etc / "proxy.yaml", _known({"clusterCIDRs": pods, "serviceCIDRs": services}))
    answered = {"addresses": dns, "clusterDomain": domain, "serviceCIDRs": services, "clusterCIDRs": pods}
    setup.merge(paths.etc / "dns.yaml", _known(answered))
    supervise_files.write(paths.root, supervise_files.NODE)


def _known(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value}


def _own_address(invitation: Invitation) -> IPAddress:
    """Our address on the way to the control plane."""
    try:
        destination = ipaddress.ip_address(invitation.host)
    except ValueError:
        destination = setup.SOMEWHERE_ELSE
    return node_address.choose(node_address.look_up([destination]))


def _post(invitation: Invitation, ca: bytes, body: Mapping[str, Any]) -> Mapping[str, Any]:
    request = urllib.request.Request(
        f"{invitation.server}/netplane/v1/join",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
        method="POST",
    )
    context = ssl.create_default_context(cadata=ca.decode())
    try:
        with urllib.request.urlopen(request, timeout=SECONDS, context=context) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        raise PeerError(f"cannot join through {invitation.server}: {_message(error)}") from None
    except (OSError, ValueError) as error:  # urllib wraps the system's own
        reason = getattr(error, "reason", error)
        cause = cause_of(reason if isinstance(reason, OSError) else error)
        raise PeerError(f"cannot join through {invitation.server}: {cause}") from None


def _message(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["message"])
    except (ValueError, KeyError, TypeError):
        return f"it answered {error.code}"
