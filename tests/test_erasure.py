"""An account that is closed leaves nothing behind, whatever is at work on it at that moment."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait

import httpx
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import text

from alembic import command
from store import access as access_
from store import accounts, audit, browser_sessions, chores, projection
from store.browser_sessions import SessionOrigin
from store.closing import DATA_TABLES
from store.database import AccountClosedError, Session, alembic_config, let_go, transaction
from store.models import RecordType, SignInMethod
from tests.databases import forget_budgets
from tests.serving import wait_until
from tests.test_receivers import delivery, event, post_xero
from tests.world import World
from worker import connect, instruments, jobs, known_keys, leftovers, orphans, relations, schedule
from worker.copper.subscriptions import SECRET_KEY

TABLES_WITH_ACCOUNT = text("""
    SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'account_id'
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' ORDER BY 1
""")


def execute(statement: str, **params: object) -> None:
    with transaction() as session:
        session.execute(text(statement), params)


def rows_of(account_id: int) -> dict[str, int]:
    """How many rows of the account each table holds, of those that hold any."""
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
    """Do all that is left to do, whenever it is due."""
    while True:
        execute("UPDATE leftover SET not_before = now()")
        if not leftovers.clean_up():
            return


@pytest.mark.parametrize("kind", [RecordType.COMPANY, RecordType.OPPORTUNITY])
def test_a_look_up_that_outlives_its_account_writes_nobody_back(world: World, kind: RecordType) -> None:
    forget_budgets("throttle")
    company = world.company()
    people = [world.person(f"d{number}@acme.test", company=company) for number in range(3)]
    opportunity = world.opportunity(company=company, person=people[0])
    world.settle()
    execute("UPDATE crm_record SET related_at = now() - interval '3 hours'")
    world.sandbox.faults(api=[{"vendor": "copper", "kind": "latency", "path": "search", "seconds": 4.0}])
    before = world.sandbox.calls("search")
    record = company if kind is RecordType.COMPANY else opportunity
    with ThreadPoolExecutor(1) as threads:
        look_up = threads.submit(relations.refresh, world.account, kind, record)
        wait_until(lambda: world.sandbox.calls("search") > before, what="a look-up on its way")
        connect.disconnect(world.account, who="Ada Admin")
        world.sandbox.faults()
        clean_up()
        assert isinstance(look_up.exception(timeout=30), LookupError)
    clean_up()
    assert rows_of(world.account) == {}


def referring_tables() -> set[str]:
    """The tables whose rows PostgreSQL itself ties to the account."""
    with transaction() as session:
        return set(
            session.execute(
                text(
                    "SELECT conrelid::regclass::text FROM pg_constraint"
                    " WHERE contype = 'f' AND confrelid = 'account'::regclass AND convalidated AND confdeltype = 'c'"
                )
            ).scalars()
        )


def test_every_table_of_an_account_is_tied_to_it_or_written_by_who_holds_it(database: str) -> None:
    """A new table gets a foreign key; without one, whoever writes to it has to hold the account's row."""
    with transaction() as session:
        tables = set(session.execute(TABLES_WITH_ACCOUNT).scalars())
    held = {"audit", "chore", "dropped_events", "inbox", "notification_window", "oauth_state"}
    held |= {"record_balance", "record_invoice"}
    assert tables - referring_tables() == held | {"leftover"}
    assert tables == {*DATA_TABLES, "leftover"}, "whatever an account has is erased with it"


def test_an_account_that_is_connected_again_before_it_is_erased_is_another_one(world: World) -> None:
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle()
    first, made = world.account, accounts_key(world)
    connect.disconnect(first, who="Ada Admin")
    assert connect.connect_copper(made.api_key, made.email, by_operator=True) != first
    with transaction() as session:
        again = accounts.accounts(session)
    assert [one.id for one in again] != [first], "the one that is closed is nowhere to be seen"
    world.account = again[0].id
    world.authorise(world.tenants)
    clean_up()
    world.backfill()
    world.key = connect.make_key(world.account, "test")
    assert rows_of(first) == {}
    assert world.shown("people", person) == [invoice.number]
    assert world.sandbox.state()["accounts"][0]["subscriptions"] == 12


