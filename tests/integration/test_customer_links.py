"""Customer links: one call to Xero on a click, kept with the invoice, and clear errors where there is none."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from limits import parse
from sqlalchemy import text

from runtime import logs
from runtime.settings import override_settings
from services import access, customer_links, person_erasure
from services.customer_links import CustomerLinkError, LinkFailure
from store.accounts import api_keys, xero_organisations
from store.db.database import account_transaction, transaction
from store.db.enums import InvoiceStatus, OrganisationStatus, RecordType
from tests.integration.test_columns_and_filters import change
from tests.support.admin import AdminBrowser, sign_in
from tests.support.databases import clear_budgets
from tests.support.world import World
from web.auth import rate_limits

ONLINE = "/OnlineInvoice"


@pytest.fixture
def panel(world: World) -> dict[str, str]:
    """A panel token as a header."""
    clear_budgets("throttle")
    return {"Authorization": f"Bearer {access.create_key(world.account, 'The panel', ['panel'])}"}


@pytest.fixture
def key(world: World) -> dict[str, str]:
    """An API key with the scope `admin`, as a header."""
    clear_budgets("throttle")
    return {"Authorization": f"Bearer {access.create_key(world.account, 'Ada', ['admin'])}"}


@pytest.fixture
def admin(world: World) -> AdminBrowser:
    """A signed-in admin of the world's account."""
    clear_budgets("throttle")
    return sign_in(world)


def ann_with_invoice(world: World, **values: Any) -> tuple[int, str]:
    """A person and the id of their invoice."""
    ann = world.person("ann@acme.test")
    invoice = world.invoice(world.contact("Ann", "ann@acme.test"), **values)
    world.settle()
    return ann, invoice.id


def post(world: World, headers: dict[str, str], record: int, invoice: object) -> httpx.Response:
    return world.web.post(f"/panel/records/person/{record}/invoices/{invoice}/customer-link", headers=headers)


def kept_url(invoice: str) -> str | None:
    with transaction() as session:
        row = session.execute(text("SELECT online_url FROM xero_invoice WHERE invoice_id = :id"), {"id": invoice})
        url: str | None = row.scalar_one()
    return url


def keep(invoice: str, url: str | None) -> None:
    with transaction() as session:
        statement = text("UPDATE xero_invoice SET online_url = :url WHERE invoice_id = :id")
        session.execute(statement, {"url": url, "id": invoice})


