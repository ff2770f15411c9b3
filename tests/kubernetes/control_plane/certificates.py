"""A certificate authority for tests, with certificates of servers and users."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates that are kept in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.own = Pair(folder / "ca.crt", folder / "ca.key")
        self._key(self.own.key)
        _openssl("req", "-x509", "-new", "-key", self.own.key, "-subj", "/CN=partita-test", "-days", 2,
                 "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-out", self.own.certificate)  # fmt: skip

    def _key(self, at: Path) -> None:
        _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", at)
        at.chmod(0o600)

    def sign(self, name: str, user: str, group: str = "", addresses: tuple[str, ...] = ()) -> Pair:
        """Return a certificate for a user of a group, or for a server at addresses."""
        pair = Pair(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        request, extra = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        self._key(pair.key)
        subject = (f"/O={group}" if group else "") + f"/CN={user}"
        _openssl("req", "-new", "-key", pair.key, "-subj", subject, "-out", request)
        lines = ["extendedKeyUsage=serverAuth,clientAuth", "keyUsage=critical,digitalSignature"]
        if addresses:
            kinds = (f"{'IP' if each[0].isdigit() else 'DNS'}:{each}" for each in addresses)
            lines.append("subjectAltName=" + ",".join(kinds))
        extra.write_text("\n".join(lines))
        _openssl("x509", "-req", "-in", request, "-CA", self.own.certificate, "-CAkey", self.own.key,
                 "-CAcreateserial", "-days", 2, "-extfile", extra, "-out", pair.certificate)  # fmt: skip
        return pair

    def signing_key(self, name: str) -> tuple[Path, Path]:
        """Return a private and a public key, such as service accounts' tokens are signed and checked with."""
        private, public = self.folder / f"{name}.key", self.folder / f"{name}.pub"
        self._key(private)
        _openssl("ec", "-in", private, "-pubout", "-out", public)
        return private, public


def _openssl(*words: object) -> None:
    done = subprocess.run(
        ["openssl", *(str(word) for word in words)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"openssl {words[0]}: {done.stderr.strip()}")
