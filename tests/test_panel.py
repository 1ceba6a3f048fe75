"""The panel in Copper: who may look, what they see, and that it follows what happens. Without a browser."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import threading
import time
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from runtime.settings import override, settings
from store import accounts
from store.database import transaction
from tests.admin import AdminBrowser
from tests.databases import forget_budgets
from tests.world import World
from worker import connect


@pytest.fixture
def panel(world: World) -> dict[str, str]:
    """A panel's token, as a header."""
    forget_budgets("throttle")
    return {"Authorization": f"Bearer {connect.make_key(world.account, 'The panel', ['panel'])}"}


def restrict(world: World, *teams: int) -> None:
    with transaction() as session:
        now = accounts.choices(session, world.account)
        accounts.choose(session, world.account, accounts.Choices(now.name, now.record_types, 2, False, teams or None))


def sign_in(world: World, headers: dict[str, str], email: str) -> tuple[httpx.Response, dict[str, str]]:
    """Go through the window, by hand; returns the answer to its code, and the panel's cookie."""
    secret = secrets.token_urlsafe(32)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(secret.encode()).digest()).decode().rstrip("=")
    code = code_of(world, challenge, email)
    answer = world.web.post("/panel/session", json={"code": code, "secret": secret}, headers=headers)
    cookie = answer.headers.get("set-cookie", "").partition(";")[0]
    return answer, {**headers, "Cookie": cookie}


def number_of(challenge: str) -> str:
    """What the panel shows, by the first two bytes of its challenge."""
    first, second = base64.urlsafe_b64decode(f"{challenge}=")[:2]
    return f"{(first * 256 + second) % 90 + 10}"


def confirmation(world: World, challenge: str, email: str) -> AdminBrowser:
    """A window that has come back from Copper, in front of the question for the panel's number."""
    window = AdminBrowser(world.web)
    at = window.http.get("/panel/signin", params={"challenge": challenge}).headers["location"]
    page = httpx.get(f"{at}&login_hint={email}", trust_env=False).text
    sent = dict(re.findall(r'name="(code|state)" value="([^"]*)"', page))
    finish = httpx.post(f"{world.web.base_url}/callback/copper", data=sent, trust_env=False).headers["location"]
    assert window.open(finish).status_code == 200
    return window


def send_number(window: AdminBrowser, number: str) -> httpx.Response:
    assert window.page is not None
    (token,) = re.findall(r'name="token" value="([^"]*)"', window.page.text)
    answer = window.send("/signin/copper/confirm", follow=False, token=token, number=number)
    window.page = answer
    return answer


def code_of(world: World, challenge: str, email: str) -> str:
    last = send_number(confirmation(world, challenge, email), number_of(challenge))
    assert last.status_code == 303, last.text
    path, _, code = last.headers["location"].partition("#")
    assert path == "/panel/signed-in"
    return code


def part(world: World, headers: dict[str, str], kind: str, record: int, **query: Any) -> httpx.Response:
    return world.web.get(f"/panel/records/{kind}/{record}", headers=headers, params=query)


def plain(answer: httpx.Response) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.text)).strip()


# Who may look


def test_the_panel_opens_by_its_own_token_alone_until_it_is_revoked(world: World, panel: dict[str, str]) -> None:
    person = world.person("ann@acme.test")
    world.settle()
    assert part(world, panel, "person", person).status_code == 200
    for key in (world.key, connect.make_key(world.account, "admin", ["admin"]), "pat_no", ""):
        refused = part(world, {"Authorization": f"Bearer {key}"} if key else {}, "person", person)
        assert refused.status_code == 401
        assert "This panel URL is no longer valid." in refused.text
    assert world.web.get("/v1/people/1/invoices", headers=panel).status_code == 401, "it opens no API"
    with transaction() as session:
        session.execute(text("UPDATE api_key SET revoked_at = now()"))
    assert part(world, panel, "person", person).status_code == 401


