"""Redirects of a vendor never receive a key, and the environment does not affect vendor calls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from runtime.settings import override_settings, settings
from store.accounts.copper_credentials import CopperCredentials
from tests.support.serving import serving
from worker.vendors.copper import oauth as copper_oauth
from worker.vendors.copper.client import CopperClient
from worker.vendors.errors import TransientError, VendorError
from worker.vendors.http import CallCounter, call, configure_session
from worker.vendors.xero import oauth as xero_oauth

SECRET = "SECRET-COPPER-KEY"
SETTINGS = ("COPPER_API_URL", "COPPER_LOGIN_URL", "XERO_IDENTITY_URL")
APPS = ("XERO_CLIENT_ID", "XERO_CLIENT_SECRET", "COPPER_CLIENT_ID", "COPPER_CLIENT_SECRET")


class Vendors:
    """A vendor that redirects to another host, and the requests that each of them received."""

    def __init__(self) -> None:
        self.status = 302
        self.received: list[dict[str, str]] = []
        self.redirected: list[dict[str, str]] = []
        self.target = ""

    async def respond(self, request: Request) -> Response:
        self.received.append(dict(request.headers))
        if self.status == 200:
            return Response(b"{}", media_type="application/json")
        return RedirectResponse(f"{self.target}/internal", self.status)

    async def answer_elsewhere(self, request: Request) -> Response:
        self.redirected.append(dict(request.headers))
        return Response(b"{}", media_type="application/json")


@pytest.fixture
def vendors(database: str) -> Iterator[Vendors]:
    vendors_, methods = Vendors(), ["GET", "POST"]
    with (
        serving(Starlette(routes=[Route("/{path:path}", vendors_.answer_elsewhere, methods=methods)])) as target,
        serving(Starlette(routes=[Route("/{path:path}", vendors_.respond, methods=methods)])) as url,
    ):
        vendors_.target = target
        override_settings({**dict.fromkeys(SETTINGS, url), **dict.fromkeys(APPS, "x")})
        yield vendors_


def copper(key: str = SECRET) -> CopperClient:
    return CopperClient.with_api_key(CopperCredentials(key, "ann@acme.test", "", ""), CallCounter())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed_and_the_key_goes_nowhere(vendors: Vendors, status: int) -> None:
    vendors.status = status
    with pytest.raises(VendorError, match=f"returned {status}, a redirect, which is not followed"):
        copper().get_account()
    with pytest.raises(VendorError, match="redirect"):
        copper_oauth.exchange_code("http://127.0.0.1/callback", "code")
    with pytest.raises(VendorError, match="redirect"):
        xero_oauth.exchange_code(xero_oauth.begin("http://127.0.0.1/callback"), "code")
    with pytest.raises(VendorError, match="redirect"):
        xero_oauth.revoke({"refresh_token": "r"})
    assert len(vendors.received) == 4, "each was tried once"
    assert vendors.redirected == []


def test_vendor_calls_ignore_netrc_and_proxy_settings(
    vendors: Vendors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendors.status = 200
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login other password stolen\n")
    netrc.chmod(0o600)
    for name, value in {"NETRC": str(netrc), "HTTP_PROXY": vendors.target, "http_proxy": vendors.target}.items():
        monkeypatch.setenv(name, value)
    session = configure_session(requests.Session())
    session.headers["Authorization"] = "Bearer ours"
    call(lambda: session.get(f"{settings().copper_api_url}/account", timeout=5, stream=True))
    assert [headers["authorization"] for headers in vendors.received] == ["Bearer ours"]
    assert vendors.redirected == []


def test_a_request_that_cannot_be_sent_is_reported_without_its_value(vendors: Vendors) -> None:
    with pytest.raises(VendorError) as raised:
        copper(f"{SECRET}\nx").get_account()
    assert not isinstance(raised.value, TransientError)
    assert SECRET not in str(raised.value)
    assert raised.value.__suppress_context__, "no traceback shows it either"
