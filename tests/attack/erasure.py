"""Attacks on erasure: a disconnected account, and an erased person."""

from __future__ import annotations

import time
from typing import Any

from services import connect
from tests.attack.evidence import Evidence
from tests.attack.site import Site, Tenant, command, query, rows_of
from tests.support.serving import wait_until

LOOK_UP_SECONDS, AFTERWARDS_SECONDS = 16.0, 3.0
NAME, EMAIL = "Gretel Forgetme", "Gretel.Forgetme@acme.test"
TRACES = (
    ("audit_log", "detail"),
    ("copper_record", "name"),
    ("copper_record_email", "email"),
    ("xero_contact", "name"),
    ("xero_contact_email", "email"),
    ("record_invoice", "issuer"),
    ("inbox", "convert_from(body, 'UTF8')"),
)


def erased_account_stays_erased(site: Site) -> Evidence:
    """Disconnect an account while a lookup waits for Copper; count its rows when the lookup has ended."""
    evidence, tenant = Evidence(), site.open_tenant("Leaving")
    world = tenant.world
    company = world.company()
    for number in range(5):
        world.person(f"p{number}@leaving.test", company=company)
    world.settle()
    query(
        "UPDATE copper_record SET relations_fetched_at = now() - interval '3 hours' WHERE account_id = :a",
        a=world.account,
    )
    slow_search = {"vendor": "copper", "type": "latency", "path": "people/search", "seconds": LOOK_UP_SECONDS}
    with site.faults(slow_search):
        before = site.sandbox.calls("people/search")
        world.read("companies", company)
        wait_until(lambda: site.sandbox.calls("people/search") > before, seconds=20, description="a look-up in flight")
        answered = time.monotonic() + LOOK_UP_SECONDS + AFTERWARDS_SECONDS
        connect.disconnect(world.account, actor="the attack")
        wait_until(lambda: not rows_of(world.account), seconds=LOOK_UP_SECONDS, description="the erasure")
        time.sleep(max(0.0, answered - time.monotonic()))
    remaining = rows_of(world.account)
    remaining |= {"account": 1} if query("SELECT FROM account WHERE id = :a", a=world.account) else {}
    evidence.expect(not remaining, f"after the account was closed: {remaining or 'no row of it'}")
    return evidence


def erased_person_leaves_no_trace(site: Site) -> Evidence:
    """Erase a person whose name is in records, contacts, bodies, links and the audit log; search for traces."""
    evidence, tenant = Evidence(), site.open_tenant("Forgetful")
    world = tenant.world
    person = _record(tenant, "person", NAME, emails=[EMAIL])
    deal = _record(tenant, "opportunity", f"Deal with {NAME} <{EMAIL.lower()}>")
    company = _record(tenant, "company", f"{NAME} (sole trader)")
    contact, linked = world.contact(NAME, EMAIL), world.contact(f"{NAME} Home")
    world.settle()
    _link(site, tenant, person, linked)
    _keep_bodies(tenant.account)
    output = _forget(tenant, "--email", EMAIL)
    world.simulate_copper("delete_record", type="person", id=person)
    world.sandbox.simulate("erase_contact", contact=contact)
    world.settle()
    output += _forget(tenant, "--email", EMAIL)
    is_listed = str(company) in output
    evidence.expect(
        is_listed, "what else has the name is listed", f"what else has the name is not listed: {output[-300:]}"
    )
    # The operator must decide about the listed rows; here all of them are erased.
    for option, value in (
        ("--record", f"opportunity/{deal}"),
        ("--record", f"company/{company}"),
        ("--contact", linked),
    ):
        output += _forget(tenant, option, value)
    traces = {table: count for table, column in TRACES if (count := _found(tenant.account, table, column))}
    evidence.expect(not traces, f"the name is still found: {traces}" if traces else "no row has the name")
    evidence.expect("Error" not in output and "SystemExit" not in output, "each command went through", output[-300:])
    return evidence


def _forget(tenant: Tenant, option: str, value: str) -> str:
    return command("erase-person", option, value, "--account", str(tenant.account))


def _record(tenant: Tenant, record_type: str, name: str, **values: Any) -> int:
    return int(tenant.world.simulate_copper("create_record", type=record_type, name=name, **values)["id"])


def _link(site: Site, tenant: Tenant, person: int, contact: str) -> None:
    """Link a contact manually, which is recorded in the audit log."""
    organisation = query("SELECT id FROM xero_organisation WHERE account_id = :a", a=tenant.account)[0][0]
    admin = site.admin(tenant)
    admin.open("/unmatched")
    admin.send("/links", organisation=organisation, contact=contact, type="person", record=person)


def _keep_bodies(account: int) -> None:
    """Store two unreadable notifications with other spellings of the address."""
    for number, address in enumerate(("Gretel.Forgetme@Acme.test", r"gretel.forgetme\u0040acme.test")):
        query(
            "INSERT INTO inbox (account_id, vendor, tenant, category, event_type, resource_id, "
            "dedupe_key, correlation_id,"
            " state, body) VALUES (:a, 'copper', '', 'malformed', '', '', :key, 'attack', 'failed', :body)",
            a=account,
            key=f"attack {number}".encode(),
            body=f'{{"ids": "no", "email": "{address}"}}'.encode(),
        )


def _found(account: int, table: str, column: str) -> int:
    statement = f"SELECT count(*) FROM {table} WHERE account_id = :a AND {column} ILIKE '%gretel%'"
    return int(query(statement, a=account)[0][0])
