"""Certificates of localhost."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=localhost"]
_AUTHORITY = """
[ca]
default_ca = here
[here]
database = {0}/issued
serial = {0}/serial
new_certs_dir = {0}
default_md = sha256
policy = any
x509_extensions = names
[any]
commonName = supplied
[names]
subjectAltName = DNS:localhost
"""


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Return the files of a certificate that nobody else vouches for, and of its key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    names = ["-addext", "subjectAltName=DNS:localhost"]
    _run("req", "-x509", *_KEY, *names, "-days", "2", "-out", str(cert), "-keyout", str(key))
    return cert, key


def expired(folder: Path) -> tuple[Path, Path]:
    """Return the files of one that was good in January 2020 alone."""
    cert, key, asked, config = (folder / name for name in ("old.pem", "old.key", "old.csr", "ca.cnf"))
    config.write_text(_AUTHORITY.format(folder))
    (folder / "issued").touch()
    (folder / "serial").write_text("01\n")
    _run("req", "-new", *_KEY, "-keyout", str(key), "-out", str(asked))
    when = ["-startdate", "20200101000000Z", "-enddate", "20200201000000Z"]
    signing = ["-batch", "-config", str(config), "-selfsign", "-keyfile", str(key)]
    _run("ca", *signing, *when, "-in", str(asked), "-out", str(cert))
    return cert, key


def _run(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)
