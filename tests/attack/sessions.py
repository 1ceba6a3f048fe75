"""Attacks on sessions: expiry, revocation, and secrets in URLs."""

from __future__ import annotations

import httpx

from tests.attack.evidence import Evidence
from tests.attack.site import Site, query

HOURS_IDLE = 13


def sessions_end_and_can_be_ended(site: Site) -> Evidence:
    """Sign in again, wait, replace the Copper key, sign out: the previous sessions must have ended."""
    evidence, tenant = Evidence(), site.open_tenant("Signed in")
    browser = site.admin(tenant)
    old = httpx.Cookies(browser.http.cookies)
    browser.sign_in(tenant.copper_key, tenant.email)
    evidence.expect(
        not _is_inside(site, old),
        "signing in again ends the session before",
        "signing in again leaves the session before open",
    )
    idle = _idle_survives(site, site.admin(tenant).http.cookies, tenant.account)
    evidence.expect(not idle, "an idle session ends", f"a session that was idle for {HOURS_IDLE} hours opens pages")
    other_cookies = site.admin(tenant).http.cookies
    admin = site.admin(tenant)
    status = admin.open("/sessions").status_code
    evidence.expect(status == 200, "a page lists the open sessions", "no page lists the sessions")
    admin.open("/settings")
    second_admin = site.sandbox.simulate("add_user", account=tenant.world.copper, name="Second Admin", admin=True)
    admin.send("/copper/key", key=second_admin["api_key"], email=second_admin["email"])
    evidence.expect(
        not _is_inside(site, other_cookies), "a new Copper key ends the others", "a new Copper key ends no session"
    )
    leaving = site.admin(tenant)
    leaving.open("/settings")
    response = leaving.send("/signout", follow=False)
    evidence.expect(
        "clear-site-data" in response.headers,
        "signing out clears the browser",
        "signing out clears nothing in the browser",
    )
    records = site.admin(tenant).open("/records").text
    evidence.expect(
        'method="get"' not in records.casefold(),
        "no search puts names into addresses",
        "a search puts names into addresses",
    )
    return evidence


def _is_inside(site: Site, cookies: httpx.Cookies) -> bool:
    with site.client(cookies=cookies) as client:
        return client.get("/status").status_code == 200


def _idle_survives(site: Site, cookies: httpx.Cookies, account: int) -> bool:
    """Whether a session still works after thirteen idle hours."""
    columns = query("SELECT column_name FROM information_schema.columns WHERE table_name = 'browser_session'")
    used = [name for (name,) in columns if name in {"last_used_at", "last_seen_at", "seen_at", "used_at"}]
    if not used:
        return True
    query(
        f"UPDATE browser_session SET {used[0]} = now() - make_interval(hours => :hours) WHERE account_id = :a",
        hours=HOURS_IDLE,
        a=account,
    )
    return _is_inside(site, cookies)
