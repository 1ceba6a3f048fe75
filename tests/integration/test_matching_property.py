"""For any mirror, the reasons and the unmatched lists say the same as the stored rows: the matching is one rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from store.accounts import xero_organisations
from store.db.database import Session, transaction
from store.db.enums import OrganisationStatus, RecordType
from store.mirror import mirror
from store.mirror.rows import ContactRow, InvoiceRow, RecordRow, RelationRow
from store.read_model import contact_links, invoice_pins, match_reports, projection, unmatched_contacts
from store.read_model.contact_links import Link
from store.read_model.invoice_pins import PinError
from store.read_model.unmatched_contacts import ContactQuery
from tests.support.world import World

NOW = datetime(2026, 11, 1, tzinfo=UTC)
CONTACTS = [UUID(int=number) for number in range(1, 5)]
RECORDS = {
    RecordType.LEAD: [11, 12],
    RecordType.PERSON: [21, 22, 23],
    RecordType.COMPANY: [31, 32],
    RecordType.OPPORTUNITY: [41, 42],
}
LIMIT = 1_000
addresses = st.lists(
    st.sampled_from(["ann@x.test", "bob@x.test", "eve@x.test", "zoe@y.test", "kim@gmail.com"]), max_size=2, unique=True
)
domains = st.sampled_from([None, "x.test", "y.test", "gmail.com"])
companies = st.sampled_from([None, *RECORDS[RecordType.COMPANY]])
related = [(RecordType.PERSON, number) for number in (21, 22, 23, 99)]
related += [(RecordType.COMPANY, number) for number in (31, 32, 99)]
relations = st.lists(st.sampled_from(related), max_size=3, unique=True)
ALL_RECORDS = [(record_type, number) for record_type, ids in RECORDS.items() for number in ids]


@dataclass(frozen=True)
class Mirror:
    """What both vendors returned: addresses and relations by id, invoices, links, and what was then deleted."""

    contact_emails: Mapping[UUID, Sequence[str]]
    invoices: Sequence[tuple[UUID | None, str, str]]
    record_emails: Mapping[int, Sequence[str]]
    person_companies: Mapping[int, int | None]
    company_domains: Mapping[int, str | None]
    opportunity_relations: Mapping[int, Sequence[tuple[RecordType, int]]]
    links: Sequence[tuple[tuple[RecordType, int], UUID]]
    pins: Sequence[tuple[int, int]]
    shows_pinned_only: bool
    deleted_records: Sequence[tuple[RecordType, int]]
    deleted_contacts: Sequence[UUID]
    is_organisation_removed: bool


mirrors = st.builds(
    Mirror,
    contact_emails=st.fixed_dictionaries(dict.fromkeys(CONTACTS, addresses)),
    invoices=st.lists(
        st.tuples(
            st.sampled_from([*CONTACTS, None]),
            st.sampled_from(["ACCREC", "ACCREC", "ACCPAY"]),
            st.sampled_from(["AUTHORISED", "PAID", "DELETED"]),
        ),
        max_size=6,
    ),
    record_emails=st.fixed_dictionaries(
        {number: addresses for record_type in (RecordType.LEAD, RecordType.PERSON) for number in RECORDS[record_type]}
    ),
    person_companies=st.fixed_dictionaries(dict.fromkeys(RECORDS[RecordType.PERSON], companies)),
    company_domains=st.fixed_dictionaries(dict.fromkeys(RECORDS[RecordType.COMPANY], domains)),
    opportunity_relations=st.fixed_dictionaries(dict.fromkeys(RECORDS[RecordType.OPPORTUNITY], relations)),
    links=st.lists(st.tuples(st.sampled_from(ALL_RECORDS), st.sampled_from(CONTACTS)), max_size=3, unique=True),
    pins=st.lists(
        st.tuples(st.sampled_from(RECORDS[RecordType.OPPORTUNITY]), st.integers(0, 5)), max_size=3, unique=True
    ),
    shows_pinned_only=st.booleans(),
    deleted_records=st.lists(st.sampled_from(ALL_RECORDS), max_size=2, unique=True),
    deleted_contacts=st.lists(st.sampled_from(CONTACTS), max_size=1),
    is_organisation_removed=st.sampled_from([False, False, False, True]),
)


def emails_of(addresses: Sequence[str]) -> dict[str, str]:
    return {address: address for address in addresses}


def write(session: Session, account: int, organisations: Sequence[int], data: Mirror) -> None:
    """Write the mirror as runs and events do. The first two contacts belong to the first organisation."""
    organisation_of = {contact: organisations[number // 2] for number, contact in enumerate(CONTACTS)}
    for contact, emails in data.contact_emails.items():
        row = ContactRow(
            contact_id=contact, name="C", status="ACTIVE", merged_to=None, updated_at=NOW, emails=emails_of(emails)
        )
        mirror.upsert_contacts(session, account, organisation_of[contact], [row], NOW)
    for number, (owner, invoice_type, status) in enumerate(data.invoices):
        invoice = InvoiceRow(
            invoice_id=UUID(int=1_000 + number),
            contact_id=owner,
            type=invoice_type,
            status=status,
            number=str(number),
            issue_date=None,
            due_date=None,
            total=Decimal(10),
            balance=Decimal(10),
            currency="NZD",
            created_at=NOW,
            created_source="webhook",
            updated_at=NOW,
        )
        mirror.upsert_invoices(session, account, organisation_of[owner] if owner else organisations[0], [invoice], NOW)
    for record_type, ids in RECORDS.items():
        rows = [RecordRow(record_id=number, name="R", updated_at=NOW, **_children(data, number)) for number in ids]
        mirror.upsert_records(session, account, record_type, rows, NOW)
    opportunity_relations = {
        number: [RelationRow(related_type=record_type, related_id=related_id) for record_type, related_id in pairs]
        for number, pairs in data.opportunity_relations.items()
    }
    mirror.replace_opportunity_relations(session, account, opportunity_relations, NOW)
    for (record_type, number), contact in data.links:
        contact_links.add(session, account, Link(organisation_of[contact], contact, record_type, number), "Ada")
    session.execute(
        text("UPDATE account SET opportunities_show_pinned_only = :is_on"), {"is_on": data.shows_pinned_only}
    )
    for opportunity, number in data.pins:
        with suppress(PinError):
            invoice_pins.add(session, account, UUID(int=1_000 + number), opportunity, "Ada")
    for record_type, number in data.deleted_records:
        mirror.tombstone_records(session, account, record_type, [number], NOW)
    for contact in data.deleted_contacts:
        mirror.tombstone_contacts(session, account, organisation_of[contact], [contact], NOW)
    if data.is_organisation_removed:
        xero_organisations.set_status(session, account, organisations[0], OrganisationStatus.REMOVED)
    projection.rebuild(session, account)


def _children(data: Mirror, number: int) -> dict[str, object]:
    company = data.person_companies.get(number)
    related = (RelationRow(related_type=RecordType.COMPANY, related_id=company),) if company else ()
    return {
        "emails": emails_of(data.record_emails.get(number, ())),
        "relations": related,
        "email_domain": data.company_domains.get(number),
    }


MATCHED_CONTACTS = text("""
    SELECT DISTINCT i.contact_id FROM record_invoice r
    JOIN xero_invoice i USING (account_id, organisation_id, invoice_id)
    WHERE r.account_id = :account AND i.contact_id IS NOT NULL AND r.record_type <> 'opportunity'
