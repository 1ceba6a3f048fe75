"""A vendor's answer never sends a key anywhere else, and what stands in the environment does not replace it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from runtime.settings import override, settings
from store.accounts import CopperAccess
from tests.serving import serving
from worker.copper import oauth as copper_oauth
from worker.copper.client import CopperClient
from worker.errors import PassingError, VendorError
from worker.vendor import CallTally, call, prepare
from worker.xero import oauth as xero_oauth

SECRET = "SECRET-COPPER-KEY"
SETTINGS = ("COPPER_API_URL", "COPPER_LOGIN_URL", "XERO_IDENTITY_URL")
APPS = ("XERO_CLIENT_ID", "XERO_CLIENT_SECRET", "COPPER_CLIENT_ID", "COPPER_CLIENT_SECRET")


class Vendors:
    """A vendor that redirects to another host, and the requests that came to each of the two."""

    def __init__(self) -> None:
        self.status = 302
        self.received: list[dict[str, str]] = []
        self.redirected: list[dict[str, str]] = []
        self.target = ""

    async def answer(self, request: Request) -> Response:
        self.received.append(dict(request.headers))
        if self.status == 200:
            return Response(b"{}", media_type="application/json")
        return RedirectResponse(f"{self.target}/internal", self.status)

    async def answer_elsewhere(self, request: Request) -> Response:
        self.redirected.append(dict(request.headers))
        return Response(b"{}", media_type="application/json")


@pytest.fixture
def vendors(database: str) -> Iterator[Vendors]:
    made, methods = Vendors(), ["GET", "POST"]
    with (
        serving(Starlette(routes=[Route("/{path:path}", made.answer_elsewhere, methods=methods)])) as target,
        serving(Starlette(routes=[Route("/{path:path}", made.answer, methods=methods)])) as url,
    ):
        made.target = target
        override({**dict.fromkeys(SETTINGS, url), **dict.fromkeys(APPS, "x")})
        yield made


def copper(key: str = SECRET) -> CopperClient:
    return CopperClient.of_key(CopperAccess(key, "ann@acme.test", "", ""), CallTally())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed_and_the_key_goes_nowhere(vendors: Vendors, status: int) -> None:
    vendors.status = status
    with pytest.raises(VendorError, match=f"answered {status}, a redirect, which is not followed"):
        copper().account()
    with pytest.raises(VendorError, match="redirect"):
        copper_oauth.finish("http://127.0.0.1/callback", "code")
    with pytest.raises(VendorError, match="redirect"):
        xero_oauth.exchange(xero_oauth.begin("http://127.0.0.1/callback"), "code")
    with pytest.raises(VendorError, match="redirect"):
        xero_oauth.revoke({"refresh_token": "r"})
    assert len(vendors.received) == 4, "each was tried once"
    assert vendors.redirected == []


def test_neither_netrc_nor_a_proxy_of_the_environment_touches_a_call(
    vendors: Vendors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendors.status = 200
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login other password stolen\n")
    netrc.chmod(0o600)
    for name, value in {"NETRC": str(netrc), "HTTP_PROXY": vendors.target, "http_proxy": vendors.target}.items():
        monkeypatch.setenv(name, value)
    session = prepare(requests.Session())
    session.headers["Authorization"] = "Bearer ours"
    call(lambda: session.get(f"{settings().copper_api_url}/account", timeout=5, stream=True))
    assert [headers["authorization"] for headers in vendors.received] == ["Bearer ours"]
    assert vendors.redirected == []


def test_what_cannot_be_sent_is_told_without_its_value(vendors: Vendors) -> None:
    with pytest.raises(VendorError) as found:
        copper(f"{SECRET}\nx").account()
    assert not isinstance(found.value, PassingError)
    assert SECRET not in str(found.value)
    assert found.value.__suppress_context__, "no traceback shows it either"
