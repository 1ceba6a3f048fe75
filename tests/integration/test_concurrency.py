"""Three concurrent transactions per round, with the projection running in parallel.

Every round must end equal to a rebuild. The same rounds with marks expanded by the writer, in its own
snapshot, must not: that shows that the test can see the fault which the design avoids.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from sqlalchemy import text

from store.accounts import copper_credentials, xero_grants, xero_organisations
from store.db.database import Session, transaction
from store.db.enums import RecordType
from store.mirror import mirror
from store.mirror.rows import ContactRow, InvoiceRow, RecordRow, RelationRow
from store.read_model import projection
from tests.support.serving import wait_until

ROUNDS = 1_000
WRITERS = 3
ADDRESSES = ("a@x.test", "b@x.test", "c@x.test")
CONTACTS = tuple(UUID(int=number) for number in (1, 2))
INVOICES = tuple(UUID(int=number) for number in (11, 12, 13))
START = datetime(2026, 1, 1, tzinfo=UTC)
Write = Callable[[Session], None]


class SmallWorld:
    """Two contacts, three invoices, two people, two companies, one opportunity, three addresses."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.tick = 0
        with transaction() as session:
            self.account, _ = copper_credentials.connect(
                session, copper_account_id=1, name="Small", api_key="k", email="sam@x.test"
            )
            grant = xero_grants.insert(session, self.account, {"expires_at": 1})
            self.organisation = xero_organisations.connect(
                session, self.account, grant, tenant_id=UUID(int=99), connection_id=UUID(int=98), name="Org"
            )

    def now(self) -> datetime:
        self.tick += 1
        return START + timedelta(seconds=self.tick)

    def write(self) -> Write:
        """A random change of the mirror, chosen now and executed in a transaction later."""
        kinds = (self._contact, self._invoice, self._person, self._person, self._company, self._opportunity)
        return self.dice.choice(kinds)()

    def _emails(self) -> dict[str, str]:
        return {email: email for email in self.dice.sample(ADDRESSES, self.dice.choice((0, 1, 1, 2)))}

    def _contact(self) -> Write:
        at = self.now()
        row = ContactRow(
            contact_id=self.dice.choice(CONTACTS),
            name=self.dice.choice(("Acme", "Umbrella")),
            status="ACTIVE",
            merged_to=None,
            updated_at=at,
            emails=self._emails(),
        )
        return lambda session: mirror.upsert_contacts(session, self.account, self.organisation, [row], at)

    def _invoice(self) -> Write:
        at = self.now()
        row = InvoiceRow(
            invoice_id=self.dice.choice(INVOICES),
            contact_id=self.dice.choice(CONTACTS),
            type="ACCREC",
            status=self.dice.choice(("AUTHORISED", "PAID", "DELETED")),
            number="INV",
            issue_date=None,
            due_date=None,
            total=Decimal(self.dice.randrange(3)),
            balance=Decimal(0),
            currency="NZD",
            created_at=START + timedelta(days=self.dice.randrange(2)),
            created_source="issue_date",
            updated_at=at,
        )
        return lambda session: _ignore(mirror.upsert_invoices(session, self.account, self.organisation, [row], at))

    def _records(self, record_type: RecordType, row: RecordRow, at: datetime) -> Write:
        if self.dice.random() < 0.15:
            return lambda session: mirror.tombstone_records(session, self.account, record_type, [row.record_id], at)
        return lambda session: mirror.upsert_records(session, self.account, record_type, [row], at)

    def _person(self) -> Write:
        at, company = self.now(), self.dice.choice((None, 21, 22))
        ends = (RelationRow(related_type=RecordType.COMPANY, related_id=company),) if company else ()
        person = self.dice.choice((31, 32))
        row = RecordRow(record_id=person, name="P", updated_at=at, emails=self._emails(), relations=ends)
        return self._records(RecordType.PERSON, row, at)

    def _company(self) -> Write:
        at = self.now()
        row = RecordRow(record_id=self.dice.choice((21, 22)), name="C", updated_at=at)
        return self._records(RecordType.COMPANY, row, at)

    def _opportunity(self) -> Write:
        at = self.now()
        ends = [
            RelationRow(related_type=RecordType(record_type), related_id=key)
            for record_type, key in self.dice.sample(
                [("company", 21), ("company", 22), ("person", 31), ("person", 32)], self.dice.choice((0, 1, 2))
            )
        ]
        row = RecordRow(record_id=41, name="O", updated_at=at)

        def write(session: Session) -> None:
            mirror.upsert_records(session, self.account, RecordType.OPPORTUNITY, [row], at)
            mirror.replace_opportunity_relations(session, self.account, {41: ends}, at)

        return write


def _ignore(_: int) -> None:
    return