def status_and_detail(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["detail"]


def test_a_link_takes_one_call_and_is_kept_through_later_changes(
    world: World, panel: dict[str, str], key: dict[str, str]
) -> None:
    ann, invoice = ann_with_invoice(world)
    details = world.web.get(f"/panel/records/person/{ann}/invoices/{invoice}/match", headers=panel)
    assert "Copy link for the customer" in details.text
    assert world.sandbox.calls(ONLINE) == 0, "nothing is fetched before a click"

    first = post(world, panel, ann, invoice)
    assert first.status_code == 200
    assert first.headers["cache-control"] == "no-store"
    url = first.json()["url"]
    assert url.startswith("https://in.xero.com/")
    assert kept_url(invoice) == url
    assert post(world, panel, ann, invoice).json() == {"url": url}
    world.sandbox.simulate("pay_invoice", invoice=invoice)
    world.settle()
    world.reconcile()
    world.backfill()
    assert post(world, panel, ann, invoice).json() == {"url": url}
    response = world.web.post(f"/v1/people/{ann}/invoices/{invoice}/customer-link", headers=key)
    assert (response.status_code, response.json()) == (200, {"url": url})
    assert world.sandbox.calls(ONLINE) == 1
    world.check()


def test_only_invoices_that_the_account_shows_on_the_record_have_a_link(world: World, panel: dict[str, str]) -> None:
    ann, invoice = ann_with_invoice(world)
    bob = world.person("bob@acme.test")
    world.settle()
    gone = (404, "This invoice is no longer on this record.")
    assert status_and_detail(post(world, panel, bob, invoice)) == gone
    assert status_and_detail(post(world, panel, ann, uuid4())) == gone
    change(world, record_types=("lead",))
    assert status_and_detail(post(world, panel, ann, invoice)) == gone
    assert world.sandbox.calls(ONLINE) == 0


def test_an_invoice_id_that_is_none_is_refused(world: World, panel: dict[str, str]) -> None:
    assert post(world, panel, 1, "x").status_code == 400
    assert post(world, panel, 2**70, uuid4()).status_code == 400


def test_drafts_bills_and_credits_have_no_link(world: World, panel: dict[str, str]) -> None:
    ann = world.person("ann@acme.test")
    contact = world.contact("Ann", "ann@acme.test")
    draft = world.invoice(contact, status="DRAFT").id
    bill = world.invoice(contact, type="ACCPAY").id
    credit = world.sandbox.simulate("create_credit_note", contact=contact, total="5.00")["credit"]
    change(world, bill_record_types=tuple(RecordType))
    world.settle()
    for invoice, message in (
        (draft, "A draft has no link for the customer. Approve it in Xero first."),
        (bill, "Only sales invoices have a link for the customer."),
        (credit, "Only sales invoices have a link for the customer."),
    ):
        assert status_and_detail(post(world, panel, ann, invoice)) == (409, message)
        details = world.web.get(f"/panel/records/person/{ann}/invoices/{invoice}/match", headers=panel)
        assert details.status_code == 200
        assert "Copy link" not in details.text
    assert world.sandbox.calls(ONLINE) == 0


def test_errors_of_xero_are_explained_and_keep_nothing(world: World, panel: dict[str, str]) -> None:
    ann, invoice = ann_with_invoice(world)

    def failing(**fault: object) -> tuple[int, str]:
        world.sandbox.faults(api=[{"vendor": "xero", "path": ONLINE, "times": 1, **fault}])
        return status_and_detail(post(world, panel, ann, invoice))

    unavailable = (503, "Xero is unavailable right now. Try again in a moment.")
    assert failing(type="status", status=503) == unavailable
    assert failing(type="drop") == unavailable
    assert failing(type="status", status=404) == (404, "Xero no longer has this invoice.")
    refused = (502, "Xero gave no link for this invoice. Open the invoice in Xero to share it.")
    assert failing(type="status", status=400) == refused
    assert kept_url(invoice) is None
    assert post(world, panel, ann, invoice).status_code == 200, "and it works again"


def test_a_draft_that_the_mirror_does_not_know_of_yet_is_refused_by_xero(world: World, panel: dict[str, str]) -> None:
    ann, invoice = ann_with_invoice(world, status="DRAFT")
    with transaction() as session:
        session.execute(text("UPDATE xero_invoice SET status = 'AUTHORISED'"))
    assert post(world, panel, ann, invoice).status_code == 502
    assert kept_url(invoice) is None


def test_a_lost_connection_is_named(world: World, panel: dict[str, str]) -> None:
    ann, invoice = ann_with_invoice(world)
    with transaction() as session:
        organisation = xero_organisations.list_connected(session, world.account)[0]
        xero_organisations.set_status(session, world.account, organisation.id, OrganisationStatus.NEEDS_REAUTH)
    lost = (502, "Xero is disconnected. An admin can reconnect it in Settings.")
    assert status_and_detail(post(world, panel, ann, invoice)) == lost
    assert world.sandbox.calls(ONLINE) == 0
    keep(invoice, "https://in.xero.com/kept")
    assert post(world, panel, ann, invoice).json() == {"url": "https://in.xero.com/kept"}, "what is kept needs no call"


def test_a_spent_budget_says_when_to_try_again(world: World, panel: dict[str, str]) -> None:
    ann, invoice = ann_with_invoice(world)
    override_settings({"XERO_CALLS_PER_MINUTE": "1"})
    response = post(world, panel, ann, invoice)
    spent = (503, "Patina can't make more calls to Xero right now. Try again later.")
    assert status_and_detail(response) == spent
    assert int(response.headers["retry-after"]) >= 1
    assert world.sandbox.calls(ONLINE) == 0


def test_fetching_is_limited_by_viewer_but_not_what_is_kept(
    world: World, panel: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limits, "CUSTOMER_LINK_LIMIT", parse("3/5minutes"))
    ann, invoice = ann_with_invoice(world)
    for _ in range(3):
        keep(invoice, None)
        assert post(world, panel, ann, invoice).status_code == 200
    keep(invoice, None)
    limited = post(world, panel, ann, invoice)
    assert limited.status_code == 429
    assert limited.headers["retry-after"]
    assert world.sandbox.calls(ONLINE) == 3
    keep(invoice, "https://in.xero.com/kept")
    assert post(world, panel, ann, invoice).status_code == 200
    clear_budgets("throttle")


def test_only_the_panels_key_and_admin_keys_get_a_link(world: World, panel: dict[str, str]) -> None:
    ann, invoice = ann_with_invoice(world)
    read_key = {"Authorization": f"Bearer {world.key}"}
    path = f"/v1/people/{ann}/invoices/{invoice}/customer-link"
    assert post(world, {}, ann, invoice).status_code == 401
    assert post(world, read_key, ann, invoice).status_code == 401
    assert world.web.post(path).status_code == 401
    assert world.web.post(path, headers=read_key).status_code == 403
    assert world.web.post(path, headers=panel).status_code in {401, 403}
    with account_transaction(world.account) as session:
        panel_key = next(key for key in api_keys.list_active(session, world.account) if key.name == "The panel")
        api_keys.revoke(session, world.account, panel_key.id)
    assert post(world, panel, ann, invoice).status_code == 401
    assert world.sandbox.calls(ONLINE) == 0


def test_an_account_cannot_get_or_change_another_accounts_link(unconnected: World) -> None:
    clear_budgets("throttle")
    first, second = (World(unconnected.sandbox, unconnected.web).open(name=name) for name in ("First", "Second"))
    ann, invoice = ann_with_invoice(second)
    headers = {"Authorization": f"Bearer {access.create_key(first.account, 'The panel', ['panel'])}"}
    assert post(first, headers, ann, invoice).status_code == 404
    with pytest.raises(CustomerLinkError) as raised:
        customer_links.find_invoice(first.account, RecordType.PERSON, ann, UUID(invoice))
    assert raised.value.failure is LinkFailure.NOT_ON_RECORD
    with account_transaction(first.account) as session:
        session.execute(text("UPDATE xero_invoice SET online_url = 'https://in.xero.com/planted'"))
    assert kept_url(invoice) is None


def test_clicks_at_the_same_time_get_the_same_link(world: World, panel: dict[str, str]) -> None:
    ann, invoice = ann_with_invoice(world)
    start = threading.Barrier(4)

    def click(_: int) -> str:
        start.wait(10)
        return str(post(world, panel, ann, invoice).json()["url"])

    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(click, range(4))) == {kept_url(invoice)}


