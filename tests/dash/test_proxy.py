"""The dashboard behind a proxy that ends TLS, with and without a path, over real sockets and in a browser."""

from __future__ import annotations

import http.client
import json
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.dash.browser import PATIENCE_S, Served
from tests.dash.proxy import proxied
from tests.dash.random_cluster import RandomSource
from tests.dash.test_access import READING, WRITING

from partita.dash.access import Access, parse_public_url, read_access
from partita.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

PATHS = [("/", False), ("/partita/", False), ("/user/ana/proxy/8080/", True)]


@contextmanager
def behind(
    certificate: tuple[Path, Path], path: str, *, strips: bool, keeps_host: bool
) -> Iterator[tuple[str, Served]]:
    """Serve a cluster behind a proxy; yield its public address, without the last slash."""
    source = RandomSource(8, ("chat",))
    with (
        Served(source, Access(read=READING, write=WRITING)) as served,
        proxied(served.port, path, strips=strips, keeps_host=keeps_host, tls=certificate) as port,
    ):
        public = f"https://localhost:{port}{path}"
        served.reached_by(parse_public_url(public))
        yield public[:-1], served


def ask(
    public: str, method: str, path: str, headers: dict[str, str], body: object = None
) -> tuple[int, dict[str, str], Any]:
    """Ask through the proxy as a browser would; return status, headers and document."""
    host, _, prefix = public.removeprefix("https://").partition("/")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection(host, timeout=30, context=context)
    sent = None if body is None else json.dumps(body)
    more = {} if body is None else {"Content-Type": "application/json"}
    connection.request(method, f"/{prefix}{path}" if prefix else path or "/", sent, {**more, **headers})
    answer = connection.getresponse()
    found = answer.read()
    connection.close()
    told = {name.lower(): value for name, value in answer.getheaders()}
    is_json = told.get("content-type") == "application/json"
    return answer.status, told, json.loads(found) if is_json else found


@pytest.mark.parametrize(("path", "strips"), PATHS)
@pytest.mark.parametrize("keeps_host", [True, False])
def test_pages_and_api_work_through_a_proxy_that_ends_tls(
    certificate: tuple[Path, Path], path: str, *, strips: bool, keeps_host: bool
) -> None:
    with behind(certificate, path, strips=strips, keeps_host=keeps_host) as (public, _):
        origin = public[: public.index("/", 8)] if path != "/" else public
        assert b'src="app.js"' in ask(public, "GET", "/", {})[2]
        assert ask(public, "GET", "/app.js", {})[0] == 200
        assert ask(public, "GET", "/api/v1", {})[0] == 401
        own = {"Origin": origin, "Sec-Fetch-Site": "same-origin"}
        status, headers, _ = ask(public, "POST", "/api/v1/session", own, {"token": WRITING})
        assert status == 200
        cookie = headers["set-cookie"]
        assert f"; Path={path};" in cookie
        assert cookie.endswith("; HttpOnly; SameSite=Strict; Secure")
        assert cookie.startswith("__Host-partita-" if path == "/" else "__Secure-partita-")
        mine = {"Cookie": cookie.partition(";")[0]}
        assert ask(public, "GET", "/api/v1", mine)[2]["role"] == "write"
        for foreign in ("https://evil.example", origin.replace("https", "http"), "null"):
            refused = ask(public, "POST", "/api/v1/session", {"Origin": foreign}, {"token": WRITING})
            assert refused[0] == 403
        if not strips and path != "/":
            status, headers, _ = ask(public, "GET", "", mine)
            assert (status, headers["location"]) == (308, path)
        status, headers, _ = ask(public, "GET", "/api/v1/fleet/", mine)
        assert (status, headers.get("location")) == (404, None)


def test_what_a_proxy_forwards_is_not_believed_without_being_told(certificate: tuple[Path, Path]) -> None:
    access = Access(read=READING)
    with (
        Served(RandomSource(2, ("chat",)), access) as served,
        proxied(served.port, "/", strips=False, keeps_host=True, tls=certificate) as port,
    ):
        public = f"https://localhost:{port}"
        status, _, fault = ask(public, "POST", "/api/v1/session", {"Origin": public}, {"token": READING})
        assert status == 403
        assert fault["hint"] == f"if a proxy in front ends TLS, start with --public-url {public}/"


