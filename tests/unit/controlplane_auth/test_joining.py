"""A machine joins: tokens, refusals that name the field, and the files it ends up with."""

import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from controlplane.auth import enroll, pki
from controlplane.auth.enroll import Enrolment, presented_chain, trusted_authority
from controlplane.auth.join import Tokens, answer
from controlplane.auth.pki import Authority
from netplane.errors import ConfigError, PeerError
from netplane.kube.errors import StatusError
from netplane.kube.kubeconfig import Kubeconfig

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
SERVER = "https://192.168.77.10:6443"
CLUSTER = {"clusterDomain": "cluster.local"}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca")


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path / "tokens.json")


def node(name: str, *addresses: str) -> dict:
    listed = [{"type": "InternalIP", "address": address} for address in addresses]
    return {"metadata": {"name": name}, "status": {"addresses": listed}}


def ask(body, authority: Authority, tokens: Tokens, nodes=(), now: datetime = NOW):
    return answer(body, authority=authority, tokens=tokens, nodes=nodes, cluster=CLUSTER, now=now)


def test_from_token_to_files(authority: Authority, tokens: Tokens, tmp_path: Path):
    machine = Enrolment.begin("n4", ["192.168.77.14"])
    response = ask(machine.request(tokens.create(NOW)), authority, tokens)
    assert response["cluster"] == CLUSTER
    machine.write(tmp_path / "etc", response, SERVER)
    pki_dir = tmp_path / "etc" / "pki"
    serving = x509.load_pem_x509_certificate((pki_dir / "node.crt").read_bytes())
    assert authority.vouches_for(serving, ["n4", "192.168.77.14", "127.0.0.1"])
    assert pki.load_key(pki_dir / "node.key").public_key() == serving.public_key()
    assert (pki_dir / "ca.crt").read_bytes() == authority.certificate_pem
    for daemon, user in {
        "node": "system:node:n4",
        "proxy": "system:kube-proxy:n4",
        "dns": "system:dns:n4",
    }.items():
        path = tmp_path / "etc" / f"{daemon}.kubeconfig"
        assert path.stat().st_mode & 0o777 == 0o600
        config = Kubeconfig.load(path)
        assert config.ssl_context() is not None  # the key fits the certificate
        assert user in x509.load_pem_x509_certificate(config.certificate).subject.rfc4514_string()


def test_the_subject_is_the_authority_s_choice(authority: Authority, tokens: Tokens):
    body = Enrolment.begin("n4", ["192.168.77.14"]).request(tokens.create(NOW))
    body["csrs"]["node"] = pki.signing_request(pki.new_key(), "kubernetes-admin").decode()
    certificate = ask(body, authority, tokens)["certificates"]["node"].encode()
    names = x509.load_pem_x509_certificate(certificate).subject.rfc4514_string()
    assert names == "CN=system:node:n4,O=system:nodes"


def test_tokens_end_and_can_be_revoked(tokens: Tokens):
    first, second = tokens.create(NOW), tokens.create(NOW)
    assert tokens.accepts(first, NOW)
    assert tokens.accepts(second, NOW + timedelta(hours=23))
    assert not tokens.accepts(second, NOW + timedelta(hours=24))
    assert tokens.revoke(first)
    assert not tokens.revoke(first)
    assert not tokens.accepts(first, NOW)
    assert not tokens.accepts("", NOW)
    text = tokens.path.read_text()
    assert first not in text
    assert second not in text
    assert tokens.path.stat().st_mode & 0o777 == 0o600
    tokens.create(NOW + timedelta(days=2))
    assert len(tokens.path.read_text().splitlines()) == 3, "the ended token is dropped"


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1}', '{"a": "yesterday"}'])
def test_a_broken_token_file_is_named(tokens: Tokens, text: str):
    tokens.path.write_text(text)
    with pytest.raises(ConfigError, match=r"tokens\.json"):
        tokens.accepts("abcdef.0123456789abcdef", NOW)


@pytest.mark.parametrize("token", [None, 3, "", "abcdef.0123456789abcdef", "../etc"])
def test_an_unknown_token_is_a_401_before_anything_else(authority: Authority, tokens: Tokens, token):
    tokens.create(NOW)
    with pytest.raises(StatusError) as caught:
        ask({"token": token, "nodeName": 7}, authority, tokens)
    assert (caught.value.code, caught.value.reason) == (401, "Unauthorized")


