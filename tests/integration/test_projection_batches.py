"""Batches of very different cost: one mark may concern a single row, or thousands of rows."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest
from sqlalchemy import text
from structlog.testing import CapturingLogger

from store.accounts import copper_credentials, xero_grants, xero_organisations
from store.db.database import statement_timeout, transaction
from store.db.enums import RecordType
from store.mirror import mirror
from store.mirror.rows import ContactRow, RecordRow, RelationRow
from store.read_model import projection
from tests.support.mirror_rows import build_invoice
from tests.support.world import World
from worker.sync import projector, run_processor
from worker.vendors.sync_types import PROJECT_STAGE, RunKind

pytestmark = pytest.mark.usefixtures("database")

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONTACT = UUID(int=1)
COMPANY, PERSON = 21, 31
INVOICES, OPPORTUNITIES = 12, 11
ROWS = INVOICES * (1 + 1 + OPPORTUNITIES)
ADDRESS = "ann@acme.test"


@pytest.fixture(autouse=True)
def _forget_slow_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accounts of several databases have the same ids in one process."""
    monkeypatch.setattr(projector, "_first_batch_sizes", {})
    monkeypatch.setattr(projector, "_too_large_to_rebuild", set())


def _connect() -> tuple[int, int]:
    """An account and its organisation, without data."""
    with transaction() as session:
        account, _ = copper_credentials.connect(
            session, copper_account_id=1, name="Large", api_key="k", email="sam@x.test"
        )
        grant = xero_grants.insert(session, account, {"expires_at": 1})
        organisation = xero_organisations.connect(
            session, account, grant, tenant_id=UUID(int=99), connection_id=UUID(int=98), name="Org"
        )
    return account, organisation


def _fill(account: int, organisation: int) -> None:
    """One customer's bills, which are on a person, their company and all its opportunities."""
    works_at = RelationRow(related_type=RecordType.COMPANY, related_id=COMPANY)
    bills = [
        build_invoice(UUID(int=100 + number), CONTACT, NOW, type="ACCPAY", number=f"BILL-{number}")
        for number in range(INVOICES)
    ]
    opportunities = [
        RecordRow(record_id=41 + number, name="O", updated_at=NOW, relations=(works_at,))
        for number in range(OPPORTUNITIES)
    ]
    person = RecordRow(record_id=PERSON, name="Ann", updated_at=NOW, emails={ADDRESS: ADDRESS}, relations=(works_at,))
    with transaction() as session:
        mirror.upsert_invoices(session, account, organisation, bills, NOW)
        company = RecordRow(record_id=COMPANY, name="Acme", updated_at=NOW)
        mirror.upsert_records(session, account, RecordType.COMPANY, [company], NOW)
        mirror.upsert_records(session, account, RecordType.PERSON, [person], NOW)
        mirror.upsert_records(session, account, RecordType.OPPORTUNITY, opportunities, NOW)
        for opportunity in opportunities:
            mirror.replace_opportunity_relations(session, account, {opportunity.record_id: [works_at]}, NOW)
    _name_contact(account, organisation, "Acme")


def _name_contact(account: int, organisation: int, name: str) -> None:
    at = datetime.now(UTC)
    contact = ContactRow(
        contact_id=CONTACT, name=name, status="ACTIVE", merged_to=None, updated_at=at, emails={ADDRESS: ADDRESS}
    )
    with transaction() as session:
        mirror.upsert_contacts(session, account, organisation, [contact], at)


def _mark_company(account: int) -> None:
    with transaction() as session:
        session.execute(
            text("INSERT INTO projection_queue (account_id, entity_type, record_id) VALUES (:a, 'company', :company)"),
            {"a": account, "company": COMPANY},
        )


def _marks(account: int) -> list[str]:
    with transaction() as session:
        statement = text("SELECT entity_type FROM projection_queue WHERE account_id = :a ORDER BY id")
        return list(session.execute(statement, {"a": account}).scalars())


def _clear_marks(account: int, kept: str = "") -> None:
    with transaction() as session:
        session.execute(
            text("DELETE FROM projection_queue WHERE account_id = :a AND entity_type <> :kept"),
            {"a": account, "kept": kept},
        )


def _issuers(account: int) -> list[str]:
    with transaction() as session:
        statement = text("SELECT issuer FROM record_invoice WHERE account_id = :a")
        return list(session.execute(statement, {"a": account}).scalars())


def _is_clean(account: int) -> bool:
    with transaction() as session:
        return projection.compare(session, account).is_clean


def _project_batch(account: int, batch_size: int) -> projection.ProjectionResult:
    with transaction() as session:
        return projection.project_batch(session, account, batch_size)


def _too_slow_sizes(logger: CapturingLogger) -> list[int]:
    return [call.kwargs["batch_size"] for call in logger.calls if call.args == ("projection.batch_too_slow",)]


