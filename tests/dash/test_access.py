"""Who may ask, from where, and what every answer says to browsers."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from tests.dash.client import Client, client

from partita.dash.access import Access, read_access
from partita.dash.model import Part
from partita.dash.source import Look
from partita.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from partita.dash.model import EventPage, GpuHistory

READING, WRITING = "r" * 32, "w" * 32


class Empty:
    """A source of nothing."""

    cluster, workload, parts, notes = "vm", None, (Part.FLEET,), ()

    def look(self) -> Look:
        return Look(1.0)

    def state(self) -> str:
        return "abc123"

    def events(self, after: str | None, limit: int, gpu: str | None = None) -> EventPage:
        raise AssertionError(f"nobody asks for {limit} events after {after} of {gpu}")

    def history(self, gpu_id: str) -> GpuHistory:
        raise AssertionError(f"nobody asks for {gpu_id}")

    def close(self) -> None:
        pass


@pytest.fixture
def closed() -> Client:
    return client(Empty(), Access(read=READING, write=WRITING))


@pytest.fixture
def open_() -> Client:
    return client(Empty())


def test_without_tokens_this_host_may_read(open_: Client) -> None:
    assert open_.get("/api/v1").data["role"] == "read"


@pytest.mark.parametrize(
    "path", ["/api/v1", "/api/v1/fleet", "/api/v1/gpus", "/api/v1/stream", "/api/v1/openapi.json"]
)
def test_with_a_token_nothing_is_told_without_it(closed: Client, path: str) -> None:
    found = closed.get(path)
    assert found.status == 401
    assert found.headers["www-authenticate"].startswith("Bearer")
    assert found.data["hint"]


@pytest.mark.parametrize(
    "told", ["Bearer wrong", f"Basic {READING}", "Bearer", f"Bearer {READING[:-1]}", "Bearer ü"]
)
def test_a_wrong_token_is_refused(closed: Client, told: str) -> None:
    assert closed.get("/api/v1", authorization=told).status == 401


@pytest.mark.parametrize(("token", "role"), [(READING, "read"), (WRITING, "write")])
def test_a_token_has_its_role(closed: Client, token: str, role: str) -> None:
    assert closed.get("/api/v1", authorization=f"Bearer {token}").data["role"] == role
    assert closed.get("/api/v1", authorization=f"bearer  {token}").data["role"] == role


def test_pages_are_told_to_everybody_since_they_hold_no_data(closed: Client) -> None:
    assert closed.get("/").status == 200


def test_a_browser_signs_in_once_and_out_again(closed: Client) -> None:
    assert closed.ask("POST", "/api/v1/session", body={"token": "wrong" * 8}).status == 401
    signed = closed.ask("POST", "/api/v1/session", body={"token": WRITING})
    assert signed.data == {"role": "write"}
    cookie = signed.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert WRITING not in cookie
    mine = cookie.partition(";")[0]
    assert closed.get("/api/v1", cookie=mine).data["role"] == "write"
    assert closed.get("/api/v1", cookie=f"{mine}x").status == 401
    out = closed.ask("DELETE", "/api/v1/session", {"cookie": mine})
    assert "Max-Age=0" in out.headers["set-cookie"]
    assert closed.get("/api/v1", cookie=mine).status == 401


def test_the_cookie_of_tls_is_never_sent_in_the_clear(tmp_path: Path) -> None:
    from partita.serve.tls import Tls  # noqa: PLC0415 -- for this test alone

    tls = Tls(tmp_path / "cert.pem", tmp_path / "key.pem")
    found = client(Empty(), Access(read=READING, tls=tls)).ask(
        "POST", "/api/v1/session", body={"token": READING}
    )
    assert "; Secure" in found.headers["set-cookie"]


def test_sessions_do_not_pile_up(closed: Client) -> None:
    cookies = [
        closed.ask("POST", "/api/v1/session", body={"token": READING}).headers["set-cookie"].partition(";")[0]
        for _ in range(1005)
    ]
    assert closed.get("/api/v1", cookie=cookies[-1]).status == 200
    assert closed.get("/api/v1", cookie=cookies[0]).status == 401


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example:80", "", "localhost:80:80", "127.0.0.1.evil"]
)
def test_another_name_may_not_lead_here(open_: Client, host: str) -> None:
    for path in ("/api/v1", "/", "/api/v1/stream"):
        assert open_.get(path, host=host).status == 421


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:8080", "10.0.0.7:8080", "gpu.lab"]
)
def test_its_names_and_all_addresses_lead_here(host: str) -> None:
    assert client(Empty(), Access(names=("gpu.lab",))).get("/api/v1", host=host).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "https://localhost:8080"},
        {"origin": "http://localhost:81"},
        {"origin": "null"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
def test_a_page_of_another_origin_changes_nothing(open_: Client, headers: dict[str, str]) -> None:
    found = open_.ask("POST", "/api/v1/session", headers, {"token": READING})
    assert found.status == 403
    assert "set-cookie" not in found.headers


def test_its_own_page_may_ask(closed: Client) -> None:
    headers = {"origin": "http://localhost:8080", "sec_fetch_site": "same-origin"}
    assert closed.ask("POST", "/api/v1/session", headers, {"token": READING}).status == 200


def test_a_form_of_another_page_is_no_json(open_: Client) -> None:
    found = open_.ask("POST", "/api/v1/session", {"content-type": "text/plain"}, b'{"token": "x"}')
    assert found.status == 415


@pytest.mark.parametrize(
    ("headers", "body", "status", "told"),
    [
        ({"content-encoding": "gzip"}, gzip.compress(b'{"token": "x"}', mtime=0), 415, "encoded with gzip"),
        ({"content-type": "application/json; charset=latin-1"}, b'{"token": "x"}', 415, "not latin-1"),
        ({}, b'{"token": "\xe9"}', 400, "no UTF-8"),
        ({}, '{"token": "x"}'.encode("utf-16"), 400, "no UTF-8"),
        ({}, b"", 400, "empty"),
        ({}, b'{"token": "x", "token": "y"}', 400, "'token' is already on line 1"),
        ({}, b'{"token": NaN}', 422, "text"),
        ({}, b'{"token": ' + b"9" * 5000 + b"}", 400, "not JSON"),
        ({}, b"[" * 10_000 + b"]" * 10_000, 400, "deep"),
        ({}, b'["token"]', 422, "must be"),
        ({}, b'{"token": "x"', 400, "ends in the middle"),
    ],
)
def test_a_body_that_cannot_be_read_is_told_as_what_it_is(
    open_: Client, headers: dict[str, str], body: bytes, status: int, told: str
) -> None:
    found = open_.ask("POST", "/api/v1/session", {"content-type": "application/json", **headers}, body)
    assert (found.status, set(found.data)) == (status, {"error", "where", "hint"})
    assert told in found.data["error"]
    if status == 415:
        assert (found.headers["accept"], found.headers["accept-encoding"]) == ("application/json", "identity")


@pytest.mark.parametrize("media", ["application/json", "application/json; charset=UTF-8"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_and_the_name_of_the_charset_are_no_faults(
    closed: Client, media: str, mark: bytes
) -> None:
    body = mark + json.dumps({"token": READING}).encode()
    assert closed.ask("POST", "/api/v1/session", {"content-type": media}, body).status == 200


@pytest.mark.parametrize("limit", ["1e3", "+5", " 5", "5.0", "\u0665", "nan", ""])
def test_a_limit_is_digits(open_: Client, limit: str) -> None:
    found = open_.get(f"/api/v1/gpus?limit={quote(limit)}")
    assert (found.status, found.data["where"]) == (422, "limit")


@pytest.mark.parametrize("path", ["/", "/api/v1", "/api/v1/nothing", "/nothing", "/app.js"])
def test_every_answer_keeps_the_page_to_itself(open_: Client, path: str) -> None:
    headers = open_.get(path).headers
    policy = dict(each.strip().split(" ", 1) for each in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    "path", ["/../access.py", "/%2e%2e/access.py", "//etc/passwd", "/..%2faccess.py", "/\x00"]
)
def test_nothing_but_the_bundle_is_served(open_: Client, path: str) -> None:
    assert open_.get(path).status in (400, 404, 405)


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_beyond_this_host_tls_and_a_token_are_needed(tmp_path: Path) -> None:
    token = written(tmp_path / "token", READING)
    for read, write in ((None, None), (token, None), (None, token)):
        with pytest.raises(InputError, match=r"can be reached by others"):
            read_access("gpu.lab", 8080, read=read, write=write)


def test_a_token_that_others_can_read_is_refused(tmp_path: Path) -> None:
    token = written(tmp_path / "token", READING, 0o644)
    with pytest.raises(InputError, match="everybody on this host can read the token") as told:
        read_access("127.0.0.1", 0, read=token)
    assert told.value.hint == f"chmod 600 {token}"
    token.chmod(0o640)
    assert read_access("127.0.0.1", 0, read=token).read == READING


def test_two_roles_need_two_tokens(tmp_path: Path) -> None:
    token = written(tmp_path / "token", READING)
    with pytest.raises(InputError, match="is the one that writes, too"):
        read_access("127.0.0.1", 0, read=token, write=token)


def test_a_token_that_only_writes_leaves_reading_open_on_this_host(tmp_path: Path) -> None:
    access = read_access("127.0.0.1", 0, write=written(tmp_path / "token", WRITING))
    found = client(Empty(), access)
    reading = found.get("/api/v1")
    assert reading.data["role"] == "read"
    # What a browser keeps of the reader's answer is not the writer's.
    kept = reading.headers["etag"]
    assert found.get("/api/v1", if_none_match=kept).status == 304
    writing = found.get("/api/v1", authorization=f"Bearer {WRITING}", if_none_match=kept)
    assert writing.data["role"] == "write"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://localhost:80/"),
        ("::1", "http://localhost:80/"),
        ("gpu.lab", "http://gpu.lab:80/"),
    ],
)
def test_the_address_is_one_for_a_browser(host: str, url: str) -> None:
    assert Access(host).url(80) == url