def test_two_dashboards_on_a_host_do_not_sign_each_other_out() -> None:
    jar: dict[str, str] = {}
    with (
        Served(RandomSource(2, ("chat",)), Access(read=READING)) as one,
        Served(RandomSource(2, ("chat",)), Access(read=READING)) as two,
    ):
        for served in (one, two):
            connection = http.client.HTTPConnection("localhost", served.port, timeout=30)
            body, headers = json.dumps({"token": READING}), {"Content-Type": "application/json"}
            connection.request("POST", "/api/v1/session", body, headers)
            answer = connection.getresponse()
            answer.read()
            name, _, value = answer.headers["set-cookie"].partition(";")[0].partition("=")
            jar[name] = value
            connection.close()
        assert len(jar) == 2
        for served in (one, two):
            connection = http.client.HTTPConnection("localhost", served.port, timeout=30)
            cookies = "; ".join(f"{name}={value}" for name, value in jar.items())
            connection.request("GET", "/api/v1", headers={"Cookie": cookies})
            assert connection.getresponse().status == 200
            connection.close()


@pytest.mark.parametrize(("path", "strips"), PATHS)
def test_a_browser_signs_in_through_a_proxy(
    browser: Browser, certificate: tuple[Path, Path], path: str, *, strips: bool
) -> None:
    with behind(certificate, path, strips=strips, keeps_host=False) as (public, served):
        context = browser.new_context(ignore_https_errors=True)
        context.set_default_timeout(1000 * PATIENCE_S)
        page = context.new_page()
        elsewhere: list[str] = []
        page.on("request", lambda request: elsewhere.append(request.url))
        page.goto(f"{public}/")
        page.get_by_label("Token").fill(WRITING)
        page.get_by_role("button", name="Enter").click()
        page.get_by_role("status").filter(has_text="live").wait_for()
        page.get_by_role("link", name="Services").click()
        page.get_by_role("link", name="chat").first.wait_for()
        assert {cookie["path"] for cookie in context.cookies()} == {path}
        assert all(cookie["secure"] and cookie["httpOnly"] for cookie in context.cookies())
        assert [url for url in elsewhere if not url.startswith(f"{public}/")] == []
        # Without the proxy, as through ssh, the same server has a cookie for that.
        page.goto(f"http://localhost:{served.port}/")
        if path != "/":
            page.get_by_label("Token").fill(READING)
            page.get_by_role("button", name="Enter").click()
        page.get_by_role("status").filter(has_text="live").wait_for()
        context.close()


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("https://gpus.example.org", "https://gpus.example.org/"),
        ("https://GPUs.example.org:443/partita", "https://gpus.example.org/partita/"),
        ("https://gpus.example.org:8443/a/b/", "https://gpus.example.org:8443/a/b/"),
        ("https://[2001:db8::7]/x", "https://[2001:db8::7]/x/"),
        ("http://localhost:3000/proxy/8080/", "http://localhost:3000/proxy/8080/"),
    ],
)
def test_a_public_address_is_read(text: str, written: str) -> None:
    assert str(parse_public_url(text)) == written


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("gpus.example.org", "no address of a website"),
        ("ftp://gpus.example.org/", "no address of a website"),
        ("https:///partita", "no address of a website"),
        ("https://me:secret@gpus.example.org/", "no address of a website"),
        ("https://gpus.example.org/?a=b", "no address of a website"),
        ("https://gpus.example.org:port/", "is no URL"),
        ("http://gpus.example.org/", "plain HTTP"),
        ("https://gpus.example.org/a;b/", "cannot be used"),
        ("https://gpus.example.org/api/", "cannot be used"),
        ("https://gpus.example.org/a//b/", "cannot be used"),
    ],
)
def test_what_is_no_public_address_is_told(text: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        parse_public_url(text)


def test_a_public_address_needs_a_token(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"everybody who reaches https://gpus.lab/ could read along"):
        read_access("127.0.0.1", 0, public_url="https://gpus.lab/")
    token = tmp_path / "token"
    token.write_text(WRITING)
    token.chmod(0o600)
    access = read_access("127.0.0.1", 0, write=token, public_url="https://gpus.lab/")
    assert (access.read, access.read_file) == (WRITING, token)
    assert read_access("127.0.0.1", 0, public_url="http://localhost:3000/proxy/80/").read is None
