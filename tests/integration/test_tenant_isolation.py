"""Tenant isolation by statements and by row-level security; no secret leaks."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from cryptography.fernet import Fernet
from sqlalchemy import text

from runtime.settings import override_settings, settings
from services import access
from store.accounts import account_settings, admins, api_keys, copper_credentials, xero_grants, xero_organisations
from store.db import crypto
from store.db.database import Role, account_transaction, conninfo, transaction
from store.db.roles import PAGES
from store.mirror import mirror
from tests.integration.test_connect_pages import FORM
from tests.support import databases
from tests.support.admin import AdminBrowser, sign_in
from tests.support.commands import patina as run_patina
from tests.support.processes import Processes, patina
from tests.support.routes import every_path
from tests.support.serving import wait_until
from tests.support.world import World
from web.app import create
from web.presentation import problems
from worker.sync import projector

ACCOUNT_TABLES = """
    SELECT c.relname, c.relrowsecurity, p.polroles::regrole[]::text[] AS roles
    FROM pg_class c LEFT JOIN pg_policy p ON p.polrelid = c.oid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
      AND (c.relname = 'account' OR EXISTS (SELECT FROM pg_attribute a
           WHERE a.attrelid = c.oid AND a.attname = 'account_id'))
"""


@pytest.fixture
def two(unconnected: World) -> tuple[World, World]:
    """Two accounts, each with a company of one person and one invoice."""
    databases.clear_budgets("throttle")
    worlds = []
    for name in ("First", "Second"):
        world = World(unconnected.sandbox, unconnected.web).open(name=name)
        company = world.company()
        world.person(f"ann@{name}.test".lower(), company=company)
        world.invoice(f"ann@{name}.test".lower())
        world.settle()
        worlds.append(world)
    return worlds[0], worlds[1]


def test_every_table_of_an_account_has_a_row_level_security_policy(database: str) -> None:
    with transaction() as session:
        rows = session.execute(text(ACCOUNT_TABLES)).all()
    assert len(rows) > 20
    role_names = {databases.role_name(role) for role in Role}
    assert [row.relname for row in rows if not row.relrowsecurity or set(row.roles) != role_names] == []


def test_every_policy_checks_the_account(database: str) -> None:
    with transaction() as session:
        rows = session.execute(text("SELECT tablename, permissive, cmd, qual, with_check FROM pg_policies")).all()
    bound_account = "(NULLIF(current_setting('patina.account'::text, true), ''::text))::bigint)"
    assert len(rows) > 20
    for row in rows:
        column = "id" if row.tablename == "account" else "account_id"
        expected = ("PERMISSIVE", "ALL", f"({column} = {bound_account}", None)
        assert (row.permissive, row.cmd, row.qual, row.with_check) == expected, row.tablename


def test_an_account_transaction_only_sees_and_changes_its_own_account(two: tuple[World, World]) -> None:
    first, second = two
    with transaction() as session:
        tables = [row.relname for row in session.execute(text(ACCOUNT_TABLES))]
    with account_transaction(first.account) as session:
        for table in PAGES.keys() & set(tables) - {"projection_queue"}:
            key = "id" if table == "account" else "account_id"
            others = session.execute(
                text(f"SELECT count(*) FROM {table} WHERE {key} <> :mine"), {"mine": first.account}
            ).scalar_one()
            assert others == 0, table
        assert session.execute(text("SELECT count(*) FROM record_invoice")).scalar_one() == 2
        assert session.execute(text("UPDATE account SET invoice_limit = 7")).rowcount == 1  # type: ignore[attr-defined]
        session.rollback()
    with pytest.raises(Exception, match="row-level security"), account_transaction(first.account) as session:
        api_keys.create(session, second.account, "planted")
    with account_transaction(first.account) as session:
        account_settings.update(session, second.account, account_settings.AccountSettings("x", (), 1, None))
    with transaction() as session:
        assert account_settings.get(session, second.account).invoice_limit == 5
        assert mirror.count_rows(session, second.account)[1] == 1
    with transaction() as session:
        assert session.execute(text("SELECT current_setting('role')")).scalar_one() == "none", "it ends with it"


def test_a_read_connection_sees_nothing_before_a_key_sets_its_account(two: tuple[World, World]) -> None:
    first, _ = two
    call = "SELECT count(invoice_id) FROM invoices_by_key(%s, 'company', %s, 5, 'infinity', %s, true, false)"
    greatest = "f" * 8 + "-ffff-ffff-ffff-" + "f" * 12
    company = first.record_ids("company")[0]
    with psycopg.connect(conninfo(), autocommit=True) as connection:
        connection.execute("SELECT set_config('role', read_role(), false)")
        for table in ("record_invoice", "account", "copper_record"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
        key = crypto.digest(first.key)
        assert connection.execute(call, (key, company, greatest)).fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM record_invoice").fetchone() == (0,), "for that call only"
        assert connection.execute(call, (b"unknown", company, greatest)).fetchone() == (0,)


def test_batched_reads_return_each_key_its_own_account(two: tuple[World, World]) -> None:
    first = two[0]
    requested = [(world.key, other.record_ids("company")[0]) for world in two for other in two] * 8 + [
        ("pat_unknown", 1)
    ] * 8

    def read(request: tuple[str, int]) -> httpx.Response:
        return first.web.get(f"/v1/companies/{request[1]}/invoices", headers={"Authorization": f"Bearer {request[0]}"})

    expected_rows = {world.key: world.rows("companies", world.record_ids("company")[0]) for world in two}
    with transaction() as session, ThreadPoolExecutor(len(requested)) as threads:
        # The lock makes them queue up; when it is released, a few statements answer them.
        session.execute(text("LOCK TABLE record_invoice IN ACCESS EXCLUSIVE MODE"))
        coming = [threads.submit(read, request) for request in requested]
        time.sleep(0.5)
        assert not any(future.done() for future in coming)
        session.commit()
        responses = [future.result() for future in coming]
    own = {(world.key, world.record_ids("company")[0]) for world in two}
    for request, response in zip(requested, responses, strict=True):
        if request[0] == "pat_unknown":
            assert response.status_code == 401
        else:
            assert response.json()["invoices"] == (expected_rows[request[0]] if request in own else [])


def test_responses_reveal_nothing_about_records_of_other_accounts(two: tuple[World, World]) -> None:
    first, second = two
    company, invoice = (
        second.record_ids("company")[0],
        second.rows("companies", second.record_ids("company")[0])[0]["id"],
    )
    key = {"Authorization": f"Bearer {access.create_key(first.account, 'admin', ['admin'])}"}
    payload = first.web.get(f"/v1/companies/{company}/match", headers=key).json()
    assert (payload["name"], payload["addresses"], payload["contacts"], payload["near_misses"]) == (None, [], [], [])
    browser = sign_in(first)
    for path in (
        f"/records/company/{company}",
        f"/records/company/{company}/match",
        "/unmatched",
    ):
        assert "ann@second" not in browser.open(path).text.replace('value="ann@second"', "")
        assert invoice not in (browser.page.text if browser.page else "")
    assert "ann@second" not in browser.find("ann@second").text.replace('value="ann@second"', "")
    assert browser.open(f"/records/company/{company}/invoices/{invoice}/match").status_code == 404
    with transaction() as session:
        organisation_id = xero_organisations.list_connected(session, second.account)[0].id
        foreign_ids = session.execute(
            text("SELECT contact_id FROM xero_contact WHERE account_id = :a LIMIT 1"), {"a": second.account}
        ).scalar_one()
    browser.open("/unmatched")
    own_person = first.record_ids("person")[0]
    ends = {
        "organisation": str(organisation_id),
        "contact": str(foreign_ids),
        "type": "person",
        "record": str(own_person),
    }
    assert browser.send("/links", ends).status_code == 422
    with transaction() as session:
        assert session.execute(text("SELECT count(*) FROM contact_link")).scalar_one() == 0


OPEN = {
    "/connect",
    "/disconnected",
    "/healthz",
    "/readyz",
    "/openapi.json",
    "/docs",
    "/docs/oauth2-redirect",
    "/panel/signed-in",
}
REFUSALS = {303, 400, 401, 403, 404, 405, 422}


def test_no_endpoint_accepts_ids_of_another_account(two: tuple[World, World], web: httpx.Client) -> None:
    first, second = two
    for plural, record_type in (("people", "person"), ("companies", "company")):
        foreign_id = second.record_ids(record_type)[0]
        assert second.rows(plural, foreign_id)
        assert first.rows(plural, foreign_id) == []
    browser = sign_in(first)
    with transaction() as session:
        key = api_keys.list_active(session, second.account)[0].id
        organisation = xero_organisations.list_connected(session, second.account)[0].id
        admins.add(session, second.account, 77, "Theirs")
    browser.open("/settings")
    for path in (f"/keys/{key}/revoke", f"/organisations/{organisation}/remove", "/admins/77/remove"):
        assert browser.send(path, follow=False).status_code == 404, path
    browser.open("/settings")
    browser.send("/settings", FORM)
    assert "Second" not in browser.open("/settings").text + browser.open("/audit").text + browser.open("/keys").text
    with transaction() as session:
        assert account_settings.get(session, second.account).invoice_limit == 5
    assert second.read("people", 1).status_code == 200
    paths = every_path(create())
    assert len(paths) > 50
    refused = {path: AdminBrowser(web).http.get(path).status_code for path in paths if path not in OPEN}
    assert {path: status for path, status in refused.items() if status not in REFUSALS} == {}


def test_a_revoked_key_is_refused_by_every_endpoint(two: tuple[World, World], web: httpx.Client) -> None:
    world, _ = two
    company = world.record_ids("company")[0]
    invoice = world.rows("companies", company)[0]["id"]
    described = web.get("/openapi.json").json()["paths"]
    paths = [
        path.format(type="companies", id=company, format="csv", invoice_id=invoice)
        for path, methods in described.items()
        if methods.get("get", {}).get("security")
    ]
    assert len(paths) == 9
    key = access.create_key(world.account, "to be revoked", ["read", "admin"])
    headers = {"Authorization": f"Bearer {key}"}
    assert {path: web.get(path, headers=headers).status_code for path in paths} == dict.fromkeys(paths, 200)
    with transaction() as session:
        keys = api_keys.list_active(session, world.account)
        api_keys.revoke(session, world.account, next(key.id for key in keys if key.name == "to be revoked"))
    assert {path: web.get(path, headers=headers).status_code for path in paths} == dict.fromkeys(paths, 401)


# Secrets


def planted(world: World) -> dict[str, str]:
    state = next(account for account in world.sandbox.state()["accounts"] if account["account"] == world.copper)
    with transaction() as session:
        token = xero_grants.list_grants(session, world.account)[0].token
        copper = copper_credentials.get(session, world.account)
    return {
        "Copper key": state["api_key"],
        "admin's address": state["email"],
        "person's address": "ann.planted@acme.test",
        "contact's address": "bob.planted@acme.test",
        "access token": token["access_token"],
        "refresh token": token["refresh_token"],
        "webhook secret": copper.webhook_secret,
        "webhook path": copper.webhook_token,
        "API key": world.key,
        "Xero's webhook key": settings().xero_webhook_keys[0],
        "Xero's client secret": settings().xero_client_secret or "",
    }


def test_no_secret_and_no_address_reaches_a_log(world: World, processes: Processes, tmp_path: Path) -> None:
    override_settings({"LOG_LEVEL": "debug", "METRICS_TOKEN": "a-token-of-sixteen"})
    database_log = databases.HOME / "postgres" / "server.log"
    before = database_log.stat().st_size
    logs = [(tmp_path / f"{name}.log").open("wb") for name in ("worker", "scheduler")]
    processes += [patina(name, stderr=log.fileno()) for name, log in zip(("worker", "scheduler"), logs, strict=True)]
    world.workers = True
    world.sandbox.faults(api=[{"vendor": "xero", "type": "drop", "probability": 0.2}])
    person = world.person("ann.planted@acme.test")
    invoice = world.invoice(world.contact("Ann", "ann.planted@acme.test", ["bob.planted@acme.test"]))
    world.settle()
    world.sandbox.faults()
    key = {"Authorization": f"Bearer {access.create_key(world.account, 'admin', ['admin'])}"}
    link = world.web.post(f"/v1/people/{person}/invoices/{invoice.id}/customer-link", headers=key).json()["url"]
    with transaction() as session:
        session.execute(text("ALTER TABLE copper_record_email ADD CHECK (email <> 'zoe.planted@acme.test')"))
    world.simulate_copper("update_record", type="person", id=person, emails=["zoe.planted@acme.test"])

    def log_text() -> str:
        return "".join((tmp_path / f"{name}.log").read_text() for name in ("worker", "scheduler"))

    wait_until(lambda: "event.failed" in log_text(), description="an error that has an address in its statement")
    metrics = world.web.get("/metrics", headers={"Authorization": "Bearer a-token-of-sixteen"}).text
    server = database_log.read_bytes()[before:].decode(errors="replace")
    for source, content in (("logs", log_text()), ("metrics", metrics), ("the database's log", server)):
        for name, value in {**planted(world), "address": "zoe.planted@acme.test", "customer link": link}.items():
            assert value not in content, f"{name} stands in {source}"


def test_encryption_keys_are_rotated_without_downtime(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = settings().encryption_keys[0], Fernet.generate_key().decode()

    def use(*keys: str) -> None:
        override_settings({"ENCRYPTION_KEYS": ",".join(keys)})
        crypto._fernet.clear()
        crypto._signer.cache_clear()

    token = crypto.sign("session", "somebody")
    use(new, old)
    assert crypto.unsign("session", token) == "somebody", "whoever was signed in stays"
    assert run_patina("rotate-keys").stdout == "rotate-keys ok: 2 secrets encrypted with the newest key\n"
    use(new)
    with transaction() as session:
        assert copper_credentials.get(session, world.account).api_key
        assert xero_grants.list_grants(session, world.account)[0].token["refresh_token"]
    assert crypto.unsign("session", token) is None
    use(Fernet.generate_key().decode())
    completed = run_patina("rotate-keys")
    assert completed.returncode == 1
    assert "ENCRYPTION_KEYS" in completed.stderr
    use(old)


def test_an_erased_person_is_removed_from_mirror_and_read_model(world: World) -> None:
    person, company = world.person("ann@acme.test"), world.company()
    world.simulate_copper("move_person", person=person, company=company)
    world.invoice("ann@acme.test")
    world.settle()
    assert len(world.invoice_numbers("companies", company)) == 1
    completed = run_patina("erase-person", "--email", " Ann@ACME.test ")
    assert completed.stdout.startswith(
        "erase-person ok: erased from 1 record, 1 contact and 0 stored bodies; 2 rows changed\n"
    )
    projector.project(world.account)
    assert world.invoice_numbers("people", person) == world.invoice_numbers("companies", company) == []
    with transaction() as session:
        dump = "".join(
            str(row)
            for table in (
                "copper_record",
                "copper_record_email",
                "xero_contact",
                "xero_contact_email",
                "projection_queue",
                "audit_log",
            )
            for row in session.execute(text(f"SELECT t::text FROM {table} t"))
        )
    assert "ann@acme" not in dump.lower()
    assert run_patina("erase-person", "--email", "nobody").returncode == 2


def test_keys_are_created_listed_and_revoked_by_command(world: World) -> None:
    key = run_patina("keys", "create", "For the CRM").stdout.strip()
    headers = {"Authorization": f"Bearer {key}"}
    assert world.web.get("/v1/people/1/invoices", headers=headers).status_code == 200
    listing = run_patina("keys", "list").stdout
    assert key[:12] in listing
    assert key not in listing
    number = next(line.split()[0] for line in listing.splitlines() if "For the CRM" in line)
    assert run_patina("keys", "revoke", number).stdout == "revoked: For the CRM\n"
    assert world.web.get("/v1/people/1/invoices", headers=headers).status_code == 401
    assert run_patina("keys", "revoke", number).returncode == 1
    assert run_patina("keys", "create", "x", "--scope", "root").returncode == 2


@pytest.mark.timeout(600)
def test_the_api_conforms_to_its_openapi_document(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Schemathesis, with a valid and an invalid key: no 500, and no undocumented response.

    That a cursor which `next` did not give is refused, though it looks like one, is no fault.
    """
    import schemathesis
    from hypothesis import HealthCheck, Phase, given
    from hypothesis import settings as hypothesis_settings
    from schemathesis.core.result import Ok
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    monkeypatch.setattr(problems, "TARPIT_SECONDS", 0.0)
    person = world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    world.settle()
    schema = schemathesis.openapi.from_url(f"{world.web.base_url}/openapi.json")
    # Other tests keep the machine busy.
    schema.config.update(request_timeout=60)
    operations = [operation.ok() for operation in schema.get_all_operations() if isinstance(operation, Ok)]
    assert len(operations) == 14
    run_settings = hypothesis_settings(
        max_examples=40,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    statuses: set[int] = set()

    def keeps_to_it(operation: Any, key: str) -> None:
        @run_settings
        @given(case=operation.as_strategy())
        def probe(case: Any) -> None:
            response = case.call(headers={"Authorization": f"Bearer {key}"})
            case.validate_response(response, excluded_checks=[positive_data_acceptance])
            statuses.add(response.status_code)
            odd = {**(case.query or {}), "after": "a\x00b"}
            case.query = odd
            response = case.call(headers={"Authorization": f"Bearer {key}"})
            case.validate_response(response, excluded_checks=[positive_data_acceptance])
            assert response.status_code == 400, "a NUL is refused whatever else is sent"

        probe()

    admin = access.create_key(world.account, "admin", ["admin"])
    for operation in operations:
        for key in (admin, world.key, "pat_invalid"):
            keeps_to_it(operation, key)
    assert {200, 401, 403} <= statuses <= {200, 204, 400, 401, 403, 404, 429}
    assert person