def test_the_page_may_be_framed_by_copper_and_runs_our_own_script_alone(world: World, panel: dict[str, str]) -> None:
    origin = settings().framing_origins[0]
    answer = world.web.get("/panel", params={"origin": origin, "instanceId": "1", "token": "x"})
    policy = answer.headers["content-security-policy"]
    assert f"frame-ancestors {origin}" in policy
    assert "script-src 'self';" in policy
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "x" not in re.findall(r'token="([^"]*)"', answer.text), "the token is not written into the page"
    refused = world.web.get("/panel", params={"origin": "https://evil.test", "instanceId": "1"})
    assert refused.status_code == 403
    assert "frame-ancestors 'none'" in world.web.get("/connect").headers["content-security-policy"]
    override({"PANEL_ORIGINS": "https://crm.test,https://app.copper.com"})
    policy = world.web.get("/panel", params={"origin": "https://crm.test"}).headers["content-security-policy"]
    assert policy.endswith("frame-ancestors https://crm.test https://app.copper.com")


def test_teams_are_asked_of_copper_before_an_answer(world: World, panel: dict[str, str]) -> None:
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle()
    viewer = world.sandbox.act("add_user", account=world.copper, name="Vic Viewer")
    restrict(world, 1)
    first = part(world, panel, "person", person)
    assert first.status_code == 401
    assert "Sign in with Copper" in first.text
    assert invoice.number not in first.text

    answer, signed = sign_in(world, panel, viewer["email"])
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "Secure", "SameSite=None", "Partitioned", "Path=/"))
    refused = part(world, signed, "person", person)
    assert refused.status_code == 403
    assert "you (Vic Viewer) aren&#39;t a member of any of them" in refused.text

    world.copper_act("join_team", user=viewer["user"], team=1)
    assert part(world, signed, "person", person).status_code == 403, "kept for ten minutes"
    asked = world.sandbox.calls("/users/")
    with transaction() as session:
        session.execute(text("UPDATE web_session SET teams_at = now() - interval '11 minutes'"))
    assert invoice.number in part(world, signed, "person", person).text
    assert part(world, signed, "person", person).status_code == 200
    assert world.sandbox.calls("/users/") == asked + 1, "asked once, then kept"

    with transaction() as session:
        session.execute(text("UPDATE web_session SET teams_at = now() - interval '11 minutes'"))
    world.sandbox.faults(api=[{"vendor": "copper", "kind": "status", "status": 503}])
    closed = part(world, signed, "person", person)
    assert closed.status_code == 503, "who cannot be asked about is not let in"
    assert invoice.number not in closed.text
    world.sandbox.faults()

    restrict(world)
    assert part(world, panel, "person", person).status_code == 200, "everyone again"


def test_the_code_of_the_window_works_once_and_for_its_own_panel_alone(world: World, panel: dict[str, str]) -> None:
    restrict(world, 1)
    admin = next(one for one in world.sandbox.state()["accounts"] if one["account"] == world.copper)["email"]
    secret = secrets.token_urlsafe(32)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(secret.encode()).digest()).decode().rstrip("=")

    def redeem(code: str, with_secret: str) -> int:
        sent = {"code": code, "secret": with_secret}
        return world.web.post("/panel/session", json=sent, headers=panel).status_code

    stolen = code_of(world, challenge, admin)
    assert redeem(stolen, secrets.token_urlsafe(32)) == 403, "another frame's secret"
    assert redeem(stolen, secret) == 403, "and it is used up"
    code = code_of(world, challenge, admin)
    assert redeem(code, secret) == 204
    assert redeem(code, secret) == 403
    late = code_of(world, challenge, admin)
    with transaction() as session:
        session.execute(text("UPDATE oauth_state SET expires_at = now()"))
    assert redeem(late, secret) == 403
    other = World(world.sandbox, world.web).open(name="Other")
    theirs = {"Authorization": f"Bearer {connect.make_key(other.account, 'x', ['panel'])}"}
    sent = {"code": code_of(world, challenge, admin), "secret": secret}
    assert world.web.post("/panel/session", json=sent, headers=theirs).status_code == 403, "another account's panel"
    for body in (b"", b"[]", b'{"code": 1}', b"{" * 5_000):
        assert world.web.post("/panel/session", content=body, headers=panel).status_code == 400


