"""Certificates for a server on the loopback address, with an authority of their own."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from walstream.errors import MissingExtra


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files of one authority, and of a server and a client that it vouches for.

    Parameters
    ----------
    authority
        The authority's certificate, PEM.
    server
        The server's key and chain in one file, PEM.
    keystore, password
        The same as PKCS #12.
    client, client_key
        A client's certificate and key, PEM.
    """

    authority: Path
    server: Path
    keystore: Path
    password: str
    client: Path
    client_key: Path

    def context(self) -> ssl.SSLContext:
        """Make a client's context that trusts this authority only."""
        return ssl.create_default_context(cafile=str(self.authority))


def make_certificates(folder: Path) -> Certificates:
    """Make an authority, and by it a server for ``localhost`` and ``127.0.0.1`` and a client; valid for 30 days.

    Raises
    ------
    MissingExtra
        The library ``cryptography`` is not installed.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import pkcs12
        from cryptography.x509.oid import NameOID
    except ImportError as error:
        raise MissingExtra("Making certificates", "test") from error

    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def certificate(
        subject: str, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey
    ) -> x509.Certificate:
        authority = key is signer
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("walstream local authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        )
        if authority:
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        else:
            names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(signer, hashes.SHA256())

    def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return key.private_bytes(*form)

    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
    authority = certificate("walstream local authority", keys[0], keys[0])
    server = certificate("localhost", keys[1], keys[0])
    client = certificate("walstream client", keys[2], keys[0])
    made = Certificates(
        folder / "authority.pem",
        folder / "server.pem",
        folder / "server.p12",
        "changeit",
        folder / "client.pem",
        folder / "client.key",
    )
    as_pem = serialization.Encoding.PEM
    made.authority.write_bytes(authority.public_bytes(as_pem))
    made.server.write_bytes(pem(keys[1]) + server.public_bytes(as_pem) + authority.public_bytes(as_pem))
    locked = serialization.BestAvailableEncryption(made.password.encode())
    made.keystore.write_bytes(pkcs12.serialize_key_and_certificates(b"server", keys[1], server, [authority], locked))
    made.client.write_bytes(client.public_bytes(as_pem))
    made.client_key.write_bytes(pem(keys[2]))
    for secret in (made.server, made.keystore, made.client_key):
        secret.chmod(0o600)
    return made