""")
CONTACTS_WITH_SALES = text("""
    SELECT DISTINCT i.contact_id
    FROM xero_invoice i
    JOIN xero_organisation o ON o.account_id = i.account_id AND o.id = i.organisation_id AND o.status <> 'removed'
    WHERE i.account_id = :account AND i.type = 'ACCREC' AND i.status <> 'DELETED' AND i.contact_id IS NOT NULL
""")
STORED_ROWS = text("""
    SELECT record_type, record_id, invoice_id FROM record_invoice
    WHERE account_id = :account AND (:bills OR type <> 'ACCPAY')
""")


def check_reports(session: Session, account: int, data: Mirror, *, shows_bills: bool) -> None:
    stored = {
        (RecordType(row.record_type), row.record_id, row.invoice_id)
        for row in session.execute(STORED_ROWS, {"account": account, "bills": shows_bills})
    }
    explained, matched = set(), set()
    for record_type, number in ALL_RECORDS:
        reasons = match_reports.list_reasons(session, account, record_type, number)
        contacts = {
            (reason.organisation_id, reason.contact_id)
            for reason in reasons
            if reason.organisation_id is not None and reason.contact_id is not None
        }
        pins = invoice_pins.list_of_opportunity(session, account, number)
        if contacts or pins:
            matched.add((record_type, number))
        if record_type is not RecordType.OPPORTUNITY or not data.shows_pinned_only:
            invoices = match_reports.list_contact_invoices(session, account, record_type, contacts)
            explained |= {(record_type, number, invoice.invoice_id) for invoice in invoices}
        if (record_type, number) not in data.deleted_records:
            explained |= {(record_type, number, pin.invoice_id) for pin in pins if shows_bills or pin.type != "ACCPAY"}
    assert explained == stored
    for record_type, number in ALL_RECORDS:
        for invoice_id in (UUID(int=1_000 + invoice) for invoice in range(6)):
            explanation = match_reports.explain_invoice(session, account, record_type, number, invoice_id)
            is_explained = explanation is not None and bool(explanation.reasons or explanation.pin)
            assert is_explained is ((record_type, number, invoice_id) in stored)

    unmatched_records = match_reports.list_unmatched_records(session, account, None, LIMIT)
    reported = {(RecordType(record.record_type), record.record_id) for record in unmatched_records}
    assert reported == set(ALL_RECORDS) - set(data.deleted_records) - matched

    with_sales = set(session.execute(CONTACTS_WITH_SALES, {"account": account}).scalars())
    matched_contacts = set(session.execute(MATCHED_CONTACTS, {"account": account}).scalars())
    unmatched = unmatched_contacts.list_page(session, account, ContactQuery(limit=LIMIT)).contacts
    assert {contact.contact_id for contact in unmatched} == with_sales - matched_contacts


DELETE_ROWS_OF_RECORDS = (
    "DELETE FROM record_invoice WHERE account_id = :account AND record_type IN ('company', 'opportunity')",
    "DELETE FROM record_balance WHERE account_id = :account AND record_type IN ('company', 'opportunity')",
    """INSERT INTO projection_queue (account_id, entity_type, record_id)
       SELECT account_id, record_type, record_id FROM copper_record
       WHERE account_id = :account AND record_type IN ('company', 'opportunity')""",
)


def project_from_the_records(session: Session, account: int) -> None:
    """Compute the rows of companies and opportunities again, starting from the records instead of the invoices."""
    for statement in DELETE_ROWS_OF_RECORDS:
        session.execute(text(statement), {"account": account})
    projection.project_batch(session, account)


class RollBackError(Exception):
    """Ends an example's transaction, so that the next one finds an empty mirror."""


def test_reasons_and_unmatched_lists_agree_with_the_stored_rows(unconnected: World) -> None:
    account = unconnected.open(organisations=2).account
    with transaction() as session:
        organisations = sorted(item.id for item in xero_organisations.list_connected(session, account))

    @settings(max_examples=100, deadline=None, database=None, derandomize=True)
    @given(data=mirrors, shows_bills=st.booleans(), matches_domains=st.booleans())
    def check(data: Mirror, *, shows_bills: bool, matches_domains: bool) -> None:
        with suppress(RollBackError), transaction() as session:
            session.execute(
                text("UPDATE account SET bill_record_types = :types, match_email_domain = :domains"),
                {"types": list(RecordType) if shows_bills else [], "domains": matches_domains},
            )
            write(session, account, organisations, data)
            assert projection.compare(session, account).is_clean
            invoice_pins.mark_opportunities(session, account)
            assert projection.project_batch(session, account).written == 0, "both directions give the same rows"
            assert projection.compare(session, account).is_clean
            project_from_the_records(session, account)
            comparison = projection.compare(session, account)
            assert comparison.is_clean, comparison
            check_reports(session, account, data, shows_bills=shows_bills)
            raise RollBackError

    check()