def new_challenge() -> tuple[str, str]:
    secret = secrets.token_urlsafe(32)
    return secret, base64.urlsafe_b64encode(hashlib.sha256(secret.encode()).digest()).decode().rstrip("=")


def test_a_colleague_who_is_sent_to_the_window_by_a_link_hands_no_code_over(
    world: World, panel: dict[str, str]
) -> None:
    """The window of somebody else's panel: whoever follows the link has no panel that shows its number."""
    victim = world.sandbox.act("add_user", account=world.copper, name="Vic Viewer")
    world.copper_act("join_team", user=victim["user"], team=1)
    restrict(world, 1)
    _, challenge = new_challenge()
    window = confirmation(world, challenge, victim["email"])
    assert window.page is not None
    said = plain(window.page)
    assert "You are about to sign in to the invoice panel in Copper as Vic Viewer of Acme Sales" in said
    assert "Continue only if you opened this window yourself, from the invoice panel in Copper." in said
    assert number_of(challenge) not in re.findall(r"\b\d\d\b", said), "it is asked for, not told"

    guesses = [str(number) for number in range(10, 100) if str(number) != number_of(challenge)]
    answers = [send_number(window, guess) for guess in guesses[:2]]
    assert [answer.status_code for answer in answers] == [422, 422]
    assert "The panel shows another number." in answers[1].text
    (token,) = re.findall(r'name="token" value="([^"]*)"', answers[1].text)
    ended = send_number(window, guesses[2])
    assert (ended.status_code, "sign in again" in ended.text) == (400, True)
    window.open("/connect")
    late = window.send("/signin/copper/confirm", follow=False, token=token, number=number_of(challenge))
    assert late.status_code == 400, "three guesses, and it is over"
    with transaction() as session:
        assert session.execute(text("SELECT count(*) FROM oauth_state")).scalar_one() == 0
        assert session.execute(text("SELECT count(*) FROM web_session")).scalar_one() == 0


def test_the_number_is_taken_once_and_from_the_window_that_was_asked(world: World, panel: dict[str, str]) -> None:
    admin = next(one for one in world.sandbox.state()["accounts"] if one["account"] == world.copper)["email"]
    _, challenge = new_challenge()
    window = confirmation(world, challenge, admin)
    assert window.page is not None
    (token,) = re.findall(r'name="token" value="([^"]*)"', window.page.text)
    other = AdminBrowser(world.web)
    other.open("/connect")
    sent = {"token": token, "number": number_of(challenge)}
    assert other.send("/signin/copper/confirm", sent, follow=False).status_code == 400
    assert send_number(window, number_of(challenge)).status_code == 400, "whoever tried it, it is used"
    window = confirmation(world, challenge, admin)
    asked = window.page
    assert send_number(window, f" {number_of(challenge)} ").status_code == 303
    window.page = asked
    assert send_number(window, number_of(challenge)).status_code == 400


def test_the_audit_log_tells_whether_window_and_panel_were_at_one_address(world: World, panel: dict[str, str]) -> None:
    admin = next(one for one in world.sandbox.state()["accounts"] if one["account"] == world.copper)["email"]
    answer, _ = sign_in(world, panel, admin)
    assert answer.status_code == 204
    secret, challenge = new_challenge()
    code = code_of(world, challenge, admin)
    elsewhere = httpx.HTTPTransport(local_address="127.0.0.2")
    with httpx.Client(base_url=world.web.base_url, transport=elsewhere) as other:
        assert other.post("/panel/session", json={"code": code, "secret": secret}, headers=panel).status_code == 204
    with transaction() as session:
        said = text("SELECT detail FROM audit WHERE action = 'viewer.signed_in' ORDER BY id")
        here, apart = session.execute(said).scalars()
    assert re.fullmatch(r"to the panel, from [0-9a-f]{16}", here)
    assert re.fullmatch(r"to the panel, window at [0-9a-f]{16}, panel at [0-9a-f]{16}", apart)
    assert "127.0.0" not in here + apart


