"""The Copper panel without a browser: authorisation, content, and long polls."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from runtime.settings import override_settings, settings
from services import access
from store.accounts import account_settings, xero_organisations
from store.db.database import transaction
from store.db.enums import OrganisationStatus
from tests.support.admin import AdminBrowser
from tests.support.databases import clear_budgets
from tests.support.world import World

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def panel(world: World) -> dict[str, str]:
    """A panel token as a header."""
    clear_budgets("throttle")
    return {"Authorization": f"Bearer {access.create_key(world.account, 'The panel', ['panel'])}"}


def restrict(world: World, *teams: int) -> None:
    with transaction() as session:
        now = account_settings.get(session, world.account)
        account_settings.update(
            session,
            world.account,
            account_settings.AccountSettings(now.name, now.record_types, 2, teams or None),
        )


def sign_in(world: World, headers: dict[str, str], email: str) -> tuple[httpx.Response, dict[str, str]]:
    """Complete the sign-in window; returns the response to its code, and the panel's cookie."""
    secret = secrets.token_urlsafe(32)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(secret.encode()).digest()).decode().rstrip("=")
    code = code_of(world, challenge, email)
    response = world.web.post("/panel/session", json={"code": code, "secret": secret}, headers=headers)
    cookie = response.headers.get("set-cookie", "").partition(";")[0]
    return response, {**headers, "Cookie": cookie}


def number_of(challenge: str) -> str:
    """The number that the panel shows, computed from its challenge."""
    first, second = base64.urlsafe_b64decode(f"{challenge}=")[:2]
    return f"{(first * 256 + second) % 90 + 10}"


def confirmation(world: World, challenge: str, email: str) -> AdminBrowser:
    """A sign-in window after the return from Copper, which asks for the panel's number."""
    window = AdminBrowser(world.web)
    at = window.http.get("/panel/signin", params={"challenge": challenge}).headers["location"]
    page = httpx.get(f"{at}&login_hint={email}", trust_env=False).text
    form = dict(re.findall(r'name="(code|state)" value="([^"]*)"', page))
    finish = httpx.post(f"{world.web.base_url}/callback/copper", data=form, trust_env=False).headers["location"]
    assert window.open(finish).status_code == 200
    return window


def send_number(window: AdminBrowser, number: str) -> httpx.Response:
    assert window.page is not None
    (token,) = re.findall(r'name="token" value="([^"]*)"', window.page.text)
    response = window.send("/signin/copper/confirm", follow=False, token=token, number=number)
    window.page = response
    return response


def code_of(world: World, challenge: str, email: str) -> str:
    last = send_number(confirmation(world, challenge, email), number_of(challenge))
    assert last.status_code == 303, last.text
    path, _, code = last.headers["location"].partition("#")
    assert path == "/panel/signed-in"
    return code


def part(world: World, headers: dict[str, str], record_word: str, record: int, **query: Any) -> httpx.Response:
    return world.web.get(f"/panel/records/{record_word}/{record}", headers=headers, params=query)


def plain(response: httpx.Response) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", response.text)).strip()


# Authorisation


def test_the_panel_opens_only_with_its_own_token_until_it_is_revoked(world: World, panel: dict[str, str]) -> None:
    person = world.person("ann@acme.test")
    world.settle()
    assert part(world, panel, "person", person).status_code == 200
    for key in (world.key, access.create_key(world.account, "admin", ["admin"]), "pat_no", ""):
        refused = part(world, {"Authorization": f"Bearer {key}"} if key else {}, "person", person)
        assert refused.status_code == 401
        assert "This panel URL is no longer valid." in refused.text
    assert world.web.get("/v1/people/1/invoices", headers=panel).status_code == 401, "it opens no API"
    with transaction() as session:
        session.execute(text("UPDATE api_key SET revoked_at = now()"))
    assert part(world, panel, "person", person).status_code == 401


