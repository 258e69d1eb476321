"""Certificates for tests: an authority, and good and bad ones that it signs."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from synchro.wire.certificates import TlsFiles

DAY: Final = datetime.timedelta(days=1)
SERVER: Final = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT: Final = ExtendedKeyUsageOID.CLIENT_AUTH
HOSTS: Final = ("127.0.0.1", "localhost")


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def write_key(path: Path, key: ec.EllipticCurvePrivateKey, password: bytes = b"") -> str:
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, how))
    return str(path)


class Authority:
    """Who signs, in a directory of its own; `ca` is the file with its certificate."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.name = name
        self.key = ec.generate_private_key(ec.SECP256R1())
        cert = self._builder(name, name, self.key.public_key(), now() - DAY, now() + 30 * DAY)
        cert = cert.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.ca = self._write(f"{name}.pem", cert.sign(self.key, hashes.SHA256()))

    def issue(
        self,
        name: str,
        *,
        hosts: Iterable[str] = HOSTS,
        begins: datetime.datetime | None = None,
        ends: datetime.datetime | None = None,
        purposes: Iterable[x509.ObjectIdentifier] = (SERVER, CLIENT),
        is_self_signed: bool = False,
    ) -> TlsFiles:
        """A certificate and its key, in files of this name; those of an earlier one are replaced."""
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = name if is_self_signed else self.name
        cert = self._builder(
            name, issuer, key.public_key(), begins or now() - DAY, ends or now() + 30 * DAY
        ).add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        cert = cert.add_extension(x509.ExtendedKeyUsage(list(purposes)), critical=False)
        signed = cert.sign(key if is_self_signed else self.key, hashes.SHA256())
        return TlsFiles(
            self._write(f"{name}.pem", signed), write_key(self.directory / f"{name}.key", key), self.ca
        )

    def _builder(
        self,
        name: str,
        issuer: str,
        key: ec.EllipticCurvePublicKey,
        begins: datetime.datetime,
        ends: datetime.datetime,
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(issuer))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
        )

    def _write(self, name: str, cert: x509.Certificate) -> str:
        path = self.directory / name
        path.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        return str(path)
