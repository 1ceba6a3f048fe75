"""Whatever is sent: no parameter, form, header or host makes a 500, and the answer says what is wrong."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import REGISTRY

from runtime.settings import SettingsError, override, settings
from tests.admin import AdminBrowser
from tests.databases import forget_budgets
from tests.routes import documented_routes
from tests.serving import wait_until
from tests.test_pages import sign_in
from tests.world import World
from web.app import create
from web.refusals import Reason
from worker import connect

NUL, HUGE = "a\x00b", "9" * 400
NOTHING = re.compile(r"\{(\w+)\}")


@pytest.fixture
def admin(world: World) -> AdminBrowser:
    forget_budgets("throttle")
    return sign_in(world)


def refused(reason: Reason) -> float:
    return REGISTRY.get_sample_value("patina_refused_total", {"reason": reason.value}) or 0.0


ODD = {"NUL": "%00", "digits": HUGE, "beyond bigint": "9223372036854775808", "surrogate": "%ED%A0%80", "²": "%C2%B2"}
FITTING = {"kind": "person", "type": "people", "form": "csv", "invoice_id": "11111111-1111-4111-8111-111111111111"}


def requests_with(app: Any, odd: str) -> Iterator[tuple[str, str]]:
    """Every route by method, with `odd` in each of its parameters in turn; in an unknown one where it has none."""
    for route in documented_routes(app):
        names = NOTHING.findall(route.path)
        for place in [*names, *(parameter.alias for parameter in route.dependant.query_params)] or ["unknown"]:
            fitting = {name: FITTING.get(name, "1") for name in names}
            path = route.path.format(**{**fitting, place: odd} if place in names else fitting)
            for method in route.methods or ():
                yield method, path if place in names else f"{path}?{place}={odd}"


def test_no_parameter_of_any_route_makes_a_500(world: World, admin: AdminBrowser) -> None:
    key = connect.make_key(world.account, "all", ["admin"])
    panel = connect.make_key(world.account, "panel", ["panel"])
    app = create()
    for what, odd in ODD.items():
        asked = list(requests_with(app, odd))
        assert len(asked) > 60
        for method, path in asked:
            token = panel if path.startswith("/panel") else key
            headers = {"Authorization": f"Bearer {token}"} if path.startswith(("/v1", "/panel")) else {}
            form = {"csrf": "x", "name": "x"} if method == "POST" else None
            answer = admin.http.request(method, path, headers=headers, data=form)
            assert answer.status_code < 500, (method, path, answer.text)
            if what == "NUL":
                assert (answer.status_code, "NUL" in answer.text) == (400, True), (method, path)


def cursor_of(said: str) -> str:
    return base64.urlsafe_b64encode(said.encode()).decode()


CURSORS = ("1E+140000 5", "NaN 5", "1 ²", f"1 {HUGE}", f"{'1' * 90} 5", "1", " ", "1_0 5")


def test_a_cursor_that_next_did_not_give_is_refused(world: World) -> None:
    for said in CURSORS:
        headers = {"Authorization": f"Bearer {world.key}"}
        answer = world.web.get("/v1/companies", params={"after": cursor_of(said)[:100]}, headers=headers)
        assert answer.status_code == 400, said
        assert "cursor" in answer.json()["detail"], said


ODD_FORMS: dict[str, tuple[str, bytes | tuple[bytes, ...]]] = {
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


def test_a_form_with_odd_text_is_refused_as_one(admin: AdminBrowser) -> None:
    for path in ("/connect", "/keys", "/callback/copper"):
        for kind, (content_type, body) in ODD_FORMS.items():
            content = iter(body) if isinstance(body, tuple) else body
            answer = admin.http.post(path, content=content, headers={"content-type": content_type})
            assert 400 <= answer.status_code < 500, (path, kind, answer.text)
            assert answer.headers["content-security-policy"], (path, kind)


ODD_HEADERS = (
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


def test_odd_headers_are_no_fault_of_ours(world: World, admin: AdminBrowser) -> None:
    for name, value in ODD_HEADERS:
        headers = {name.encode(): value.encode("latin-1")}
        for path in ("/connect", "/panel/records/person/1", "/v1/x/1/match"):
            answer = admin.http.get(path, headers=headers)
            assert answer.status_code < 500, (name, value, path, answer.text)
        answer = admin.http.post("/connect", headers=headers)
        assert answer.status_code < 500, (name, value, answer.text)


def test_another_host_is_refused_with_our_own_address(world: World) -> None:
    for host in ("evil.test", "[", "[::2]", "", "evil.test:8700", "127.0.0.1.evil.test"):
        before = refused(Reason.HOST)
        for path in ("/connect", "/connect/", "/v1/people/1/invoices"):
            answer = world.web.get(path, headers={"host": host, "accept": "text/html"})
            assert answer.status_code == 400, (path, host)
            assert "location" not in answer.headers
        wait_until(lambda before=before: refused(Reason.HOST) == before + 3)
    for path in ("/healthz", "/readyz"):
        assert world.web.get(path, headers={"host": "10.1.2.3:8700"}).status_code == 200


def test_hosts_that_the_operator_names_are_ours(world: World) -> None:
    override({"ALLOWED_HOSTS": "patina.internal,[2001:db8::1]", "PUBLIC_URL": "https://patina.example"})
    for host in ("patina.internal:8700", "PATINA.example", "patina.example.", "[2001:db8::1]:8700", "localhost"):
        assert world.web.get("/connect", headers={"host": host}).status_code == 200, host
    override({"ALLOWED_HOSTS": "http://patina.internal"})
    with pytest.raises(SettingsError, match="ALLOWED_HOSTS"):
        settings()


def test_a_slash_at_the_end_leads_nowhere_but_at_a_webhook(world: World) -> None:
    assert world.web.get("/connect/").status_code == 404
    assert world.web.post("/webhooks/xero/", content=b"{}").status_code == 401