def test_the_page_may_be_framed_by_copper_and_only_runs_our_script(world: World, panel: dict[str, str]) -> None:
    origin = settings().panel_frame_ancestors[0]
    response = world.web.get("/panel", params={"origin": origin, "instanceId": "1", "token": "x"})
    policy = response.headers["content-security-policy"]
    assert f"frame-ancestors {origin}" in policy
    script, style = (ROOT / "web/static" / name for name in ("panel.js", "patina.css"))
    for directive, path in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(path.read_bytes()).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in policy, "and nothing else inline"
        assert path.read_text(encoding="utf-8") in response.text
    unchanged = {"if-none-match": response.headers["etag"]}
    params = {"origin": origin, "instanceId": "2", "token": "x"}
    assert world.web.get("/panel", params=params, headers=unchanged).status_code == 304
    assert response.headers["referrer-policy"] == "no-referrer"
    assert "x" not in re.findall(r'token="([^"]*)"', response.text), "the token is not written into the page"
    refused = world.web.get("/panel", params={"origin": "https://evil.test", "instanceId": "1"})
    assert refused.status_code == 403
    assert "frame-ancestors 'none'" in world.web.get("/connect").headers["content-security-policy"]
    override_settings({"PANEL_ORIGINS": "https://crm.test,https://app.copper.com"})
    policy = world.web.get("/panel", params={"origin": "https://crm.test"}).headers["content-security-policy"]
    assert policy.endswith("frame-ancestors https://crm.test https://app.copper.com")


def test_teams_are_checked_at_copper_before_invoices_are_shown(world: World, panel: dict[str, str]) -> None:
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle()
    viewer = world.sandbox.simulate("add_user", account=world.copper, name="Vic Viewer")
    restrict(world, 1)
    first = part(world, panel, "person", person)
    assert first.status_code == 401
    assert "Sign in with Copper" in first.text
    assert invoice.number not in first.text

    response, signed = sign_in(world, panel, viewer["email"])
    assert response.status_code == 204
    cookie = response.headers["set-cookie"]
    assert all(attribute in cookie for attribute in ("HttpOnly", "Secure", "SameSite=None", "Partitioned", "Path=/"))
    refused = part(world, signed, "person", person)
    assert refused.status_code == 403
    assert "you (Vic Viewer) aren&#39;t a member of any of them" in refused.text

    world.simulate_copper("join_team", user=viewer["user"], team=1)
    assert part(world, signed, "person", person).status_code == 403, "kept for ten minutes"
    calls_before = world.sandbox.calls("/users/")
    with transaction() as session:
        session.execute(text("UPDATE browser_session SET teams_fetched_at = now() - interval '11 minutes'"))
    assert invoice.number in part(world, signed, "person", person).text
    assert part(world, signed, "person", person).status_code == 200
    assert world.sandbox.calls("/users/") == calls_before + 1, "asked once, then kept"

    with transaction() as session:
        session.execute(text("UPDATE browser_session SET teams_fetched_at = now() - interval '11 minutes'"))
    world.sandbox.faults(api=[{"vendor": "copper", "type": "status", "status": 503}])
    closed = part(world, signed, "person", person)
    assert closed.status_code == 503, "who cannot be asked about is not let in"
    assert invoice.number not in closed.text
    world.sandbox.faults()

    restrict(world)
    assert part(world, panel, "person", person).status_code == 200, "everyone again"


def test_the_code_of_the_window_works_once_and_only_for_its_own_panel(world: World, panel: dict[str, str]) -> None:
    restrict(world, 1)
    admin = next(account for account in world.sandbox.state()["accounts"] if account["account"] == world.copper)[
        "email"
    ]
    secret = secrets.token_urlsafe(32)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(secret.encode()).digest()).decode().rstrip("=")

    def redeem(code: str, with_secret: str) -> int:
        payload = {"code": code, "secret": with_secret}
        return world.web.post("/panel/session", json=payload, headers=panel).status_code

    stolen = code_of(world, challenge, admin)
    assert redeem(stolen, secrets.token_urlsafe(32)) == 403, "another frame's secret"
    assert redeem(stolen, secret) == 403, "and it is used up"
    code = code_of(world, challenge, admin)
    assert redeem(code, secret) == 204
    assert redeem(code, secret) == 403
    expired_code = code_of(world, challenge, admin)
    with transaction() as session:
        session.execute(text("UPDATE oauth_state SET expires_at = now()"))
    assert redeem(expired_code, secret) == 403
    other_world = World(world.sandbox, world.web).open(name="Other")
    other_headers = {"Authorization": f"Bearer {access.create_key(other_world.account, 'x', ['panel'])}"}
    payload = {"code": code_of(world, challenge, admin), "secret": secret}
    assert world.web.post("/panel/session", json=payload, headers=other_headers).status_code == 403, (
        "another account's panel"
    )
    for body in (b"", b"[]", b'{"code": 1}', b"{" * 5_000):
        assert world.web.post("/panel/session", content=body, headers=panel).status_code == 400