@pytest.mark.parametrize("challenge", ["", "x" * 42, "x" * 44, "é" * 43, "=" * 43, "." * 43])
def test_a_challenge_that_is_none_begins_no_sign_in(world: World, panel: dict[str, str], challenge: str) -> None:
    assert world.web.get("/panel/signin", params={"challenge": challenge}).status_code == 400
    with transaction() as session:
        assert session.execute(text("SELECT count(*) FROM oauth_state")).scalar_one() == 0


def test_a_session_of_another_account_does_not_open_this_one(world: World, panel: dict[str, str]) -> None:
    other = World(world.sandbox, world.web).open(name="Other")
    restrict(other, 1)
    restrict(world, 1)
    headers = {"Authorization": f"Bearer {connect.make_key(other.account, 'x', ['panel'])}"}
    admin = next(one for one in world.sandbox.state()["accounts"] if one["account"] == other.copper)["email"]
    _, signed = sign_in(other, headers, admin)
    assert part(other, signed, "lead", 1).status_code == 200
    assert part(world, {**signed, **panel}, "lead", 1).status_code == 401


# What they see


def test_a_record_shows_sums_rows_and_how_late_they_are(world: World, panel: dict[str, str]) -> None:
    restrict(world)
    person = world.person("ann@acme.test")
    late = world.invoice("ann@acme.test", "1234.50", due="2020-01-31")
    world.invoice("ann@acme.test", "10.00", due="2999-01-01")
    paid = world.invoice("ann@acme.test", "7.00", currency="GBP")
    world.sandbox.act("pay_invoice", invoice=paid.id)
    world.settle()
    answer = part(world, panel, "person", person, limit=200)
    said = plain(answer)
    assert "NZD 1,244.50 outstanding · NZD 1,234.50 overdue" in said
    assert re.search(r"Overdue [\d,]+ d .* due 31 Jan 2020", said)
    assert "GBP 7.00" in said
    assert "GBP" not in said[: said.index("Status")], "nothing is open in it"
    assert 'data-count="3"' in answer.text
    assert "All (3)" in said
    assert re.search(r"Overdue \(1\) Awaiting payment \(1\) Paid \(1\)", said), "each is counted once"
    assert f"invoice-{late.id}" in answer.text
    waiting = part(world, panel, "person", person, status="AUTHORISED")
    assert late.number not in waiting.text, "what is overdue is not listed as awaiting payment too"
    assert waiting.text.count("data-number=") == 1
    only = part(world, panel, "person", person, status="PAID")
    assert paid.number in only.text
    assert late.number not in only.text

    german = world.web.get(
        f"/panel/records/person/{person}?limit=3", headers={**panel, "Accept-Language": "de-DE,de;q=0.9"}
    )
    assert "NZD 1.244,50" in german.text
    assert "2999" in german.text


def test_names_from_the_vendors_are_shown_as_text(world: World, panel: dict[str, str]) -> None:
    person = world.person("ann@acme.test")
    world.sandbox.act("rename_organisation", tenant=world.tenants[0], name="<b>Acme</b> & Sons")
    world.invoice("ann@acme.test", number="<i>INV</i>")
    world.reconcile()
    world.settle()
    shown = part(world, panel, "person", person).text
    assert "&lt;b&gt;Acme&lt;/b&gt; &amp; Sons" in shown
    assert shown.count("&lt;i&gt;INV&lt;/i&gt;") >= 2
    assert "<b>" not in shown
    assert "<i>" not in shown


def test_more_is_shown_on_demand(world: World, panel: dict[str, str]) -> None:
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


