"""Attacks on admission: strangers, hostile tenants, and a lured colleague."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
from typing import Any

import httpx

from runtime.settings import settings
from services import connect
from tests.attack.evidence import Evidence
from tests.attack.site import Site, Tenant, Visitor, at_once, query

MALFORMED, MALFORMED_BYTES = 130, 300_000
MOST_MALFORMED, MOST_BYTES = 100, 100 * 17 * 1024
IGNORED, IDS_A_NOTIFICATION, MOST_IGNORED = 20, 1_000, 1_000
# Twice Copper's quota per minute, because the requests may fall into two minutes.
FOLLOWED, MOST_FOLLOWED = 10, 6_100
MADE_UP_CODE = "AAAA-BBBB-CCCC-DDDD-EEEE-FFFF-GGGG"
CALLBACKS, MOST_TICKETS = 300, 0
# Two digits that no panel shows: their numbers are 10 to 99.
WRONG_NUMBERS = ("00", "01", "02", "03")


def hook_of(tenant: Tenant) -> dict[str, Any]:
    """A subscription with its URL and its secret, which Copper shows to the tenant itself."""
    headers = {"X-PW-AccessToken": tenant.copper_key, "X-PW-UserEmail": tenant.email}
    headers["X-PW-Application"] = "developer_api"
    response = httpx.get(f"{settings().copper_api_url}/webhooks", headers=headers, trust_env=False, timeout=10)
    hook: dict[str, Any] = response.json()[0]
    return hook


def _notify(site: Site, hook: dict[str, Any], **body: Any) -> int:
    with site.client() as client:
        return client.post(hook["target"], content=json.dumps({**body, **hook["secret"]})).status_code


def stranger_needs_an_invitation(site: Site) -> Evidence:
    """Connect an uninvited Copper account; then fill the database as a tenant, with one's own webhooks."""
    evidence = Evidence()
    copper_account = site.sandbox.simulate("add_account", name="Stranger")
    stranger = Visitor(site)
    response = stranger.sign_in(copper_account["api_key"], copper_account["email"])
    if "/connect" in str(response.url):
        stranger.send("/connect", key=copper_account["api_key"], email=copper_account["email"], code=MADE_UP_CODE)
    accounts = query("SELECT id FROM account WHERE copper_account_id = :copper", copper=copper_account["account"])
    for (account,) in accounts:
        connect.disconnect(account, actor="the attack")
    evidence.expect(not accounts, f"a stranger's Copper key {'made an account' if accounts else 'was refused'}")
    evidence.expect(response.status_code < 500, f"a stranger was answered {response.status_code}")
    _fill(site, evidence)
    return evidence


def _fill(site: Site, evidence: Evidence) -> None:
    """Send many unreadable bodies, and then many irrelevant notifications."""
    tenant = site.attacker
    hook = hook_of(tenant)
    filler = "x" * MALFORMED_BYTES
    at_once(8, lambda part: [_notify(site, hook, ids=f"{part} {n}", filler=filler) for n in range(MALFORMED // 8)])
    rows, size = query(
        "SELECT count(*), coalesce(sum(length(body)), 0) FROM inbox WHERE account_id = :a AND body IS NOT NULL",
        a=tenant.account,
    )[0]
    evidence.expect(
        rows <= MOST_MALFORMED and size <= MOST_BYTES,
        f"{MALFORMED} malformed bodies of {MALFORMED_BYTES} bytes left {rows} rows with {size} bytes",
    )
    before = _rows(tenant)
    for part in range(IGNORED):
        ids = [1 + part * IDS_A_NOTIFICATION + n for n in range(IDS_A_NOTIFICATION)]
        _notify(site, hook, ids=ids, type="activity_log", event="new")
    grown = _rows(tenant) - before
    evidence.expect(
        grown <= MOST_IGNORED, f"{IGNORED * IDS_A_NOTIFICATION} notifications that are ignored left {grown} rows"
    )
    statuses = set()
    before = _rows(tenant)
    for part in range(FOLLOWED):
        ids = [600_000_000 + part * IDS_A_NOTIFICATION + n for n in range(IDS_A_NOTIFICATION)]
        statuses.add(_notify(site, hook, ids=ids, type="person", event="update"))
    grown = _rows(tenant) - before
    detail = f"{FOLLOWED * IDS_A_NOTIFICATION} changed records at once, answered {sorted(statuses)}, left {grown} rows"
    evidence.expect(grown <= MOST_FOLLOWED and statuses == {200}, detail)


def _rows(tenant: Tenant) -> int:
    return int(query("SELECT count(*) FROM inbox WHERE account_id = :a", a=tenant.account)[0][0])


def unsolicited_callbacks_store_nothing(site: Site) -> Evidence:
    """Post unsolicited codes and states to the callback, thousands of characters each."""
    evidence = Evidence()
    count = "SELECT count(*) FROM oauth_state WHERE purpose = 'ticket'"
    before = query(count)[0][0]
    form = {"code": "c" * 2_000, "state": "s" * 2_000}

    def post(_: int) -> list[int]:
        with site.client() as client:
            return [client.post("/callback/copper", data=form).status_code for _ in range(CALLBACKS // 10)]

    statuses = {status for responses in at_once(10, post) if isinstance(responses, list) for status in responses}
    stored = query(count)[0][0] - before
    evidence.expect(stored <= MOST_TICKETS, f"{CALLBACKS} callbacks answered {sorted(statuses)} left {stored} rows")
    return evidence


def webhook_secret_is_not_stored(site: Site) -> Evidence:
    """Send an unreadable notification, and search the stored row for its secret."""
    evidence, tenant = Evidence(), site.victim
    hook = hook_of(tenant)
    status = _notify(site, hook, ids="no list", type="person", note=secrets.token_hex(8))
    bodies = query("SELECT body FROM inbox WHERE account_id = :a AND body IS NOT NULL", a=tenant.account)
    leaks = sum(bytes(value) in bytes(body) for (body,) in bodies for value in map(str.encode, hook["secret"].values()))
    evidence.expect(not leaks, f"{leaks} of {len(bodies)} kept bodies hold the webhook's secret")
    evidence.expect(status == 200 and bool(bodies), f"answered {status}, {len(bodies)} bodies kept")
    return evidence


def panel_code_cannot_be_phished(site: Site) -> Evidence:
    """Make a colleague's browser open the attacker's sign-in; exchange the code, or guess the number."""
    evidence, tenant = Evidence(), site.victim
    secret = secrets.token_urlsafe(32)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(secret.encode()).digest()).decode().rstrip("=")
    colleague = Visitor(site)
    opened = colleague.http.get("/panel/signin", params={"challenge": challenge})
    page = httpx.get(f"{opened.headers['location']}&login_hint={tenant.email}", trust_env=False).text
    form = dict(re.findall(r'name="(code|state)" value="([^"]*)"', page))
    finish = colleague.http.post("/callback/copper", data=form)
    colleague.page = response = colleague.http.get(finish.headers["location"])
    for guess in WRONG_NUMBERS:
        token = re.search(r'name="token" value="([^"]*)"', response.text)
        if token is None:
            break
        colleague.page = response
        response = colleague.send("/signin/copper/confirm", token=token[1], number=guess, follow=False)
    code = response.headers.get("location", "").partition("#")[2]
    with site.client() as attacker:
        body = {"code": code, "secret": secret}
        status = attacker.post("/panel/session", json=body, headers=tenant.panel_headers).status_code
    evidence.expect(
        not code and status != 204, f"the window gives {'a code' if code else 'no code'}; redeemed: {status}"
    )
    return evidence