def new_challenge() -> tuple[str, str]:
    secret = secrets.token_urlsafe(32)
    return secret, base64.urlsafe_b64encode(hashlib.sha256(secret.encode()).digest()).decode().rstrip("=")


def test_a_colleague_lured_to_the_window_by_a_link_reveals_no_code(world: World, panel: dict[str, str]) -> None:
    """The window belongs to an attacker's panel, so the colleague has no panel that shows its number."""
    victim = world.sandbox.simulate("add_user", account=world.copper, name="Vic Viewer")
    world.simulate_copper("join_team", user=victim["user"], team=1)
    restrict(world, 1)
    _, challenge = new_challenge()
    window = confirmation(world, challenge, victim["email"])
    assert window.page is not None
    page_text = plain(window.page)
    assert "You are about to sign in to the invoice panel in Copper as Vic Viewer of Acme Sales" in page_text
    assert "Continue only if you opened this window yourself, from the invoice panel in Copper." in page_text
    assert number_of(challenge) not in re.findall(r"\b\d\d\b", page_text), "it is asked for, not told"

    guesses = [str(number) for number in range(10, 100) if str(number) != number_of(challenge)]
    responses = [send_number(window, guess) for guess in guesses[:2]]
    assert [response.status_code for response in responses] == [422, 422]
    assert "The panel shows another number." in responses[1].text
    (token,) = re.findall(r'name="token" value="([^"]*)"', responses[1].text)
    final = send_number(window, guesses[2])
    assert (final.status_code, "sign in again" in final.text) == (400, True)
    window.open("/connect")
    too_late = window.send("/signin/copper/confirm", follow=False, token=token, number=number_of(challenge))
    assert too_late.status_code == 400, "three guesses, and it is over"
    with transaction() as session:
        assert session.execute(text("SELECT count(*) FROM oauth_state")).scalar_one() == 0
        assert session.execute(text("SELECT count(*) FROM browser_session")).scalar_one() == 0


def test_the_number_is_accepted_once_and_only_in_its_own_window(world: World, panel: dict[str, str]) -> None:
    admin = next(account for account in world.sandbox.state()["accounts"] if account["account"] == world.copper)[
        "email"
    ]
    _, challenge = new_challenge()
    window = confirmation(world, challenge, admin)
    assert window.page is not None
    (token,) = re.findall(r'name="token" value="([^"]*)"', window.page.text)
    other_browser = AdminBrowser(world.web)
    other_browser.open("/connect")
    form = {"token": token, "number": number_of(challenge)}
    assert other_browser.send("/signin/copper/confirm", form, follow=False).status_code == 400
    assert send_number(window, number_of(challenge)).status_code == 400, "whoever tried it, it is used"
    window = confirmation(world, challenge, admin)
    confirmation_page = window.page
    assert send_number(window, f" {number_of(challenge)} ").status_code == 303
    window.page = confirmation_page
    assert send_number(window, number_of(challenge)).status_code == 400


def test_the_audit_log_records_whether_window_and_panel_had_the_same_address(
    world: World, panel: dict[str, str]
) -> None:
    admin = next(account for account in world.sandbox.state()["accounts"] if account["account"] == world.copper)[
        "email"
    ]
    response, _ = sign_in(world, panel, admin)
    assert response.status_code == 204
    secret, challenge = new_challenge()
    code = code_of(world, challenge, admin)
    elsewhere = httpx.HTTPTransport(local_address="127.0.0.2")
    with httpx.Client(base_url=world.web.base_url, transport=elsewhere) as client:
        assert client.post("/panel/session", json={"code": code, "secret": secret}, headers=panel).status_code == 204
    with transaction() as session:
        statement = text("SELECT detail FROM audit_log WHERE action = 'viewer.signed_in' ORDER BY id")
        same_address, other_address = session.execute(statement).scalars()
    assert re.fullmatch(r"to the panel, from [0-9a-f]{16}", same_address)
    assert re.fullmatch(r"to the panel, window at [0-9a-f]{16}, panel at [0-9a-f]{16}", other_address)
    assert "127.0.0" not in same_address + other_address


@pytest.mark.parametrize("challenge", ["", "x" * 42, "x" * 44, "é" * 43, "=" * 43, "." * 43])
def test_an_invalid_challenge_starts_no_sign_in(world: World, panel: dict[str, str], challenge: str) -> None:
    assert world.web.get("/panel/signin", params={"challenge": challenge}).status_code == 400
    with transaction() as session:
        assert session.execute(text("SELECT count(*) FROM oauth_state")).scalar_one() == 0


