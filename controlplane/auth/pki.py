"""The cluster's certificate authority: without it no part of netplane believes another.

Keys are ECDSA P-256. Files of keys have mode 0600 from their first byte and are written before
their certificate, both by rename: a crash leaves a key that nobody knows, never a certificate without its key.
Making what exists already is a load: every `create` may be run again.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from netplane.errors import ConfigError, cause_of

AUTHORITY_NAME = "netplane-ca"
AUTHORITY_LIFE = timedelta(days=3650)
LEAF_LIFE = timedelta(days=365)
CLOCK_SKEW = timedelta(minutes=5)
"""Machines' clocks differ: a certificate is valid from a little before it was made."""
RENEW_BEFORE = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate (leaf first, then its authority) and its private key, both PEM."""

    certificate_pem: bytes
    key_pem: bytes

    @property
    def certificate(self) -> x509.Certificate:
        """The leaf."""
        return x509.load_pem_x509_certificate(self.certificate_pem)

    def write(self, certificate: Path, key: Path) -> None:
        """Both files, the key first and readable by its owner only."""
        write_file(key, self.key_pem, 0o600)
        write_file(certificate, self.certificate_pem, 0o644)


def write_file(path: Path, content: bytes, mode: int) -> None:
    """Replace `path` by rename; the bytes are never readable beyond `mode`, and are on the disk first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    partial.rename(path)


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key as unencrypted PKCS #8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The private key in a PEM file. Raises OSError, or ValueError saying what the file holds instead."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{path.name} is not an unencrypted PEM private key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path.name} is not an elliptic curve key")
    return key


def signing_request(key: ec.EllipticCurvePrivateKey, common_name: str) -> bytes:
    """A certificate signing request (PEM) that proves possession of `key`."""
    request = x509.CertificateSigningRequestBuilder().subject_name(_subject(common_name, ()))
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def key_hash(certificate: x509.Certificate) -> str:
    """`sha256:<hex>` of the SubjectPublicKeyInfo of a certificate."""
    public = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return "sha256:" + hashlib.sha256(public).hexdigest()


@dataclass(frozen=True, slots=True)
class Authority:
    """The key and certificate that sign everything else in one cluster."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, directory: Path) -> Authority:
        """Make `ca.crt` and `ca.key` in `directory`, or load them if they are there.

        Raises ConfigError when only the certificate is left: its key cannot be made again.
        """
        if (directory / "ca.crt").exists():
            return cls.load(directory)
        key = new_key()
        subject = _subject(AUTHORITY_NAME, ())
        now = datetime.now(UTC)
        builder = (
            _builder(subject, subject, key.public_key(), now, AUTHORITY_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
        )
        authority = cls(builder.sign(key, hashes.SHA256()), key)
        Pair(authority.certificate_pem, key_pem(key)).write(directory / "ca.crt", directory / "ca.key")
        return authority

    @classmethod
    def load(cls, directory: Path) -> Authority:
        """The authority in `directory`. Raises ConfigError naming the file that is missing or wrong."""
        try:
            certificate = x509.load_pem_x509_certificate((directory / "ca.crt").read_bytes())
            key = load_key(directory / "ca.key")
        except FileNotFoundError as error:
            raise ConfigError(
                f"cannot load the certificate authority: {error.filename} is missing",
                hint="Restore the file, or remove the directory to make a new authority for a new cluster",
            ) from error
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"cannot load the certificate authority in {directory}: {cause_of(error)}"
            ) from error
        if key.public_key() != certificate.public_key():
            raise ConfigError(
                f"cannot load the certificate authority in {directory}: ca.key is not the key of ca.crt"
            )
        return cls(certificate, key)

    @property
    def certificate_pem(self) -> bytes:
        """The certificate every client and server of the cluster trusts."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def hash(self) -> str:
        """What `--ca-hash` of a joining machine is compared with."""
        return key_hash(self.certificate)

    def issue_client(self, common_name: str, organizations: Sequence[str] = ()) -> Pair:
        """A client certificate: the user is `common_name`, its groups are `organizations`."""
        key = new_key()
        return Pair(self._client(key.public_key(), common_name, organizations), key_pem(key))

    def issue_server(self, common_name: str, sans: Iterable[str]) -> Pair:
        """A serving certificate for the names and addresses in `sans`."""
        key = new_key()
        return Pair(self._server(key.public_key(), common_name, sans), key_pem(key))

    def sign_client(self, request_pem: bytes, common_name: str, organizations: Sequence[str]) -> bytes:
        """A client certificate (PEM) for the key of a signing request; the request's own names are ignored.

        Raises ValueError saying what is wrong with the request.
        """
        return self._client(requested_key(request_pem), common_name, organizations)

    def sign_server(self, request_pem: bytes, common_name: str, sans: Iterable[str]) -> bytes:
        """As `sign_client`, for a serving certificate."""
        return self._server(requested_key(request_pem), common_name, sans)

    def _client(
        self, key: ec.EllipticCurvePublicKey, common_name: str, organizations: Sequence[str]
    ) -> bytes:
        return self._sign(key, _subject(common_name, organizations), ExtendedKeyUsageOID.CLIENT_AUTH, ())

    def _server(self, key: ec.EllipticCurvePublicKey, common_name: str, sans: Iterable[str]) -> bytes:
        return self._sign(key, _subject(common_name, ()), ExtendedKeyUsageOID.SERVER_AUTH, tuple(sans))

    def _sign(
        self,
        key: ec.EllipticCurvePublicKey,
        subject: x509.Name,
        purpose: x509.ObjectIdentifier,
        sans: tuple[str, ...],
    ) -> bytes:
        builder = (
            _builder(subject, self.certificate.subject, key, datetime.now(UTC), LEAF_LIFE)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
        )
        if sans:
            names = [_general_name(name) for name in dict.fromkeys(sans)]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        leaf = builder.sign(self.key, hashes.SHA256())
        return leaf.public_bytes(serialization.Encoding.PEM) + self.certificate_pem

    def vouches_for(self, certificate: x509.Certificate, sans: Iterable[str] = ()) -> bool:
        """Whether the certificate is ours, has all of `sans`, and is not near its end."""
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        if certificate.not_valid_after_utc - RENEW_BEFORE < datetime.now(UTC):
            return False
        return {_general_name(name) for name in sans} <= set(general_names(certificate))


def requested_key(request_pem: bytes) -> ec.EllipticCurvePublicKey:
    """The key that a signing request proves to hold. Raises ValueError saying what is wrong with it."""
    try:
        request = x509.load_pem_x509_csr(request_pem)
        signed = request.is_signature_valid
        key = request.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"is not a PEM certificate signing request: {error}") from error
    if not signed:
        raise ValueError("is not signed by the key it holds")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("must hold an ECDSA P-256 key")
    return key


def general_names(certificate: x509.Certificate) -> tuple[x509.GeneralName, ...]:
    """The subject alternative names of a certificate; none if it has no such extension."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(extension.value)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _subject(common_name: str, organizations: Sequence[str]) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, name) for name in organizations]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    life: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