def test_a_contact_with_more_invoices_than_a_batch_may_have_is_projected_invoice_by_invoice() -> None:
    account, organisation = _connect()
    _fill(account, organisation)
    projector.project(account)
    assert _issuers(account) == ["Acme"] * ROWS
    _name_contact(account, organisation, "Acme Ltd")
    assert _marks(account) == ["contact"]
    result = _project_batch(account, batch_size=1)
    assert (result.written, result.has_more) == (0, True)
    assert _marks(account) == ["invoice"] * INVOICES
    assert _project_batch(account, batch_size=1).written == ROWS / INVOICES
    projector.project(account)
    assert _issuers(account) == ["Acme Ltd"] * ROWS
    assert _is_clean(account)


def test_a_company_with_more_opportunities_than_a_batch_may_have_is_projected_opportunity_by_opportunity() -> None:
    account, organisation = _connect()
    _fill(account, organisation)
    _clear_marks(account, kept="company")
    assert _marks(account) == ["company"]
    result = _project_batch(account, batch_size=1)
    assert (result.written, result.has_more) == (INVOICES, True), "the company's own rows"
    assert _marks(account) == ["opportunity"] * OPPORTUNITIES
    assert _project_batch(account, batch_size=1).written == INVOICES
    projector.project(account)
    assert len(_issuers(account)) == INVOICES * (1 + OPPORTUNITIES), "all but the person's, who is not marked"


def test_a_batch_that_may_have_them_all_divides_nothing() -> None:
    account, organisation = _connect()
    _fill(account, organisation)
    _clear_marks(account, kept="contact")
    result = _project_batch(account, batch_size=2)
    assert (result.written, result.has_more) == (ROWS, False)
    _mark_company(account)
    assert not _project_batch(account, batch_size=2).has_more
    assert _marks(account) == []
    assert _is_clean(account)


def test_a_batch_that_is_too_slow_is_repeated_in_smaller_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    account, organisation = _connect()
    _fill(account, organisation)
    _clear_marks(account, kept="invoice")
    with transaction() as session:
        session.execute(text("DELETE FROM projection_queue WHERE xero_id > :last"), {"last": UUID(int=102)})
    monkeypatch.setattr(projection, "LIMIT_BATCH", text("SET LOCAL statement_timeout = '1ms'"))
    with pytest.raises(projection.BatchTooSlowError):
        _project_batch(account, batch_size=3)
    assert (_marks(account), _issuers(account)) == (["invoice"] * 3, []), "nothing has changed"
    monkeypatch.setattr(projector, "log", logger := CapturingLogger())
    assert projector.project(account, seconds=0) == ROWS / INVOICES, "a batch of one mark has all the time"
    assert _too_slow_sizes(logger) == [250, 62, 15, 3]
    logger.calls.clear()
    assert projector.project(account, seconds=0) == ROWS / INVOICES
    assert _too_slow_sizes(logger) == [4], "it begins with the size to which the first call returned"
    assert projector.project(account) == ROWS / INVOICES
    assert _marks(account) == []


def test_an_account_that_is_slow_and_mostly_marked_is_rebuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    account, organisation = _connect()
    _fill(account, organisation)
    monkeypatch.setattr(projection, "LIMIT_BATCH", text("SET LOCAL statement_timeout = '1ms'"))
    assert projector.project(account) == ROWS
    assert _marks(account) == []
    assert _is_clean(account)


def test_an_account_that_cannot_be_rebuilt_in_time_is_projected_in_small_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    account, organisation = _connect()
    _fill(account, organisation)
    monkeypatch.setattr(projection, "LIMIT_BATCH", text("SET LOCAL statement_timeout = '1ms'"))
    monkeypatch.setattr(projection, "FILL", text("SELECT pg_sleep(10)"))
    monkeypatch.setattr(projector, "log", logger := CapturingLogger())
    with statement_timeout(1):
        assert projector.project(account) == ROWS
    assert [call.args for call in logger.calls].count(("rebuild.too_slow",)) == 1, "it is not tried again"
    assert _marks(account) == []
    assert _is_clean(account)


def test_a_run_that_waits_for_a_long_projection_loses_no_attempt(world: World) -> None:
    world.person(ADDRESS)
    world.settle()
    run, _ = run_processor.start_account_runs(world.account, RunKind.BACKFILL)
    while world.runs([run.id])[0].stage != PROJECT_STAGE:
        run_processor.step(run.account_id, run.id)
    with transaction() as session:
        projection.lock_account(session, world.account)
        with pytest.raises(projection.AccountBusyError), statement_timeout(0.2):
            projector.project(world.account)
        with statement_timeout(0.2):
            outcome = run_processor.step(run.account_id, run.id)
    assert outcome.has_more
    assert outcome.delay > 0
    assert world.runs([run.id])[0].attempts == 0


def test_the_limit_of_the_wait_for_a_projection_ends_it_and_applies_to_no_other_lock() -> None:
    account, _ = _connect()
    with transaction() as session, projection.limited_lock_wait(0.1):
        session.execute(text("SET LOCAL lock_timeout = '3s'"))
        projection.lock_account(session, account)
        assert session.execute(text("SHOW lock_timeout")).scalar_one() == "3s"
        with pytest.raises(projection.AccountBusyError):
            projector.project(account)