def test_a_body_that_is_no_object_is_a_400(authority: Authority, tokens: Tokens):
    with pytest.raises(StatusError) as caught:
        ask(["token"], authority, tokens)
    assert caught.value.code == 400


def rsa_request() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, pki.hashes.SHA256()).public_bytes(pki.serialization.Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"nodeName": "N4"}, "nodeName"),
        ({"nodeName": None}, "nodeName"),
        ({"nodeName": "a/../b"}, "nodeName"),
        ({"addresses": []}, "addresses"),
        ({"addresses": "192.168.77.14"}, "addresses"),
        ({"addresses": ["192.168.77.14", "x"]}, "addresses[1]"),
        ({"addresses": ["127.0.0.1"]}, "addresses[0]"),
        ({"addresses": [True]}, "addresses[0]"),
        ({"csrs": None}, "csrs.node"),
        ({"csrs.proxy": 3}, "csrs.proxy"),
        ({"csrs.dns": "-----BEGIN"}, "csrs.dns"),
        ({"csrs.serving": "é"}, "csrs.serving"),
        ({"csrs.node": rsa_request()}, "csrs.node"),
    ],
)
def test_what_is_wrong_is_named(authority: Authority, tokens: Tokens, change: dict, field: str):
    body = Enrolment.begin("n4", ["192.168.77.14"]).request(tokens.create(NOW))
    for path, value in change.items():
        target, _, leaf = path.rpartition(".")
        (body[target] if target else body)[leaf] = value
    with pytest.raises(StatusError) as caught:
        ask(body, authority, tokens)
    assert caught.value.code == 422
    assert field in {cause["field"] for cause in caught.value.details["causes"]}


@pytest.mark.parametrize(
    ("nodes", "cause"),
    [
        ([], None),
        ([node("n4", "192.168.77.14")], None),
        ([node("n4")], None),
        ([node("n1", "192.168.77.11")], None),
        ([node("n4", "192.168.77.99")], "a node of this name exists at 192.168.77.99"),
        ([node("n1", "192.168.77.14")], "address 192.168.77.14 belongs to node n1"),
    ],
)
def test_a_name_and_an_address_belong_to_one_machine(authority, tokens, nodes, cause):
    body = Enrolment.begin("n4", ["192.168.77.14"]).request(tokens.create(NOW))
    if cause is None:
        ask(body, authority, tokens, nodes)
        return
    with pytest.raises(StatusError, match=cause) as caught:
        ask(body, authority, tokens, nodes)
    assert caught.value.code == 409


def test_an_answer_that_lacks_something_is_the_peer_s_fault(tmp_path: Path, authority: Authority):
    machine = Enrolment.begin("n4", ["192.168.77.14"])
    with pytest.raises(PeerError, match="certificates"):
        machine.write(tmp_path, {"ca": authority.certificate_pem.decode()}, SERVER)
    assert not list(tmp_path.glob("**/node.crt"))


def test_only_the_typed_hash_is_trusted(authority: Authority, tmp_path: Path):
    leaf = authority.issue_server("kube-apiserver", ["localhost"])
    der = pki.serialization.Encoding.DER
    chain = [leaf.certificate.public_bytes(der), authority.certificate.public_bytes(der)]
    assert trusted_authority(chain, authority.hash) == authority.certificate_pem
    other = Authority.create(tmp_path / "other")
    with pytest.raises(ConfigError, match="cannot trust the API server"):
        trusted_authority(chain, other.hash)
    with pytest.raises(ConfigError, match="--ca-hash"):
        trusted_authority(chain, "sha256:abc")


def test_a_server_presents_its_authority(authority: Authority, tmp_path: Path):
    authority.issue_server("kube-apiserver", ["localhost"]).write(tmp_path / "s.crt", tmp_path / "s.key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "s.crt", tmp_path / "s.key")
    with enroll.socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with context.wrap_socket(connection, server_side=True) as tls:
                tls.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        chain = presented_chain("127.0.0.1", listener.getsockname()[1])
        thread.join(10)
        port = listener.getsockname()[1]
    assert trusted_authority(chain, authority.hash) == authority.certificate_pem
    with pytest.raises(PeerError, match="cannot reach the API server"):
        presented_chain("127.0.0.1", port)
