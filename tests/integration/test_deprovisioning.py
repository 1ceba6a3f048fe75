"""A closed account leaves nothing behind, whatever work is in progress."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait

import httpx
import pytest
from sqlalchemy import text

from runtime import metrics
from services import access, connect
from store.accounts import accounts, audit, browser_sessions, copper_credentials, oauth_state
from store.accounts.browser_sessions import SessionOrigin
from store.accounts.deprovisioning import DATA_TABLES
from store.db.database import AccountClosedError, Session, transaction
from store.db.enums import INSTALLATION, RecordType, SignInMethod
from store.read_model import projection
from store.sync import scheduled_tasks
from tests.integration.test_webhook_endpoints import delivery, event, post_xero
from tests.support.databases import clear_budgets
from tests.support.serving import wait_until
from tests.support.world import World
from worker.jobs import actors, scheduler
from worker.sync import cleanup_tasks, orphans, relations
from worker.vendors.copper import known_keys
from worker.vendors.copper.subscriptions import SECRET_KEY

TABLES_WITH_ACCOUNT = text("""
    SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'account_id'
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' ORDER BY 1
""")


def execute(statement: str, **params: object) -> None:
    with transaction() as session:
        session.execute(text(statement), params)


def rows_of(account_id: int) -> dict[str, int]:
    """The number of the account's rows by table, without empty tables."""
    with transaction() as session:
        tables = list(session.execute(TABLES_WITH_ACCOUNT).scalars())
        counted = {
            table: session.execute(
                text(f"SELECT count(*) FROM {table} WHERE account_id = :account"), {"account": account_id}
            ).scalar_one()
            for table in tables
        }
        counted["account"] = session.execute(
            text("SELECT count(*) FROM account WHERE id = :account"), {"account": account_id}
        ).scalar_one()
    return {table: rows for table, rows in counted.items() if rows}


def clean_up() -> None:
    """Run all clean-up tasks, even if they are not due yet."""
    while True:
        execute("UPDATE cleanup_task SET not_before = now()")
        if not cleanup_tasks.run_due():
            return


@pytest.mark.parametrize("record_type", [RecordType.COMPANY, RecordType.OPPORTUNITY])
def test_a_lookup_that_outlives_its_account_stores_nothing(world: World, record_type: RecordType) -> None:
    clear_budgets("throttle")
    company = world.company()
    people = [world.person(f"d{number}@acme.test", company=company) for number in range(3)]
    opportunity = world.opportunity(company=company, person=people[0])
    world.settle()
    execute("UPDATE copper_record SET relations_fetched_at = now() - interval '3 hours'")
    world.sandbox.faults(api=[{"vendor": "copper", "type": "latency", "path": "search", "seconds": 4.0}])
    before = world.sandbox.calls("search")
    record = company if record_type is RecordType.COMPANY else opportunity
    with ThreadPoolExecutor(1) as threads:
        look_up = threads.submit(relations.refresh_record, world.account, record_type, record)
        wait_until(lambda: world.sandbox.calls("search") > before, description="a look-up on its way")
        connect.disconnect(world.account, actor="Ada Admin")
        world.sandbox.faults()
        clean_up()
        assert isinstance(look_up.exception(timeout=30), LookupError)
    clean_up()
    assert rows_of(world.account) == {}


def referring_tables() -> set[str]:
    """The tables with a foreign key to the account."""
    with transaction() as session:
        return set(
            session.execute(
                text(
                    "SELECT conrelid::regclass::text FROM pg_constraint"
                    " WHERE contype = 'f' AND confrelid = 'account'::regclass AND convalidated AND confdeltype = 'c'"
                )
            ).scalars()
        )


def test_every_table_of_an_account_has_a_foreign_key_or_is_written_under_its_lock(database: str) -> None:
    """A new table needs a foreign key, or its writers must lock the account's row."""
    with transaction() as session:
        tables = set(session.execute(TABLES_WITH_ACCOUNT).scalars())
    kept_tables = {"audit_log", "scheduled_task", "dropped_events", "inbox", "webhook_quota", "oauth_state"}
    kept_tables |= {"record_balance", "record_invoice"}
    assert tables - referring_tables() == kept_tables | {"cleanup_task"}
    assert tables == {*DATA_TABLES, "cleanup_task"}, "whatever an account has is erased with it"


