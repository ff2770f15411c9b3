"""Certificates that cannot be used, that are out of their time, and that are replaced under servers that run."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
import subprocess
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from tests.dash.certificates import expired, self_signed
from tests.dash.test_server import Stream, Told, connect
from tests.dash.test_server import serving as dashboard
from tests.serve.gateway.fake_gateway import ECHO, FakeGateway
from tests.serve.gateway.transports import PATIENCE_S, serving

from partita.dash.access import Access
from partita.dash.gateway import GatewayPage
from partita.errors import InputError, PartitaError
from partita.serve.gateway.grpc_server import message
from partita.serve.tls import ClientTrust, ServerCertificate, Tls, server_context
from partita.serve.worker.listening import Greeter
from partita.serve.worker.spec import ListenSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return self_signed(tmp_path)


@pytest.fixture
def other(tmp_path: Path) -> tuple[Path, Path]:
    folder = tmp_path / "other"
    folder.mkdir()
    return self_signed(folder)


def replace(pair: tuple[Path, Path], other: tuple[Path, Path]) -> None:
    """Put another certificate and key in the place of a pair, each at once."""
    for old, new in zip(pair, other, strict=True):
        shutil.copy(new, new.with_suffix(".new"))
        new.with_suffix(".new").replace(old)


def status(port: int, cert: bytes | Path, path: str) -> int:
    """Return how a server answers those who trust one certificate alone."""
    trust = (
        ssl.create_default_context(cafile=cert)
        if isinstance(cert, Path)
        else ssl.create_default_context(cadata=cert.decode())
    )
    with closing(http.client.HTTPSConnection("localhost", port, context=trust, timeout=PATIENCE_S)) as link:
        link.request("GET", path)
        return link.getresponse().status


# What cannot be used


def encrypted(_: Path, key: Path) -> None:
    words = ["openssl", "pkey", "-aes128", "-passout", "pass:secret", "-in", str(key), "-out", f"{key}.new"]
    subprocess.run(words, check=True, capture_output=True)
    Path(f"{key}.new").replace(key)


def binary(cert: Path, _: Path) -> None:
    cert.write_bytes(ssl.PEM_cert_to_DER_cert(cert.read_text()))


def cut_off(cert: Path, _: Path) -> None:
    cert.write_text(cert.read_text()[:300])


def damaged(cert: Path, _: Path) -> None:
    text = cert.read_text()
    cert.write_text(text[:200] + "!" + text[201:])


def exchanged(cert: Path, key: Path) -> None:
    cert.rename(cert.with_suffix(".was"))
    key.rename(cert)
    cert.with_suffix(".was").rename(key)


def of_another(cert: Path, key: Path) -> None:
    folder = cert.parent / "another"
    folder.mkdir()
    shutil.copy(self_signed(folder)[1], key)


@pytest.mark.parametrize(
    ("spoil", "where", "why"),
    [
        (encrypted, "key.pem", "the key is encrypted"),
        (binary, "cert.pem", "no whole certificate in PEM"),
        (cut_off, "cert.pem", "no whole certificate in PEM"),
        (lambda cert, _: cert.write_text(""), "cert.pem", "no whole certificate in PEM"),
        (lambda _, key: key.write_bytes(b"\0\1\2"), "key.pem", "no whole private key in PEM"),
        (exchanged, "cert.pem", "no whole certificate in PEM"),
        (damaged, "cert.pem, ", "not a certificate with its key"),
        (of_another, "cert.pem, ", "the key is of another certificate"),
        (lambda _, key: key.unlink(), "key.pem", "no such file"),
        (lambda cert, _: (cert.unlink(), cert.mkdir()), "cert.pem", "a directory"),
    ],
)
def test_what_cannot_be_used_is_told_by_its_own_fault(
    pair: tuple[Path, Path],
    capfd: pytest.CaptureFixture[str],
    spoil: Callable[[Path, Path], object],
    where: str,
    why: str,
) -> None:
    spoil(*pair)
    with pytest.raises(InputError, match=why) as told:
        server_context(Tls(*pair))
    assert where in (told.value.where or "")
    assert capfd.readouterr() == ("", ""), "nobody is asked for a password"


def test_a_certificate_out_of_its_time_is_told_and_served(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    good = ServerCertificate(Tls(*pair), told.append)
    good.current()
    assert told == []
    now = 10 * 86_400 + int(pair[0].stat().st_mtime)
    monkeypatch.setattr("partita.serve.tls.time.time", lambda: now)
    for _ in range(2):
        good.current()
    assert len(told) == 1, "once"
    assert "expired on" in told[0]
    monkeypatch.setattr("partita.serve.tls.time.time", lambda: 86_400)
    ServerCertificate(Tls(*pair), told.append)
    assert "is not valid before" in told[1]
    folder = tmp_path / "old"
    folder.mkdir()
    monkeypatch.undo()
    ServerCertificate(Tls(*expired(folder)), told.append)
    assert told[2].endswith("expired on 2020-02-01 00:00 UTC: have it renewed")


# What is replaced


def test_the_one_from_before_is_served_until_the_new_files_belong_together(
    pair: tuple[Path, Path], other: tuple[Path, Path]
) -> None:
    told: list[str] = []
    certificate = ServerCertificate(Tls(*pair), told.append)
    first = certificate.current()
    assert certificate.current() is first
    shutil.copy(other[1], pair[1])
    assert certificate.current() is first
    assert certificate.current() is first
    assert len(told) == 1
    assert "the certificate from before is served" in told[0]
    assert "the key is of another certificate" in told[0]
    shutil.copy(other[0], pair[0])
    assert certificate.current() is not first
    assert told[1:] == [f"the certificate of {pair[0]} is another now"]
    for path in pair:
        path.unlink()
    certificate.current()
    assert "no such file" in told[2]


@pytest.fixture(params=["dash", "gateway"])
def server(request: pytest.FixtureRequest, pair: tuple[Path, Path]) -> Iterator[tuple[int, str]]:
    """Port and page of a server with a certificate."""
    if request.param == "dash":
        with dashboard(Told(), Access(tls=Tls(*pair))) as made:
            yield int(made.url.rstrip("/").rpartition(":")[2]), "/api/v1"
    else:
        with serving(FakeGateway(ECHO), tls=Tls(*pair)) as found:
            yield found.http, "/v2/health/ready"


def test_new_connections_get_the_new_certificate(
    server: tuple[int, str], pair: tuple[Path, Path], other: tuple[Path, Path]
) -> None:
    port, path = server
    before = pair[0].read_bytes()
    trust = ssl.create_default_context(cafile=pair[0])
    with closing(http.client.HTTPSConnection("localhost", port, context=trust, timeout=PATIENCE_S)) as open_:
        open_.request("GET", path)
        assert open_.getresponse().read()
        replace(pair, other)
        assert status(port, other[0], path) == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            status(port, before, path)
        open_.request("GET", path)
        assert open_.getresponse().status == 200, "those that are open go on"


def test_grpc_gets_the_new_certificate(pair: tuple[Path, Path], other: tuple[Path, Path]) -> None:
    with serving(FakeGateway(ECHO), tls=Tls(*pair)) as found:
        for rotated in (False, True):
            if rotated:
                replace(pair, other)
            credentials = grpc.ssl_channel_credentials(pair[0].read_bytes())
            with grpc.secure_channel(f"localhost:{found.grpc}", credentials) as channel:
                ask = channel.unary_unary(
                    "/inference.GRPCInferenceService/ServerLive",
                    response_deserializer=message("ServerLiveResponse").FromString,
                )
                assert ask(b"", timeout=PATIENCE_S, wait_for_ready=True).live


def test_a_worker_shows_the_new_certificate(pair: tuple[Path, Path], other: tuple[Path, Path]) -> None:
    notes: list[str] = []
    greeter = Greeter(
        ListenSpec("127.0.0.1", 0, cert=str(pair[0]), key=str(pair[1])),
        lambda stream: stream.close(),
        notes.append,
    )
    with greeter.listen() as listener:
        for rotated in (False, True):
            if rotated:
                replace(pair, other)
            trust = ssl.create_default_context(cafile=pair[0])
            with closing(socket.create_connection(listener.getsockname(), timeout=PATIENCE_S)) as asked:
                greeter.greet(listener.accept()[0])
                with trust.wrap_socket(asked, server_hostname="localhost") as sealed:
                    assert sealed.getpeercert()
    assert f"the certificate of {pair[0]} is another now" in notes


def test_clients_follow_the_authority_that_they_trust(
    pair: tuple[Path, Path], other: tuple[Path, Path], tmp_path: Path
) -> None:
    ca = tmp_path / "ca.pem"
    shutil.copy(pair[0], ca)
    with dashboard(Told(), Access(tls=Tls(*pair))) as made:
        page = GatewayPage(made.url, None, ca)
        page.read()
        replace(pair, other)
        with pytest.raises(PartitaError, match="CERTIFICATE_VERIFY_FAILED"):
            page.read()
        shutil.copy(other[0], ca)
        page.read()


def test_an_authority_that_cannot_be_read_any_more_is_trusted_on(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    ca = tmp_path / "ca.pem"
    shutil.copy(pair[0], ca)
    trust = ClientTrust(ca)
    first = trust.current()
    ca.write_text("half of")
    assert trust.current() is first
    shutil.copy(pair[0], ca)
    assert trust.current() is not first
    with pytest.raises(InputError, match="not a certificate of an authority"):
        ClientTrust(tmp_path / "none")


# Who speaks something else


def test_plain_http_at_the_port_of_tls_is_told(pair: tuple[Path, Path]) -> None:
    with dashboard(Told(), Access(tls=Tls(*pair))) as made:
        stream = Stream(made.url.replace("https:", "http:"))
        assert stream.answer.status == 400
        found = json.loads(stream.answer.read())
        assert found == {"error": "this port speaks TLS", "where": None, "hint": "use its https:// address"}
        stream.close()


def test_tls_that_comes_in_drops_is_tls(pair: tuple[Path, Path]) -> None:
    with dashboard(Told(), Access(tls=Tls(*pair))) as made, closing(connect(made.url)) as asked:
        there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        trust = ssl.create_default_context(cafile=pair[0])
        client = trust.wrap_bio(back, there, server_hostname="localhost")

        def send() -> None:
            for letter in there.read():
                asked.sendall(bytes((letter,)))

        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                send()
                back.write(asked.recv(65_536) or pytest.fail("it is closed"))
        client.write(b"GET /api/v1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        send()
        found = b""
        while b"\r\n" not in found:
            back.write(asked.recv(65_536) or pytest.fail("it is closed"))
            try:
                found += client.read(65_536)
            except ssl.SSLWantReadError:
                continue
        assert found.startswith(b"HTTP/1.1 200")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_tls_is_refused_and_harms_nobody(
    server: tuple[int, str], pair: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    port, path = server
    old = ssl.create_default_context(cafile=pair[0])
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with (
        closing(socket.create_connection(("localhost", port), timeout=PATIENCE_S)) as asked,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        old.wrap_socket(asked, server_hostname="localhost")
    assert status(port, pair[0], path) == 200
    assert not caplog.records