def test_an_admin_gets_the_link_on_a_page_without_scripts(world: World, admin: AdminBrowser) -> None:
    ann, invoice = ann_with_invoice(world)
    path = f"/records/person/{ann}/invoices/{invoice}/customer-link"
    details = admin.open(f"/records/person/{ann}/invoices/{invoice}/match")
    assert f'href="{path}"' in details.text
    assert f'href="{path}"' in admin.open(f"/invoices/{invoice}").text
    page = admin.open(path)
    assert "Get the link" in page.text
    assert "in.xero.com" not in page.text
    assert world.sandbox.calls(ONLINE) == 0

    world.sandbox.faults(api=[{"vendor": "xero", "path": ONLINE, "times": 1, "type": "status", "status": 503}])
    failed = admin.send(path)
    assert failed.status_code == 503
    assert failed.headers["retry-after"]
    assert "Xero is unavailable right now. Try again in a moment." in failed.text
    assert "Try again</button>" in failed.text

    sent = admin.send(path, follow=False)
    assert (sent.status_code, sent.headers["location"]) == (303, path)
    shown = admin.open(path)
    assert str(kept_url(invoice)) in shown.text
    assert "script-src 'self'" in shown.headers["content-security-policy"]
    assert shown.headers["cache-control"] == "no-store"
    admin.open("/keys")
    assert admin.send(path, follow=False).status_code == 303
    assert world.sandbox.calls(ONLINE) == 2, "the one that failed and the one that did not"


def test_an_admins_page_refuses_what_has_no_link(world: World, admin: AdminBrowser) -> None:
    ann, draft = ann_with_invoice(world, status="DRAFT")
    assert "customer-link" not in admin.open(f"/records/person/{ann}/invoices/{draft}/match").text
    page = admin.open(f"/records/person/{ann}/invoices/{draft}/customer-link")
    assert page.status_code == 409
    assert "A draft has no link for the customer." in page.text
    assert admin.open(f"/records/person/{ann}/invoices/{uuid4()}/customer-link").status_code == 404
    unsigned = world.web.post(f"/records/person/{ann}/invoices/{draft}/customer-link", follow_redirects=False)
    assert unsigned.status_code in {303, 403}
    admin.open("/keys")
    path = f"/records/person/{ann}/invoices/{draft}/customer-link"
    assert admin.http.post(path, data={"csrf": "x"}).status_code == 403


def test_a_link_is_scrubbed_from_the_text_of_libraries() -> None:
    url = "https://in.xero.com/bCWCCfytGdTXoJam9HENWlQt07G6zcDaj4gQojHu"
    assert "bCWCC" not in logs.scrub(f"GET {url}: failed, see '{url}?a=1'")
    assert logs.scrub("https://api.xero.com/api.xro/2.0/Invoices") == "https://api.xero.com/api.xro/2.0/Invoices"


def test_erasing_a_person_erases_the_links_of_their_invoices(world: World, panel: dict[str, str]) -> None:
    ann, invoice = ann_with_invoice(world)
    other = world.invoice("bob@acme.test").id
    bob = world.person("bob@acme.test")
    world.settle()
    assert post(world, panel, ann, invoice).status_code == post(world, panel, bob, other).status_code == 200
    person_erasure.erase_by_email(world.account, "ann@acme.test", actor="Ada")
    assert kept_url(invoice) is None
    assert kept_url(other)


def test_settings_that_hide_a_status_hide_its_links(world: World, panel: dict[str, str]) -> None:
    ann, invoice = ann_with_invoice(world)
    world.sandbox.simulate("void_invoice", invoice=invoice)
    world.settle()
    change(world, hidden_statuses=(InvoiceStatus.VOIDED,))
    assert post(world, panel, ann, invoice).status_code == 404