def test_an_account_reconnected_before_its_erasure_is_a_new_account(world: World) -> None:
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle()
    first, key = world.account, accounts_key(world)
    connect.disconnect(first, actor="Ada Admin")
    assert connect.connect_copper(key.api_key, key.email, by_operator=True) != first
    with transaction() as session:
        remaining = accounts.list_accounts(session)
    assert [account.id for account in remaining] != [first], "the one that is closed is nowhere to be seen"
    world.account = remaining[0].id
    world.authorise(world.tenants)
    clean_up()
    world.backfill()
    world.key = access.create_key(world.account, "test")
    assert rows_of(first) == {}
    assert world.invoice_numbers("people", person) == [invoice.number]
    assert world.sandbox.state()["accounts"][0]["subscriptions"] == 12


def test_an_account_closed_during_webhook_set_up_leaves_no_subscription(world: World) -> None:
    key = accounts_key(world)
    world.sandbox.faults(api=[{"vendor": "copper", "type": "latency", "path": "/webhooks", "seconds": 0.1}])
    with ThreadPoolExecutor(1) as executor:
        calls = world.sandbox.calls("/webhooks")
        reconnecting = executor.submit(connect.connect_copper, key.api_key, key.email)
        wait_until(lambda: world.sandbox.calls("/webhooks") > calls + 2, description="the first subscriptions")
        connect.disconnect(world.account, actor="Ada Admin")
        clean_up()
        wait([reconnecting])
    world.sandbox.faults()
    clean_up()
    assert world.sandbox.state()["accounts"][0]["subscriptions"] == 0


def test_a_closed_account_is_erased_from_redis_too(unconnected: World) -> None:
    worlds = [World(unconnected.sandbox, unconnected.web).open(name=name) for name in ("First", "Second")]
    keys = [accounts_key(world) for world in worlds]
    for world, key in zip(worlds, keys, strict=True):
        known_keys.record(key.api_key, key.email, world.copper)
    known_keys.record("an older key", keys[1].email, worlds[0].copper)
    known_keys.record(keys[1].api_key, keys[1].email, worlds[1].copper)
    connect.disconnect(worlds[0].account, actor="Ada Admin")
    clean_up()
    assert [known_keys.find_account_by_key(key.api_key) for key in keys] == [None, worlds[1].copper]
    assert known_keys.find_account_by_key("an older key") is None
    assert [known_keys.find_account_by_email(key.email) for key in keys] == [None, worlds[1].copper]


def accounts_key(world: World) -> copper_credentials.CopperCredentials:
    with transaction() as session:
        return copper_credentials.get(session, world.account)


@pytest.mark.parametrize("table", ["audit_log", "projection_queue"])
def test_erasure_waits_for_running_writers_and_erases_their_rows_too(world: World, table: str) -> None:
    """With a foreign key, and without one."""
    world.person("ann@acme.test")
    world.settle()
    with transaction() as session:
        if table == "audit_log":
            audit.record(session, world.account, "Ada Admin", "key.created", "at the last moment")
        else:
            session.execute(
                text("INSERT INTO projection_queue (account_id, entity_type) VALUES (:a, 'email')"),
                {"a": world.account},
            )
        connect.disconnect(world.account, actor="Ada Admin")
        execute("UPDATE cleanup_task SET not_before = now()")
        cleanup_tasks.run_due()
        assert rows_of(world.account) == {"account": 1, "cleanup_task": 1}, (
            "all that can be seen is gone, but for the row"
        )
    clean_up()
    assert rows_of(world.account) == {}