def test_an_account_that_is_closed_while_its_webhooks_are_set_up_leaves_no_subscription(world: World) -> None:
    held = accounts_key(world)
    world.sandbox.faults(api=[{"vendor": "copper", "kind": "latency", "path": "/webhooks", "seconds": 0.1}])
    with ThreadPoolExecutor(1) as executor:
        calls = world.sandbox.calls("/webhooks")
        again = executor.submit(connect.connect_copper, held.api_key, held.email)
        wait_until(lambda: world.sandbox.calls("/webhooks") > calls + 2, what="the first subscriptions")
        connect.disconnect(world.account, who="Ada Admin")
        clean_up()
        wait([again])
    world.sandbox.faults()
    clean_up()
    assert world.sandbox.state()["accounts"][0]["subscriptions"] == 0


def test_a_closed_account_is_forgotten_in_redis_too(unconnected: World) -> None:
    both = [World(unconnected.sandbox, unconnected.web).open(name=name) for name in ("First", "Second")]
    keys = [accounts_key(world) for world in both]
    for world, key in zip(both, keys, strict=True):
        known_keys.remember(key.api_key, key.email, world.copper)
    known_keys.remember("an older key", keys[1].email, both[0].copper)
    known_keys.remember(keys[1].api_key, keys[1].email, both[1].copper)
    connect.disconnect(both[0].account, who="Ada Admin")
    clean_up()
    assert [known_keys.account_of_key(key.api_key) for key in keys] == [None, both[1].copper]
    assert known_keys.account_of_key("an older key") is None
    assert [known_keys.account_of_email(key.email) for key in keys] == [None, both[1].copper]


def accounts_key(world: World) -> accounts.CopperAccess:
    with transaction() as session:
        return accounts.copper_access(session, world.account)


@pytest.mark.parametrize("table", ["audit", "dirty"])
def test_whoever_is_adding_rows_is_waited_for_and_what_they_added_is_erased_too(world: World, table: str) -> None:
    """By a foreign key, and without one."""
    world.person("ann@acme.test")
    world.settle()
    with transaction() as session:
        if table == "audit":
            audit.note(session, world.account, "Ada Admin", "key.made", "at the last moment")
        else:
            session.execute(text("INSERT INTO dirty (account_id, kind) VALUES (:a, 'email')"), {"a": world.account})
        connect.disconnect(world.account, who="Ada Admin")
        execute("UPDATE leftover SET not_before = now()")
        leftovers.clean_up()
        assert rows_of(world.account) == {"account": 1, "leftover": 1}, "all that can be seen is gone, but for the row"
    clean_up()
    assert rows_of(world.account) == {}


def test_a_closed_account_takes_nothing_in_and_ends_no_work_with_an_error(world: World) -> None:
    access, tenant = accounts_key(world), world.tenants[0]
    session_token = open_session(world.account)
    connect.disconnect(world.account, who="Ada Admin")
    assert post_xero(world.web, delivery(event(tenant))).status_code == 200
    assert post_copper(world, access).status_code == 401
    with transaction() as session:
        assert browser_sessions.of_token(session, session_token) is None
        audit.note(session, world.account, "Ada Admin", "rows.exported", "")
        access_.save_state(session, world.account, "state", "xero", "browser", {})
        assert schedule_names(session) == []
    with pytest.raises(AccountClosedError), transaction() as session:
        projection.rebuild(session, world.account)
    with pytest.raises(AccountClosedError):
        connect.disconnect(world.account, who="Another Admin")
    assert set(rows_of(world.account)) <= {"account", "leftover", *DATA_TABLES}
    clean_up()
    for of_source in (jobs.drain, jobs.advance_run, jobs.look_up_history, jobs.begin_requested_catch_up):
        of_source.fn(world.account, 1)
    for of_account in (jobs.project, jobs.rotate_relations):
        of_account.fn(world.account)
    jobs.refresh_relations.fn(world.account, "company", 1)
    assert rows_of(world.account) == {}


