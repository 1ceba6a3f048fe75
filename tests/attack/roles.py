"""Attacks on database privileges: other databases of the cluster, the pages role, functions of the owner."""

from __future__ import annotations

import inspect

import httpx
import psycopg

from runtime.servers import APPLICATION_ROLE, SUPERUSER
from store.db.database import conninfo
from tests.attack.evidence import Evidence
from tests.attack.site import Site, command, query

STAGING, PASSWORD = "attack_staging", "staging-password"
EMPTY_EXPORTS, MOST_LINES = 30, 5


def _superuser() -> str:
    return conninfo().replace(f"{APPLICATION_ROLE}@", f"{SUPERUSER}@", 1)


def _page_roles() -> list[str]:
    """The roles of pages and reads: all that are granted to the application's role and may not log in."""
    rows = query(
        "SELECT r.rolname FROM pg_roles r WHERE r.rolname LIKE 'patina%' AND NOT r.rolcanlogin"
        " AND pg_has_role(current_user, r.oid, 'MEMBER')"
    )
    return [name for (name,) in rows]


def other_databases_have_no_access(site: Site) -> Evidence:
    """Connect as the user of another installation in the same cluster, a member of its own roles."""
    evidence = Evidence()
    account = site.victim.account
    with psycopg.connect(_superuser(), autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {STAGING} LOGIN PASSWORD '{PASSWORD}'")
    try:
        address = conninfo().replace(f"{APPLICATION_ROLE}@", f"{STAGING}:{PASSWORD}@", 1)
        try:
            with psycopg.connect(address, autocommit=True) as connection:
                evidence.expect(False, "the user of another database may connect")
                connection.execute("SELECT set_config('patina.account', %s, false)", (str(account),))
                keys = connection.execute("SELECT key_hash FROM api_key").fetchall()
                evidence.expect(not keys, f"it reads {len(keys)} hashes of another installation's keys")
        except psycopg.Error as error:
            evidence.expect(True, f"it is refused: {str(error).splitlines()[0][:100]}")
    finally:
        with psycopg.connect(_superuser(), autocommit=True) as owner:
            owner.execute(f"DROP OWNED BY {STAGING}")
            owner.execute(f"DROP ROLE {STAGING}")
    return evidence


def audit_log_cannot_be_flooded_or_altered(site: Site) -> Evidence:
    """Export thirty times with a key; then check which page roles may change the audit log."""
    evidence, tenant = Evidence(), site.attacker
    count = "SELECT count(*) FROM audit_log WHERE account_id = :a AND action = 'rows.exported'"
    before = query(count, a=tenant.account)[0][0]
    with site.client() as client:
        for _ in range(EMPTY_EXPORTS):
            client.get("/v1/people/999999999/invoices.csv", headers=tenant.key_headers)
    lines = query(count, a=tenant.account)[0][0] - before
    evidence.expect(lines <= MOST_LINES, f"{EMPTY_EXPORTS} empty exports left {lines} lines in the audit log")
    for role in _page_roles():
        may = [
            privilege
            for privilege in ("UPDATE", "DELETE", "TRUNCATE")
            if query("SELECT has_table_privilege(:role, 'audit_log', :right)", role=role, right=privilege)[0][0]
        ]
        evidence.expect(not may, f"{role} may {', '.join(may) or 'not change'} the audit log")
    return evidence


def small_leaks_are_closed(site: Site) -> Evidence:
    """Look for keys on command lines, owner privileges in pages, public functions, and an open sandbox."""
    evidence = Evidence()
    output = command("connect", "--help")
    evidence.expect(
        "--copper-key" not in output,
        "`patina connect` takes no key in its words",
        "`patina connect` takes a key that `ps` shows",
    )
    from services import account_status

    source = inspect.getsource(account_status)
    evidence.expect(
        "account_transaction(" in source,
        "the status page reads in the account's bounds",
        "the status page reads as owner",
    )
    loose = query(
        "SELECT proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
        " WHERE n.nspname = 'public' AND prosecdef AND has_function_privilege('public', p.oid, 'EXECUTE')"
    )
    evidence.expect(not loose, f"everybody may execute {', '.join(name for (name,) in loose) or 'no function'}")
    creates = query("SELECT has_schema_privilege('public', 'public', 'CREATE')")[0][0]
    evidence.expect(not creates, "nobody else may create in the schema public", "everybody may create in public")
    for headers in (
        {"content-type": "text/plain", "origin": "https://evil.example"},
        {"content-type": "text/plain", "host": "evil.example", "origin": "http://evil.example"},
        {"content-type": "text/plain", "sec-fetch-site": "cross-site"},
    ):
        body = '{"name": "Planted"}'
        response = httpx.post(
            f"{site.sandbox.url}/control/actions/add_account", content=body, headers=headers, trust_env=False
        )
        evidence.expect(response.status_code >= 400, f"the sandbox takes {headers} ({response.status_code})")
    return evidence
