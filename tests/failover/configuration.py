"""The files of docs/deploy/cluster, filled in for the hosts of the test: the documented configuration is what runs."""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.processes import ROOT

FILES = ROOT / "docs" / "deploy" / "cluster"
REFERENCE = re.compile(r"\$\{([A-Z0-9_]+)\}")
CERTIFICATE_DAYS = 2


def parse_environment(text: str) -> dict[str, str]:
    """The variables of an environment file."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def documented_variables() -> dict[str, str]:
    """The variables of cluster.vars, with the values that it suggests."""
    return parse_environment((FILES / "cluster.vars").read_text())


def fill_in(file_name: str, variables: Mapping[str, str]) -> str:
    """A file of docs/deploy/cluster with its `${NAME}` replaced; raises `KeyError` for a name that has no value."""
    return REFERENCE.sub(lambda match: variables[match[1]], (FILES / file_name).read_text())


def passwords() -> dict[str, str]:
    """A new password for each that cluster.vars declares."""
    return {name: secrets.token_hex(12) for name in documented_variables() if name.endswith("_PASSWORD")}


def certificate(address: str) -> tuple[str, str]:
    """A self-signed certificate for an IP address, and its private key, both in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, address)])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=CERTIFICATE_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return signed.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


def file_path(name: str) -> Path:
    """The path of a file that is used as it is."""
    return FILES / name
