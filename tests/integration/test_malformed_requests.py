"""Malformed requests: no parameter, form, header or host causes a 500, and the response says what is wrong."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any

import pytest

from runtime.settings import SettingsError, override_settings, settings
from services import access
from tests.support.admin import AdminBrowser
from tests.support.refusals import refused
from tests.support.routes import documented_routes
from tests.support.serving import wait_until
from tests.support.world import World
from web.app import create
from web.middleware.refusals import RefusalReason

NUL, HUGE = "a\x00b", "9" * 400
NOTHING = re.compile(r"\{(\w+)\}")


MALFORMED_VALUES = {
    "NUL": "%00",
    "digits": HUGE,
    "beyond bigint": "9223372036854775808",
    "surrogate": "%ED%A0%80",
    "²": "%C2%B2",
}
VALID_VALUES = {"kind": "person", "type": "people", "form": "csv", "invoice_id": "11111111-1111-4111-8111-111111111111"}


def requests_with(app: Any, odd: str) -> Iterator[tuple[str, str]]:
    """Requests of every route, with `odd` in each of its parameters in turn, or in an unknown one if it has none."""
    for route in documented_routes(app):
        names = NOTHING.findall(route.path)
        for name in [*names, *(parameter.alias for parameter in route.dependant.query_params)] or ["unknown"]:
            fitting = {name: VALID_VALUES.get(name, "1") for name in names}
            path = route.path.format(**{**fitting, name: odd} if name in names else fitting)
            for method in route.methods or ():
                yield method, path if name in names else f"{path}?{name}={odd}"


def test_no_query_parameter_causes_a_500(world: World, admin: AdminBrowser) -> None:
    key = access.create_key(world.account, "all", ["admin"])
    panel = access.create_key(world.account, "panel", ["panel"])
    app = create()
    for description, value in MALFORMED_VALUES.items():
        requests = list(requests_with(app, value))
        assert len(requests) > 60
        for method, path in requests:
            token = panel if path.startswith("/panel") else key
            headers = {"Authorization": f"Bearer {token}"} if path.startswith(("/v1", "/panel")) else {}
            form = {"csrf": "x", "name": "x"} if method == "POST" else None
            response = admin.http.request(method, path, headers=headers, data=form)
            assert response.status_code < 500, (method, path, response.text)
            if description == "NUL":
                assert (response.status_code, "NUL" in response.text) == (400, True), (method, path)


def cursor_of(cursor_text: str) -> str:
    return base64.urlsafe_b64encode(cursor_text.encode()).decode()


CURSORS = ("1E+140000 5", "NaN 5", "1 ²", f"1 {HUGE}", f"{'1' * 90} 5", "1", " ", "1_0 5")


def test_an_invalid_cursor_is_refused(world: World) -> None:
    for cursor in CURSORS:
        headers = {"Authorization": f"Bearer {world.key}"}
        response = world.web.get("/v1/companies", params={"after": cursor_of(cursor)[:100]}, headers=headers)
        assert response.status_code == 400, cursor
        assert "cursor" in response.json()["detail"], cursor


MALFORMED_FORMS: dict[str, tuple[str, bytes | tuple[bytes, ...]]] = {
    "urlencoded": ("application/x-www-form-urlencoded", b"csrf=x&name=a%00b"),
    "in two pieces": ("application/x-www-form-urlencoded", (b"csrf=x&name=a%0", b"0b")),
    "raw": ("application/x-www-form-urlencoded; charset=utf-8", b"csrf=x&name=a\x00b"),
    "multipart": (
        "multipart/form-data; boundary=b",
        b'--b\r\ncontent-disposition: form-data; name="name"\r\n\r\na\x00b\r\n--b--\r\n',
    ),
    "charset that fails": (
        "multipart/form-data; boundary=b; charset=undefined",
        b'--b\r\ncontent-disposition: form-data; name="name"\r\n\r\nab\r\n--b--\r\n',
    ),
    "charset with surrogates": (
        "multipart/form-data; boundary=b; charset=unicode_escape",
        b'--b\r\ncontent-disposition: form-data; name="name"\r\n\r\n\\ud800\r\n--b--\r\n',
    ),
    "no multipart at all": ("multipart/form-data; boundary=b", b"nonsense\r\n\r\n--b"),
    "no boundary": ("multipart/form-data", b"x"),
}


def test_a_form_with_unusual_text_is_refused(admin: AdminBrowser) -> None:
    for path in ("/connect", "/keys", "/callback/copper"):
        for form_type, (content_type, body) in MALFORMED_FORMS.items():
            content = iter(body) if isinstance(body, tuple) else body
            response = admin.http.post(path, content=content, headers={"content-type": content_type})
            assert 400 <= response.status_code < 500, (path, form_type, response.text)
            assert response.headers["content-security-policy"], (path, form_type)


MALFORMED_HEADERS = (
    ("origin", "http://["),
    ("origin", "\xff\xfe"),
    ("prefer", "wait=\xb2"),
    ("prefer", f"wait={HUGE}"),
    ("accept-language", "en;q=\xb2,x-;q=1e999,-"),
    ("cookie", 'patina-session="\\777'),
    ("if-none-match", "\xff"),
    ("authorization", "Bearer \xff"),
    ("content-length", "0"),
    ("x-forwarded-for", "\xff," * 5_000),
)


def test_unusual_headers_cause_no_server_error(world: World, admin: AdminBrowser) -> None:
    for name, value in MALFORMED_HEADERS:
        headers = {name.encode(): value.encode("latin-1")}
        for path in ("/connect", "/panel/records/person/1", "/v1/x/1/match"):
            response = admin.http.get(path, headers=headers)
            assert response.status_code < 500, (name, value, path, response.text)
        response = admin.http.post("/connect", headers=headers)
        assert response.status_code < 500, (name, value, response.text)


def test_an_unknown_host_is_refused_with_our_own_url(world: World) -> None:
    for host in ("evil.test", "[", "[::2]", "", "evil.test:8700", "127.0.0.1.evil.test"):
        before = refused(RefusalReason.HOST)
        for path in ("/connect", "/connect/", "/v1/people/1/invoices"):
            response = world.web.get(path, headers={"host": host, "accept": "text/html"})
            assert response.status_code == 400, (path, host)
            assert "location" not in response.headers
        wait_until(lambda before=before: refused(RefusalReason.HOST) == before + 3)
    for path in ("/healthz", "/readyz"):
        assert world.web.get(path, headers={"host": "10.1.2.3:8700"}).status_code == 200


def test_hosts_in_the_settings_are_accepted(world: World) -> None:
    override_settings({"ALLOWED_HOSTS": "patina.internal,[2001:db8::1]", "PUBLIC_URL": "https://patina.example"})
    for host in ("patina.internal:8700", "PATINA.example", "patina.example.", "[2001:db8::1]:8700", "localhost"):
        assert world.web.get("/connect", headers={"host": host}).status_code == 200, host
    override_settings({"ALLOWED_HOSTS": "http://patina.internal"})
    with pytest.raises(SettingsError, match="ALLOWED_HOSTS"):
        settings()


def test_a_trailing_slash_is_a_404_except_for_webhooks(world: World) -> None:
    assert world.web.get("/connect/").status_code == 404
    assert world.web.post("/webhooks/xero/", content=b"{}").status_code == 401