def test_a_closed_account_accepts_nothing_and_running_work_ends_without_an_error(world: World) -> None:
    access, tenant = accounts_key(world), world.tenants[0]
    session_token = open_session(world.account)
    connect.disconnect(world.account, actor="Ada Admin")
    assert post_xero(world.web, delivery(event(tenant))).status_code == 200
    assert post_copper(world, access).status_code == 401
    with transaction() as session:
        assert browser_sessions.find_by_token(session, session_token) is None
        audit.record(session, world.account, "Ada Admin", "rows.exported", "")
        oauth_state.save(session, world.account, "state", "xero", "browser", {})
        assert schedule_names(session) == []
    with pytest.raises(AccountClosedError), transaction() as session:
        projection.rebuild(session, world.account)
    with pytest.raises(AccountClosedError):
        connect.disconnect(world.account, actor="Another Admin")
    assert set(rows_of(world.account)) <= {"account", "cleanup_task", *DATA_TABLES}
    clean_up()
    for of_source in (actors.drain, actors.advance_run, actors.backfill_created_dates, actors.start_requested_catch_up):
        of_source.fn(world.account, 1)
    for of_account in (actors.project, actors.refresh_stale_relations):
        of_account.fn(world.account)
    actors.refresh_record_relations.fn(world.account, "company", 1)
    assert rows_of(world.account) == {}


def open_session(account_id: int) -> str:
    with transaction() as session:
        return browser_sessions.create(session, account_id, "admin", 1, "Ada Admin", SessionOrigin(SignInMethod.KEY))


def schedule_names(session: Session) -> list[int]:
    return [claim.account_id for claim in scheduled_tasks.claim(session, "catch_up", 0)]


def post_copper(world: World, access: copper_credentials.CopperCredentials) -> httpx.Response:
    body = {"ids": [1], "type": "person", "event": "update", SECRET_KEY: access.webhook_secret}
    return world.web.post(f"/webhooks/copper/{access.webhook_token}", json=body)


ORPHAN_ROWS = {
    "audit_log": "INSERT INTO audit_log (account_id, actor, action) VALUES (987, 'x', 'y')",
    "scheduled_task": "INSERT INTO scheduled_task (account_id, name) VALUES (987, 'catch_up')",
    "inbox": "INSERT INTO inbox (account_id, vendor, tenant, category, event_type, resource_id, "
    "dedupe_key, correlation_id)"
    " SELECT 987, 'xero', '', 'INVOICE', '', n::text, n::text::bytea, '' FROM generate_series(1, 30) n",
    "record_balance": "INSERT INTO record_balance VALUES (987, 'person', 1, 'ACCREC', 'NZD', 1, 0, 0, 0, 0, 0, 1, 0)",
    "unreadable_field": "INSERT INTO unreadable_field (account_id, organisation_id, resource, field, last_row_id)"
    " SELECT id, 4711, 'contacts', 'Name', '' FROM account",
}


def test_rows_without_an_account_are_deleted_in_batches_and_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    world.settle()
    with transaction() as session:
        audit.record(session, INSTALLATION, "Ada Admin", "account.disconnected")
    before = rows_of(world.account), rows_of(0)
    for statement in ORPHAN_ROWS.values():
        execute(statement)
    monkeypatch.setattr(orphans, "BATCH_ROWS", 7)
    counted = {table: swept(table) for table in ORPHAN_ROWS}
    scheduler.delete_orphans()
    assert {table: swept(table) - counted[table] for table in ORPHAN_ROWS} == {
        **dict.fromkeys(ORPHAN_ROWS, 1),
        "inbox": 30,
    }
    assert rows_of(987) == {}
    assert rows_of(world.account) == before[0]
    assert rows_of(0) == {**before[1], "scheduled_task": before[1].get("scheduled_task", 0) + 1}, (
        "what is nobody's by design stays"
    )
    execute("INSERT INTO scheduled_task (account_id, name) VALUES (987, 'catch_up')")
    scheduler.delete_orphans()
    assert rows_of(987) == {"scheduled_task": 1}, "once an hour"


def swept(table: str) -> float:
    return float(metrics.ORPHANS_DELETED.labels(table)._value.get())


def test_a_lost_erasure_is_resumed(world: World) -> None:
    world.person("ann@acme.test")
    world.settle()
    connect.disconnect(world.account, actor="Ada Admin")
    execute("DELETE FROM cleanup_task WHERE task_type = 'data.erase'")
    clean_up()
    assert rows_of(world.account)
    orphans.delete_orphans()
    clean_up()
    assert rows_of(world.account), "whoever closed it a moment ago may still be about to"
    execute("UPDATE account SET closed_at = now() - interval '2 hours'")
    orphans.delete_orphans()
    clean_up()
    assert rows_of(world.account) == {}