def _play(world: SmallWorld, rounds: int, after_write: Write, project: Callable[[int], None]) -> int:
    """Run rounds; returns how many ended different from a rebuild (each is then repaired)."""
    wrong = 0
    barrier = threading.Barrier(WRITERS + 1)

    def writer(write: Write) -> None:
        with transaction() as session:
            session.execute(text("SELECT 1"))
            barrier.wait(30)
            write(session)
            after_write(session)

    def projector() -> None:
        barrier.wait(30)
        for _ in range(3):
            project(world.account)

    with ThreadPoolExecutor(WRITERS + 1) as pool:
        for _ in range(rounds):
            jobs = [pool.submit(writer, world.write()) for _ in range(WRITERS)]
            jobs.append(pool.submit(projector))
            for job in jobs:
                job.result(60)
            project(world.account)
            with transaction() as session:
                clean = projection.compare(session, world.account).is_clean
                if not clean:
                    wrong += 1
                    projection.rebuild(session, world.account)
    return wrong


def _project(account: int) -> None:
    with transaction() as session:
        projection.project_batch(session, account)


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("database")
def test_after_every_round_of_concurrent_changes_the_read_model_equals_a_rebuild() -> None:
    assert _play(SmallWorld(seed=1), ROUNDS, lambda _: None, _project) == 0


# Other tests use other databases of the same server.
WAITING = text("""
    SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database
    WHERE locktype = 'advisory' AND NOT granted AND d.datname = current_database()
""")


@pytest.mark.usefixtures("database")
def test_projections_of_one_account_are_serialised_and_block_no_other_account() -> None:
    with transaction() as session:
        first, second = (
            copper_credentials.connect(session, copper_account_id=number, name="A", api_key="k", email="sam@x.test")[0]
            for number in (1, 2)
        )
    with ThreadPoolExecutor(1) as pool:
        with transaction() as session:
            projection.project_batch(session, first)
            coming = pool.submit(_project, first)
            wait_until(
                lambda: session.execute(WAITING).scalar_one() == 1, description="the other one to wait for its turn"
            )
            _project(second)
            assert not coming.done()
        coming.result(10)


# A faulty design, in which the writer determines the affected records in its own snapshot.
AFFECTED = text(f"""
    WITH mine AS (DELETE FROM projection_queue WHERE account_id = :account
                  RETURNING entity_type, organisation_id, xero_id, record_id, email),
    scope_invoice AS (
        SELECT i.organisation_id, i.invoice_id, i.contact_id FROM xero_invoice i
        WHERE i.account_id = :account AND (
            (SELECT bool_or(m.entity_type = 'invoice' AND m.xero_id = i.invoice_id) FROM mine m)
            OR (SELECT bool_or(m.entity_type = 'contact' AND m.xero_id = i.contact_id) FROM mine m)
            OR i.contact_id IN (
                SELECT ce.contact_id FROM xero_contact_email ce WHERE ce.email IN (
                    SELECT email FROM mine WHERE entity_type = 'email'
                    UNION SELECT re.email FROM copper_record_email re JOIN mine m
                          ON m.entity_type = 'person' AND re.record_type = 'person' AND re.record_id = m.record_id)))),
    {projection.INVOICE_PAIRS}
    INSERT INTO affected (record_type, record_id)
    SELECT record_type, record_id FROM invoice_pair
    UNION SELECT x.record_type, x.record_id FROM record_invoice x JOIN scope_invoice USING (invoice_id)
    UNION SELECT entity_type, record_id FROM mine WHERE entity_type IN ('company', 'opportunity', 'person')
    UNION SELECT l.record_type, l.record_id FROM mine m JOIN copper_relation l
          ON m.entity_type = 'company' AND l.related_type = 'company' AND l.related_id = m.record_id
    UNION SELECT x.record_type, x.record_id FROM record_invoice x WHERE x.record_type = 'company'
          AND EXISTS (SELECT FROM mine WHERE entity_type = 'person')
""")
PROJECT_AFFECTED = text(f"""
    WITH turn AS (DELETE FROM affected RETURNING record_type, record_id),
    {projection.ALL_INVOICES}, {projection.INVOICE_PAIRS},
    pair AS (SELECT * FROM invoice_pair WHERE (record_type, record_id) IN (SELECT * FROM turn)),
    expected_rows AS ({projection.READ_MODEL_ROWS}),
    current_rows AS (SELECT record_type, record_id, created_at, invoice_id, type, status, balance, currency, due_date,
                       organisation_id
                FROM record_invoice WHERE (record_type, record_id) IN (SELECT record_type, record_id FROM turn)),
    rows_to_write AS (SELECT * FROM expected_rows),
    {projection.APPLY}, {projection.MOVE_BALANCES} {projection.APPLY_COUNTS}
""")


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("database")
def test_the_check_detects_a_writer_that_expands_the_queue_itself() -> None:
    world = SmallWorld(seed=1)
    with transaction() as session:
        session.execute(text("CREATE TABLE affected (record_type text, record_id bigint)"))

    def expand(session: Session) -> None:
        session.execute(AFFECTED, {"account": world.account})

    def project(account: int) -> None:
        with transaction() as session:
            projection.lock_account(session, account)
            session.execute(PROJECT_AFFECTED, {"account": account})

    wrong = 0
    for _ in range(30):
        wrong = _play(world, 50, expand, project)
        if wrong:
            break
    assert wrong > 0, "1,500 rounds did not show the fault: the test would not see it either"