def test_a_session_of_another_account_is_refused(world: World, panel: dict[str, str]) -> None:
    other_world = World(world.sandbox, world.web).open(name="Other")
    restrict(other_world, 1)
    restrict(world, 1)
    headers = {"Authorization": f"Bearer {access.create_key(other_world.account, 'x', ['panel'])}"}
    admin = next(account for account in world.sandbox.state()["accounts"] if account["account"] == other_world.copper)[
        "email"
    ]
    _, signed = sign_in(other_world, headers, admin)
    assert part(other_world, signed, "lead", 1).status_code == 200
    assert part(world, {**signed, **panel}, "lead", 1).status_code == 401


# Content


def test_a_record_shows_balances_rows_and_days_overdue(world: World, panel: dict[str, str]) -> None:
    restrict(world)
    person = world.person("ann@acme.test")
    overdue = world.invoice("ann@acme.test", "1234.50", due="2020-01-31")
    world.invoice("ann@acme.test", "10.00", due="2999-01-01")
    paid = world.invoice("ann@acme.test", "7.00", currency="GBP")
    world.sandbox.simulate("pay_invoice", invoice=paid.id)
    world.settle()
    response = part(world, panel, "person", person, limit=200)
    page_text = plain(response)
    assert "Overdue NZD 1,234.50 Outstanding NZD 1,244.50" in page_text
    assert re.search(r"Overdue [\d,]+ d .* due 31 Jan 2020", page_text)
    assert "GBP 7.00" in page_text
    assert "GBP" not in page_text[: page_text.index("Number or reference")], "nothing is open in it"
    assert 'data-count="3"' in response.text
    assert "All (3)" in page_text
    assert re.search(r"Overdue \(1\) Awaiting payment \(1\) Paid \(1\)", page_text), "each is counted once"
    assert f"invoice-{overdue.id}" in response.text
    waiting = part(world, panel, "person", person, status="AUTHORISED")
    assert overdue.number not in waiting.text, "what is overdue is not listed as awaiting payment too"
    assert waiting.text.count("data-number=") == 1
    only = part(world, panel, "person", person, status="PAID")
    assert paid.number in only.text
    assert overdue.number not in only.text

    german = world.web.get(
        f"/panel/records/person/{person}?limit=3", headers={**panel, "Accept-Language": "de-DE,de;q=0.9"}
    )
    assert "NZD 1.244,50" in german.text
    assert "2999" in german.text


def test_vendor_names_are_escaped(world: World, panel: dict[str, str]) -> None:
    person = world.person("ann@acme.test")
    world.sandbox.simulate("rename_organisation", tenant=world.tenants[0], name="<b>Acme</b> & Sons")
    world.invoice("ann@acme.test", number="<i>INV</i>")
    world.reconcile()
    world.settle()
    html = part(world, panel, "person", person).text
    assert "&lt;b&gt;Acme&lt;/b&gt; &amp; Sons" in html
    assert html.count("&lt;i&gt;INV&lt;/i&gt;") >= 2
    assert "<b>" not in html
    assert "<i>" not in html


def test_more_rows_are_loaded_on_demand(world: World, panel: dict[str, str]) -> None:
    restrict(world)
    person = world.person("ann@acme.test")
    for _ in range(4):
        world.invoice("ann@acme.test")
    world.settle()
    first = part(world, panel, "person", person)
    assert first.text.count("data-number=") == 2
    assert "Show all 4" in first.text
    every = part(world, panel, "person", person, limit=4)
    assert every.text.count("data-number=") == 4
    assert "Show all" not in every.text
    assert "Show fewer" in plain(every)
    assert "Show fewer" not in first.text


def test_an_empty_panel_says_why_and_what_to_do(world: World, panel: dict[str, str]) -> None:
    def panel_text(record_word: str, record: int) -> str:
        return plain(part(world, panel, record_word, record))

    bare, matched, lead = world.person(), world.person("ann@acme.test"), world.lead("lee@acme.test")
    company, deal = world.company(), world.opportunity()
    world.contact("Acme Ltd", "ann@acme.test")
    world.settle()
    assert "This person has no email address, so no invoices can be matched." in panel_text("person", bare)
    assert "Acme Ltd has no invoices in Xero yet." in panel_text("person", matched)
    assert "No Xero contact has the email address lee@acme.test." in panel_text("lead", lead)
    assert "None of this company&#39;s people has an email address" in panel_text("company", company)
    assert "None of this opportunity&#39;s people has an email address" in panel_text("opportunity", deal)
    assert "This lead hasn&#39;t synced yet." in panel_text("lead", 424242)
    world.simulate_copper("delete_record", type="lead", id=lead)
    world.settle()
    assert "This lead was deleted in Copper." in panel_text("lead", lead)
    with transaction() as session:
        now = account_settings.get(session, world.account)
        account_settings.update(session, world.account, account_settings.AccountSettings(now.name, ("lead",), 5, None))
    assert "Invoices are turned off for people." in panel_text("person", matched)


