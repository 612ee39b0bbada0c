"""The authority: chains that OpenSSL accepts, names, modes of files, and files that are made only once."""

import ipaddress
import ssl
import stat
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from controlplane.auth import pki
from controlplane.auth.files import write_cluster, write_node
from controlplane.auth.pki import Authority, Pair
from netplane.errors import ConfigError
from netplane.kube.kubeconfig import Kubeconfig

SERVER = "https://192.168.77.10:6443"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def names_in(pair: Pair) -> set[str]:
    return {str(name.value) for name in pki.general_names(pair.certificate)}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "pki")


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> ssl.SSLObject:
    """A TLS handshake in memory. Gives the server's side; raises what the failing side raises."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    there = server.wrap_bio(to_server, to_client, server_side=True)
    here = client.wrap_bio(to_client, to_server, server_hostname=host)
    for _ in range(4):
        for side in (here, there):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return there


def server_context(directory: Path, pair: Pair) -> ssl.SSLContext:
    pair.write(directory / "s.crt", directory / "s.key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "s.crt", directory / "s.key")
    context.load_verify_locations(cadata=(directory / "pki" / "ca.crt").read_text())
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(directory: Path, pair: Pair, ca: bytes) -> ssl.SSLContext:
    pair.write(directory / "c.crt", directory / "c.key")
    context = ssl.create_default_context(cadata=ca.decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_cert_chain(directory / "c.crt", directory / "c.key")
    return context


def test_client_and_server_certificates_make_a_mutual_handshake(authority: Authority, tmp_path: Path):
    server = server_context(tmp_path, authority.issue_server("kube-apiserver", ["localhost", "10.96.0.1"]))
    client = client_context(
        tmp_path, authority.issue_client("kubernetes-admin", ["system:masters"]), authority.certificate_pem
    )
    for host in ("localhost", "10.96.0.1"):
        peer = handshake(server, client, host).getpeercert()
        assert peer is not None
        assert (("commonName", "kubernetes-admin"),) in peer["subject"]
        assert (("organizationName", "system:masters"),) in peer["subject"]
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        handshake(server, client, "10.96.0.2")


def test_another_authority_is_not_believed(authority: Authority, tmp_path: Path):
    stranger = Authority.create(tmp_path / "other")
    server = server_context(tmp_path, stranger.issue_server("kube-apiserver", ["localhost"]))
    client = client_context(tmp_path, authority.issue_client("x"), authority.certificate_pem)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, client, "localhost")


def test_a_serving_certificate_is_no_client_certificate(authority: Authority, tmp_path: Path):
    server = server_context(tmp_path, authority.issue_server("kube-apiserver", ["localhost"]))
    impostor = authority.issue_server("kubernetes-admin", ["n1"])
    client = client_context(tmp_path, impostor, authority.certificate_pem)
    with pytest.raises(ssl.SSLError):
        handshake(server, client, "localhost")


def test_certificates_say_what_they_are_for(authority: Authority):
    client = authority.issue_client("system:node:n1", ["system:nodes"]).certificate
    server = authority.issue_server("n1", ["n1", "192.168.77.11", "::1", "n1"]).certificate
    for leaf, usage in (
        (client, ExtendedKeyUsageOID.CLIENT_AUTH),
        (server, ExtendedKeyUsageOID.SERVER_AUTH),
    ):
        assert list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [usage]
        assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
        key = leaf.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert key.curve.name == "secp256r1"
    alternatives = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(alternatives) == [
        x509.DNSName("n1"),
        x509.IPAddress(ipaddress.ip_address("192.168.77.11")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    assert authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is True


def test_create_again_loads(tmp_path: Path):
    first = Authority.create(tmp_path)
    before = contents(tmp_path)
    assert Authority.create(tmp_path).certificate == first.certificate
    assert contents(tmp_path) == before
    assert mode(tmp_path / "ca.key") == 0o600


def test_a_key_left_by_a_crash_is_replaced(tmp_path: Path):
    (tmp_path / "ca.key").write_text("half a key")
    authority = Authority.create(tmp_path)
    assert Authority.load(tmp_path).certificate == authority.certificate


def test_a_lost_or_foreign_authority_key_is_named(tmp_path: Path):
    Authority.create(tmp_path / "a")
    (tmp_path / "a" / "ca.key").unlink()
    with pytest.raises(ConfigError, match=r"ca\.key is missing"):
        Authority.create(tmp_path / "a")
    Authority.create(tmp_path / "b")
    (tmp_path / "a" / "ca.key").write_bytes((tmp_path / "b" / "ca.key").read_bytes())
    with pytest.raises(ConfigError, match=r"ca\.key is not the key of ca\.crt"):
        Authority.create(tmp_path / "a")
    (tmp_path / "a" / "ca.key").write_text("nonsense")
    with pytest.raises(ConfigError, match=r"ca\.key is not an unencrypted PEM private key"):
        Authority.load(tmp_path / "a")


def test_write_cluster_makes_what_a_control_plane_needs(tmp_path: Path):
    authority = write_cluster(tmp_path, server=SERVER, addresses=["192.168.77.10"], names=["m1"])
    assert sorted(contents(tmp_path)) == [
        "admin.kubeconfig",
        "controlplane.kubeconfig",
        *(f"pki/apiserver-kubelet-client.{end}" for end in ("crt", "key")),
        *(f"pki/apiserver.{end}" for end in ("crt", "key")),
        *(f"pki/ca.{end}" for end in ("crt", "key")),
        "pki/sa.key",
    ]
    for path in (*tmp_path.rglob("*.key"), *tmp_path.glob("*.kubeconfig")):
        assert mode(path) == 0o600, path
    pki_dir = tmp_path / "pki"
    serving = Pair((pki_dir / "apiserver.crt").read_bytes(), (pki_dir / "apiserver.key").read_bytes())
    assert names_in(serving) == {
        *("kubernetes", "kubernetes.default", "kubernetes.default.svc"),
        *("kubernetes.default.svc.cluster.local", "localhost", "m1"),
        *("127.0.0.1", "::1", "10.96.0.1", "192.168.77.10"),
    }
    admin = Kubeconfig.load(tmp_path / "admin.kubeconfig")
    assert admin.server == SERVER
    assert admin.ca == authority.certificate_pem
    subject = x509.load_pem_x509_certificate(admin.certificate).subject
    assert [a.value for a in subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["kubernetes-admin"]
    assert [a.value for a in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)] == ["system:masters"]


def test_write_node_gives_one_identity_to_each_daemon(tmp_path: Path):
    authority = write_cluster(tmp_path / "m1", server=SERVER, addresses=["192.168.77.10"])
    write_node(tmp_path / "n1", authority, node="n1", addresses=["192.168.77.11"], server=SERVER)
    users = {}
    for daemon in ("node", "proxy", "dns"):
        config = Kubeconfig.load(tmp_path / "n1" / f"{daemon}.kubeconfig")
        subject = x509.load_pem_x509_certificate(config.certificate).subject
        users[daemon] = tuple(str(attribute.value) for attribute in subject)
    assert users == {
        "node": ("system:nodes", "system:node:n1"),
        "proxy": ("system:node-proxier", "system:kube-proxy:n1"),
        "dns": ("netplane:dns", "system:dns:n1"),
    }
    assert not (tmp_path / "n1" / "pki" / "ca.key").exists()


def test_writing_again_changes_nothing_and_mends_what_is_wrong(tmp_path: Path):
    def write(server: str = SERVER, addresses: tuple[str, ...] = ("192.168.77.10",)) -> set[str]:
        before = contents(tmp_path) if tmp_path.exists() else {}
        write_cluster(tmp_path, server=server, addresses=addresses)
        return {name for name, content in contents(tmp_path).items() if before.get(name) != content}

    write()
    assert write() == set()
    assert write(addresses=("192.168.77.10", "10.0.0.1")) == {"pki/apiserver.crt", "pki/apiserver.key"}
    moved = write(server="https://10.0.0.1:6443", addresses=("192.168.77.10", "10.0.0.1"))
    assert moved == {"admin.kubeconfig", "controlplane.kubeconfig"}
    other = Authority.create(tmp_path.with_name("other")).issue_server("kube-apiserver", [])
    (tmp_path / "pki" / "apiserver.key").write_bytes(other.key_pem)
    again = write(server="https://10.0.0.1:6443", addresses=("192.168.77.10", "10.0.0.1"))
    assert again == {"pki/apiserver.crt", "pki/apiserver.key"}


def test_a_certificate_near_its_end_is_not_vouched_for(authority: Authority, monkeypatch: pytest.MonkeyPatch):
    leaf = authority.issue_client("x").certificate
    assert authority.vouches_for(leaf)
    monkeypatch.setattr(pki, "RENEW_BEFORE", timedelta(days=366))
    assert not authority.vouches_for(leaf)


def test_openssl_agrees_with_the_strict_profile(authority: Authority, tmp_path: Path):
    authority.issue_server("n1", ["n1"]).write(tmp_path / "n1.crt", tmp_path / "n1.key")
    command = [
        "openssl",
        "verify",
        "-x509_strict",
        "-CAfile",
        tmp_path / "pki" / "ca.crt",
        tmp_path / "n1.crt",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_hash_of_the_authority_is_kubeadm_s(authority: Authority, tmp_path: Path):
    script = (
        "openssl x509 -pubkey -noout -in ca.crt | openssl pkey -pubin -outform der | openssl dgst -sha256 -r"
    )
    done = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path / "pki", capture_output=True, text=True, check=True
    )
    assert authority.hash == f"sha256:{done.stdout.split()[0]}"