def open_session(account_id: int) -> str:
    with transaction() as session:
        return browser_sessions.open_session(
            session, account_id, "admin", 1, "Ada Admin", SessionOrigin(SignInMethod.KEY)
        )


def schedule_names(session: Session) -> list[int]:
    return chores.claim(session, "catch_up", 0)


def post_copper(world: World, access: accounts.CopperAccess) -> httpx.Response:
    body = {"ids": [1], "type": "person", "event": "update", SECRET_KEY: access.webhook_secret}
    return world.web.post(f"/webhooks/copper/{access.webhook_token}", json=body)


STRAY = {
    "audit": "INSERT INTO audit (account_id, who, action) VALUES (987, 'x', 'y')",
    "chore": "INSERT INTO chore (account_id, name) VALUES (987, 'catch_up')",
    "inbox": "INSERT INTO inbox (account_id, source, tenant, kind, event, resource_id, dedupe_key, correlation_id)"
    " SELECT 987, 'xero', '', 'INVOICE', '', n::text, n::text::bytea, '' FROM generate_series(1, 30) n",
    "record_balance": "INSERT INTO record_balance VALUES (987, 'person', 1, 'ACCREC', 'NZD', 1, 0, 1, 0)",
    "unreadable_field": "INSERT INTO unreadable_field (account_id, organisation_id, resource, field, last_row_id)"
    " SELECT id, 4711, 'contacts', 'Name', '' FROM account",
}


def test_rows_of_nobody_are_deleted_in_batches_and_counted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    world.settle()
    with transaction() as session:
        audit.note(session, audit.INSTALLATION, "Ada Admin", "account.disconnected")
    before = rows_of(world.account), rows_of(0)
    for statement in STRAY.values():
        execute(statement)
    monkeypatch.setattr(orphans, "ROWS", 7)
    counted = {table: swept(table) for table in STRAY}
    schedule.sweep_orphans()
    assert {table: swept(table) - counted[table] for table in STRAY} == {**dict.fromkeys(STRAY, 1), "inbox": 30}
    assert rows_of(987) == {}
    assert rows_of(world.account) == before[0]
    assert rows_of(0) == {**before[1], "chore": before[1].get("chore", 0) + 1}, "what is nobody's by design stays"
    execute("INSERT INTO chore (account_id, name) VALUES (987, 'catch_up')")
    schedule.sweep_orphans()
    assert rows_of(987) == {"chore": 1}, "once an hour"


def swept(table: str) -> float:
    return float(instruments.ORPHANS.labels(table)._value.get())


def test_an_erasure_that_was_lost_is_taken_up_again(world: World) -> None:
    world.person("ann@acme.test")
    world.settle()
    connect.disconnect(world.account, who="Ada Admin")
    execute("DELETE FROM leftover WHERE kind = 'data.erase'")
    clean_up()
    assert rows_of(world.account)
    orphans.sweep()
    clean_up()
    assert rows_of(world.account), "whoever closed it a moment ago may still be about to"
    execute("UPDATE account SET closed_at = now() - interval '2 hours'")
    orphans.sweep()
    clean_up()
    assert rows_of(world.account) == {}


def test_the_migration_deletes_what_accounts_have_left_behind(world: World) -> None:
    world.person("ann@acme.test")
    world.settle()
    before = rows_of(world.account)
    let_go()
    before_it = ScriptDirectory.from_config(alembic_config()).get_revision("0013").down_revision
    command.downgrade(alembic_config(), str(before_it))
    execute(
        "INSERT INTO crm_record (account_id, record_type, record_id, name, updated_at, fetched_at, changed_at)"
        " VALUES (987, 'person', 1, 'D Person 0', now(), now(), now())"
    )
    execute(STRAY["audit"])
    command.upgrade(alembic_config(), "head")
    assert rows_of(987) == {}
    assert rows_of(world.account) == before
