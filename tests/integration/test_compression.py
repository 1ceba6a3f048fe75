"""Which responses are compressed."""

from __future__ import annotations

import httpx

from services import access
from tests.support.admin import sign_in
from tests.support.databases import clear_budgets
from tests.support.world import World
from web.middleware.compression import MINIMUM_BYTES

GZIP = {"Accept-Encoding": "gzip"}


def encoding(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.headers.get("content-encoding", ""))


def test_static_files_the_panel_and_the_api_are_compressed_and_pages_and_exports_are_not(world: World) -> None:
    clear_budgets("throttle")
    ann = world.person("ann@acme.test")
    contact = world.contact("Ann", "ann@acme.test")
    for _ in range(20):
        world.invoice(contact, "5.00")
    world.settle()
    page = sign_in(world).http.get("/settings", headers=GZIP)
    (style,) = (part.split('"')[0] for part in page.text.split('<link rel="stylesheet" href="')[1:])
    assert encoding(page) == ""
    assert len(page.content) > MINIMUM_BYTES
    assert encoding(world.web.get(style, headers=GZIP)) == "gzip"
    panel = {**GZIP, "Authorization": f"Bearer {access.create_key(world.account, 'Panel', ['panel'])}"}
    record = f"/panel/records/person/{ann}?limit=20"
    compressed = world.web.get(record, headers=panel)
    assert encoding(compressed) == "gzip"
    assert "accept-encoding" in compressed.headers["vary"].lower()
    plain = world.web.get(record, headers={**panel, "Accept-Encoding": "identity"})
    assert (encoding(plain), plain.headers["etag"]) == ("", compressed.headers["etag"])
    key = {**GZIP, "Authorization": f"Bearer {access.create_key(world.account, 'API', ['read'])}"}
    assert encoding(world.web.get(f"/v1/people/{ann}/invoices?limit=20", headers=key)) == "gzip"
    assert encoding(world.web.get(f"/v1/people/{ann}/invoices?limit=1", headers=key)) == "", "too small"
    assert encoding(world.web.get(f"/v1/people/{ann}/invoices.csv", headers=key)) == ""