def test_an_empty_panel_names_possible_matches_without_their_addresses(world: World, panel: dict[str, str]) -> None:
    lead, other = world.lead("lee@acme.test"), world.lead("zoe@beta.test")
    contact = world.contact("Acme Accounts", "le@acme.test")
    world.settle()
    assert "possible match" not in plain(part(world, panel, "lead", lead)), "it has no invoices"
    world.invoice(contact)
    world.settle()

    response = part(world, panel, "lead", lead)
    assert "1 possible match: Acme Accounts. An admin can check and link it" in plain(response)
    assert f'href="/records/lead/{lead}/match" target="_blank"' in response.text
    assert "le@acme.test" not in response.text.replace("lee@acme.test", "")
    assert "possible match" not in plain(part(world, panel, "lead", other))


def test_with_a_lost_connection_the_last_known_rows_and_a_notice_are_shown(world: World, panel: dict[str, str]) -> None:
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle()
    with transaction() as session:
        organisation = xero_organisations.list_connected(session, world.account)[0]
        xero_organisations.set_status(session, world.account, organisation.id, OrganisationStatus.NEEDS_REAUTH)
    response = part(world, panel, "person", person)
    assert invoice.number in response.text
    assert f"{organisation.name} is disconnected from Xero, so its invoices may be out of date." in plain(response)


def test_match_details_of_an_invoice_are_shown(world: World, panel: dict[str, str]) -> None:
    company = world.company()
    world.person("ann@acme.test", company=company)
    invoice = world.invoice(world.contact("Acme Ltd", "ann@acme.test"))
    world.settle()
    response = world.web.get(f"/panel/records/company/{company}/invoices/{invoice.id}/match", headers=panel)
    assert plain(response) == (
        "Matched by ann@acme.test , the email address of A person (at this company) and of the Xero contact Acme Ltd "
        "(Acme Sales Ltd 1). Copy link for the customer"
    )
    assert world.web.get(f"/panel/records/lead/1/invoices/{invoice.id}/match", headers=panel).status_code == 404


# Long polls


def test_an_unchanged_record_gets_a_304(world: World, panel: dict[str, str]) -> None:
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle()
    first = part(world, panel, "person", person)
    unchanged = part(world, {**panel, "If-None-Match": first.headers["etag"]}, "person", person)
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert unchanged.headers["x-last-synced-at"]
    world.sandbox.simulate("pay_invoice", invoice=invoice.id)
    world.settle()
    changed = part(world, {**panel, "If-None-Match": first.headers["etag"]}, "person", person)
    assert changed.status_code == 200
    assert "Paid" in changed.text


def test_a_long_poll_is_answered_when_a_change_arrives(world: World, panel: dict[str, str]) -> None:
    person = world.person("ann@acme.test")
    world.person("bob@acme.test")
    other, invoice = world.invoice("ann@acme.test"), world.invoice("ann@acme.test")
    world.settle()
    tag = part(world, panel, "person", person).headers["etag"]
    headers = {**panel, "If-None-Match": tag, "Prefer": "wait=20"}
    responses: list[tuple[float, httpx.Response]] = []
    started = time.monotonic()

    def hold() -> None:
        response = part(world, headers, "person", person)
        responses.append((time.monotonic() - started, response))

    waiting = threading.Thread(target=hold)
    waiting.start()
    world.invoice("bob@acme.test")
    world.settle()
    waiting.join(1.5)
    assert waiting.is_alive(), "a change elsewhere in the account answers nothing"
    world.sandbox.simulate("pay_invoice", invoice=invoice.id)
    world.settle()
    waiting.join(10)
    ((seconds, response),) = responses
    assert response.status_code == 200
    assert "Paid" in response.text
    assert seconds < 15, "it was woken, not timed out"
    assert f'<tr id="row-{other.id}" data-unchanged></tr>' in response.text, "only the rows that changed are sent"
    assert response.text.count("data-unchanged") == 1
    assert "data-unchanged" not in part(world, panel, "person", person).text
