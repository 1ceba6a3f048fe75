"""Whether what is to be gone is gone: a disconnected account, and a person who asked to be forgotten."""

from __future__ import annotations

import time
from typing import Any

from tests.attack.evidence import Evidence
from tests.attack.site import Site, Tenant, command, query, rows_of
from tests.serving import wait_until
from worker import connect

LOOK_UP_SECONDS, AFTERWARDS_SECONDS = 16.0, 3.0
NAME, EMAIL = "Gretel Forgetme", "Gretel.Forgetme@acme.test"
TRACES = (
    ("audit", "detail"),
    ("crm_record", "name"),
    ("crm_record_email", "email"),
    ("xero_contact", "name"),
    ("xero_contact_email", "email"),
    ("record_invoice", "issuer"),
    ("inbox", "convert_from(body, 'UTF8')"),
)


def erased_account_stays_erased(site: Site) -> Evidence:
    """Disconnect an account while a look-up of its people waits for Copper; count its rows when that has ended."""
    evidence, tenant = Evidence(), site.open_tenant("Leaving")
    world = tenant.world
    company = world.company()
    for number in range(5):
        world.person(f"p{number}@leaving.test", company=company)
    world.settle()
    query("UPDATE crm_record SET related_at = now() - interval '3 hours' WHERE account_id = :a", a=world.account)
    late = {"vendor": "copper", "kind": "latency", "path": "people/search", "seconds": LOOK_UP_SECONDS}
    with site.faults(late):
        before = site.sandbox.calls("people/search")
        world.read("companies", company)
        wait_until(lambda: site.sandbox.calls("people/search") > before, seconds=20, what="a look-up in flight")
        answered = time.monotonic() + LOOK_UP_SECONDS + AFTERWARDS_SECONDS
        connect.disconnect(world.account, who="the attack")
        wait_until(lambda: not rows_of(world.account), seconds=LOOK_UP_SECONDS, what="the erasure")
        time.sleep(max(0.0, answered - time.monotonic()))
    left = rows_of(world.account)
    left |= {"account": 1} if query("SELECT FROM account WHERE id = :a", a=world.account) else {}
    evidence.expect(not left, f"after the account was closed: {left or 'no row of it'}")
    return evidence


def forgotten_person_leaves_no_trace(site: Site) -> Evidence:
    """Forget a person whose name stands in records, contacts, bodies, links and the audit log; look for it."""
    evidence, tenant = Evidence(), site.open_tenant("Forgetful")
    world = tenant.world
    person = _record(tenant, "person", NAME, emails=[EMAIL])
    deal = _record(tenant, "opportunity", f"Deal with {NAME} <{EMAIL.lower()}>")
    company = _record(tenant, "company", f"{NAME} (sole trader)")
    contact, linked = world.contact(NAME, EMAIL), world.contact(f"{NAME} Home")
    world.settle()
    _link(site, tenant, person, linked)
    _keep_bodies(tenant.account)
    said = _forget(tenant, "--email", EMAIL)
    world.copper_act("delete_record", type="person", id=person)
    world.sandbox.act("forget_contact", contact=contact)
    world.settle()
    said += _forget(tenant, "--email", EMAIL)
    is_listed = str(company) in said
    evidence.expect(
        is_listed, "what else has the name is listed", f"what else has the name is not listed: {said[-300:]}"
    )
    # What was listed is for a person to decide; here they decide that all of it is meant.
    for option, value in (
        ("--record", f"opportunity/{deal}"),
        ("--record", f"company/{company}"),
        ("--contact", linked),
    ):
        said += _forget(tenant, option, value)
    traces = {table: found for table, column in TRACES if (found := _found(tenant.account, table, column))}
    evidence.expect(not traces, f"the name is still found: {traces}" if traces else "no row has the name")
    evidence.expect("Error" not in said and "SystemExit" not in said, "each command went through", said[-300:])
    return evidence


def _forget(tenant: Tenant, option: str, value: str) -> str:
    return command("forget", option, value, "--account", str(tenant.account))


def _record(tenant: Tenant, kind: str, name: str, **more: Any) -> int:
    return int(tenant.world.copper_act("make_record", type=kind, name=name, **more)["id"])


def _link(site: Site, tenant: Tenant, person: int, contact: str) -> None:
    """Link a contact by hand, which the audit log tells of."""
    organisation = query("SELECT id FROM xero_organisation WHERE account_id = :a", a=tenant.account)[0][0]
    admin = site.admin(tenant)
    admin.open("/unmatched")
    admin.send("/links", organisation=organisation, contact=contact, type="person", record=person)


def _keep_bodies(account: int) -> None:
    """Two notifications that could not be read, the address in them in other spellings."""
    for number, address in enumerate(("Gretel.Forgetme@Acme.test", r"gretel.forgetme\u0040acme.test")):
        query(
            "INSERT INTO inbox (account_id, source, tenant, kind, event, resource_id, dedupe_key, correlation_id,"
            " state, body) VALUES (:a, 'copper', '', 'malformed', '', '', :key, 'attack', 'failed', :body)",
            a=account,
            key=f"attack {number}".encode(),
            body=f'{{"ids": "no", "email": "{address}"}}'.encode(),
        )


def _found(account: int, table: str, column: str) -> int:
    statement = f"SELECT count(*) FROM {table} WHERE account_id = :a AND {column} ILIKE '%gretel%'"
    return int(query(statement, a=account)[0][0])
