"""Who is let in: tokens, TLS, and what is refused before anything listens."""

from __future__ import annotations

import http.client
import ssl
from contextlib import closing
from typing import TYPE_CHECKING

import grpc
import pytest
from tests.serve.gateway.certificates import make_certificates
from tests.serve.gateway.fake_gateway import ECHO, FakeGateway
from tests.serve.gateway.transports import PATIENCE_S, serving

from partita.errors import InputError
from partita.serve.gateway.access import check_exposure, read_tls
from partita.serve.gateway.grpc_server import message
from partita.serve.tls import Tls
from partita.serve.worker.listening import read_token
from partita.serve.worker.spec import is_loopback

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("tls"))


def https_status(port: int, context: ssl.SSLContext) -> int:
    with closing(http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=PATIENCE_S)) as link:
        link.request("GET", "/v2/health/ready")
        return link.getresponse().status


def test_clients_with_a_certificate_are_let_in_over_both_transports(certificates: Path):
    tls = read_tls(*(certificates / name for name in ("server.pem", "server.key", "ca.pem")))
    with serving(FakeGateway(ECHO), tls=tls) as server:
        known = ssl.create_default_context(cafile=certificates / "ca.pem")
        known.load_cert_chain(certificates / "client.pem", certificates / "client.key")
        assert https_status(server.http, known) == 200
        stranger = ssl.create_default_context(cafile=certificates / "ca.pem")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            https_status(server.http, stranger)
        pem = {name: (certificates / name).read_bytes() for name in ("ca.pem", "client.pem", "client.key")}
        for chain, let_in in (((pem["client.key"], pem["client.pem"]), True), ((None, None), False)):
            credentials = grpc.ssl_channel_credentials(pem["ca.pem"], *chain)
            with grpc.secure_channel(f"127.0.0.1:{server.grpc}", credentials) as channel:
                ask = channel.unary_unary(
                    "/inference.GRPCInferenceService/ServerLive",
                    response_deserializer=message("ServerLiveResponse").FromString,
                )
                if let_in:
                    assert ask(b"", timeout=PATIENCE_S).live
                else:
                    with pytest.raises(grpc.RpcError) as caught:
                        ask(b"", timeout=PATIENCE_S)
                    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_files_that_do_not_belong_together_are_refused(certificates: Path):
    assert read_tls(None, None, None) is None
    with pytest.raises(InputError, match="not a certificate with its key"):
        read_tls(certificates / "server.pem", certificates / "client.key", None)
    with pytest.raises(InputError, match="not a certificate of an authority"):
        read_tls(certificates / "server.pem", certificates / "server.key", certificates / "names")
    with pytest.raises(InputError, match="certificate and its key"):
        read_tls(certificates / "server.pem", None, None)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.5.0.1", "::1", "localhost"])
def test_loopback_needs_no_leave(host):
    assert is_loopback(host)
    check_exposure(host, token=False, tls=None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "gpu-box", ""])  # noqa: S104 -- refused
def test_beyond_loopback_a_token_or_clients_certificates_are_needed(host, tmp_path: Path):
    with pytest.raises(InputError, match="reached by others"):
        check_exposure(host, token=False, tls=None)
    with pytest.raises(InputError, match="reached by others"):
        check_exposure(host, token=False, tls=Tls(tmp_path, tmp_path))
    check_exposure(host, token=True, tls=None)
    check_exposure(host, token=False, tls=Tls(tmp_path, tmp_path, tmp_path))


@pytest.mark.parametrize(
    "text", ["", "short", "two words are no token", "é" * 20, "x" * 5000, "a" * 20 + "\nb"]
)
def test_what_is_no_token_is_refused(text, tmp_path: Path):
    path = tmp_path / "token"
    path.write_text(text)
    with pytest.raises(InputError, match="no token") as caught:
        read_token(path)
    assert "openssl rand" in (caught.value.hint or "")
    path.write_text("0123456789abcdef\n")
    assert read_token(path) == "0123456789abcdef"