def test_nothing_to_show_says_why_and_what_helps(world: World, panel: dict[str, str]) -> None:
    def said(kind: str, record: int) -> str:
        return plain(part(world, panel, kind, record))

    bare, known, lead = world.person(), world.person("ann@acme.test"), world.lead("lee@acme.test")
    company, deal = world.company(), world.opportunity()
    world.contact("Acme Ltd", "ann@acme.test")
    world.settle()
    assert "This person has no email address, so no invoices can be matched." in said("person", bare)
    assert "Acme Ltd has no invoices in Xero yet." in said("person", known)
    assert "No Xero contact has the email address lee@acme.test." in said("lead", lead)
    assert "None of this company&#39;s people has an email address" in said("company", company)
    assert "None of this opportunity&#39;s people has an email address" in said("opportunity", deal)
    assert "This lead hasn&#39;t synced yet." in said("lead", 424242)
    world.copper_act("delete_record", type="lead", id=lead)
    world.settle()
    assert "This lead was deleted in Copper." in said("lead", lead)
    with transaction() as session:
        now = accounts.choices(session, world.account)
        accounts.choose(session, world.account, accounts.Choices(now.name, ("lead",), 5, False, None))
    assert "Invoices are turned off for people." in said("person", known)


def test_a_lost_connection_keeps_the_last_known_rows_and_says_so(world: World, panel: dict[str, str]) -> None:
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle()
    with transaction() as session:
        place = accounts.organisations(session, world.account)[0]
        accounts.mark_organisation(session, world.account, place.id, "reconnect")
    answer = part(world, panel, "person", person)
    assert invoice.number in answer.text
    assert f"{place.name} is disconnected from Xero, so its invoices may be out of date." in plain(answer)


def test_why_an_invoice_is_here_is_told(world: World, panel: dict[str, str]) -> None:
    company = world.company()
    world.person("ann@acme.test", company=company)
    invoice = world.invoice(world.contact("Acme Ltd", "ann@acme.test"))
    world.settle()
    answer = world.web.get(f"/panel/records/company/{company}/invoices/{invoice.id}/why", headers=panel)
    assert plain(answer) == (
        "Matched by ann@acme.test , the email address of A person (at this company) and of the Xero contact Acme Ltd "
        "(Acme Sales Ltd 1)."
    )
    assert world.web.get(f"/panel/records/lead/1/invoices/{invoice.id}/why", headers=panel).status_code == 404


# That it follows


def test_an_unchanged_record_costs_an_empty_answer(world: World, panel: dict[str, str]) -> None:
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle()
    first = part(world, panel, "person", person)
    again = part(world, {**panel, "If-None-Match": first.headers["etag"]}, "person", person)
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["x-up-to-date-as-of"]
    world.sandbox.act("pay_invoice", invoice=invoice.id)
    world.settle()
    changed = part(world, {**panel, "If-None-Match": first.headers["etag"]}, "person", person)
    assert changed.status_code == 200
    assert "Paid" in changed.text


def test_a_held_request_is_answered_when_the_change_lands(world: World, panel: dict[str, str]) -> None:
    person = world.person("ann@acme.test")
    world.person("bob@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle()
    tag = part(world, panel, "person", person).headers["etag"]
    held = {**panel, "If-None-Match": tag, "Prefer": "wait=20"}
    answers: list[tuple[float, httpx.Response]] = []
    began = time.monotonic()

    def hold() -> None:
        answer = part(world, held, "person", person)
        answers.append((time.monotonic() - began, answer))

    waiting = threading.Thread(target=hold)
    waiting.start()
    world.invoice("bob@acme.test")
    world.settle()
    waiting.join(1.5)
    assert waiting.is_alive(), "a change elsewhere in the account answers nothing"
    world.sandbox.act("pay_invoice", invoice=invoice.id)
    world.settle()
    waiting.join(10)
    ((seconds, answer),) = answers
    assert answer.status_code == 200
    assert "Paid" in answer.text
    assert seconds < 15, "it was woken, not timed out"
