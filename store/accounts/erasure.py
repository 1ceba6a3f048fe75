"""Erasure of one person: from the mirror, through its queue from the read model, and from all other texts.

The spellings of an address are not known here: `services.person_erasure` reads the candidates and decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from store.db.database import execute_rowcount
from store.db.enums import INSTALLATION, RecordType
from store.ingest.inbox import MALFORMED

EVENT_BATCH_SIZE = 50
MIN_NAME_LENGTH = 3
MAX_NAMESAKES = 200
# Every spelling of an address contains one of these.
MAY_CONTAIN_ADDRESS = r"{column} ~* '@|%40|u0040|&#|&commat'"

RECORDS_BY_EMAIL = text(
    "SELECT record_type, record_id FROM copper_record_email WHERE account_id = :account AND email = :email"
)
CONTACTS_BY_EMAIL = text("""
    SELECT organisation_id, contact_id FROM xero_contact_email WHERE account_id = :account AND email = :email
""")
RECORD = text("""
    SELECT record_type, record_id FROM copper_record
    WHERE account_id = :account AND record_type = :type AND record_id = :record
""")
CONTACT = text("""
    SELECT organisation_id, contact_id FROM xero_contact WHERE account_id = :account AND contact_id = :contact
""")
CANDIDATE_RECORDS = text(f"""
    SELECT record_type, record_id, name FROM copper_record
    WHERE account_id = :account AND {MAY_CONTAIN_ADDRESS.format(column="name")}
""")
CANDIDATE_CONTACTS = text(f"""
    SELECT organisation_id, contact_id, name FROM xero_contact
    WHERE account_id = :account AND {MAY_CONTAIN_ADDRESS.format(column="name")}
""")
SELECTED_RECORDS = "unnest(CAST(:types AS text[]), CAST(:records AS bigint[])) AS k(record_type, record_id)"
SELECTED_CONTACTS = (
    "unnest(CAST(:organisations AS bigint[]), CAST(:contacts AS uuid[])) AS k(organisation_id, contact_id)"
)
# A manual link to a lead or a person says that both are the same person; a company has other people's contacts too.
LINKED_CONTACTS = text(f"""
    SELECT l.organisation_id, l.contact_id FROM contact_link l JOIN {SELECTED_RECORDS} USING (record_type, record_id)
    WHERE l.account_id = :account AND l.record_type IN ('lead', 'person')
""")
LINKED_RECORDS = text(f"""
    SELECT l.record_type, l.record_id FROM contact_link l JOIN {SELECTED_CONTACTS} USING (organisation_id, contact_id)
    WHERE l.account_id = :account AND l.record_type IN ('lead', 'person')
""")
NAMES = text(f"""
    SELECT c.name FROM copper_record c JOIN {SELECTED_RECORDS} USING (record_type, record_id)
    WHERE c.account_id = :account
    UNION
    SELECT c.name FROM xero_contact c JOIN {SELECTED_CONTACTS} USING (organisation_id, contact_id)
    WHERE c.account_id = :account
""")
ADDRESSES = text(f"""
    SELECT e.email FROM copper_record_email e JOIN {SELECTED_RECORDS} USING (record_type, record_id)
    WHERE e.account_id = :account
    UNION
    SELECT e.email FROM xero_contact_email e JOIN {SELECTED_CONTACTS}
        USING (organisation_id, contact_id)
    WHERE e.account_id = :account
""")
ERASE_RECORDS = text(f"""
    WITH selected AS (SELECT * FROM {SELECTED_RECORDS}),
    of_domain AS (
        SELECT c.record_id FROM copper_record c JOIN selected USING (record_type, record_id)
        WHERE c.account_id = :account AND c.email_domain IS NOT NULL),
    renamed AS (
        UPDATE copper_record c SET name = '', name_key = '', email_domain = NULL, changed_at = now() FROM selected k
        WHERE c.account_id = :account AND c.record_type = k.record_type AND c.record_id = k.record_id
        RETURNING c.record_id),
    deleted AS (
        DELETE FROM copper_record_email e USING selected k
        WHERE e.account_id = :account AND e.record_type = k.record_type AND e.record_id = k.record_id
          AND e.email = ANY(:emails)
        RETURNING e.email),
    forgotten AS (
        DELETE FROM copper_record_phone p USING selected k
        WHERE p.account_id = :account AND p.record_type = k.record_type AND p.record_id = k.record_id),
    queued AS (
        INSERT INTO projection_queue (account_id, entity_type, email)
        SELECT DISTINCT :account, 'email', email FROM deleted),
    queued_companies AS (
        INSERT INTO projection_queue (account_id, entity_type, record_id)
        SELECT :account, 'company', record_id FROM of_domain)
    SELECT count(*) FROM renamed
""")
ERASE_CONTACTS = text(f"""
    WITH selected AS (SELECT * FROM {SELECTED_CONTACTS}),
    renamed AS (
        UPDATE xero_contact c SET name = '', changed_at = now() FROM selected k
        WHERE c.account_id = :account AND c.organisation_id = k.organisation_id AND c.contact_id = k.contact_id
        RETURNING c.contact_id),
    deleted AS (
        DELETE FROM xero_contact_email e USING selected k
        WHERE e.account_id = :account AND e.organisation_id = k.organisation_id AND e.contact_id = k.contact_id
          AND e.email = ANY(:emails)),
    forgotten AS (
        DELETE FROM xero_contact_phone p USING selected k
        WHERE p.account_id = :account AND p.organisation_id = k.organisation_id AND p.contact_id = k.contact_id),
    unlinked AS (
        UPDATE xero_invoice i SET online_url = NULL FROM selected k
        WHERE i.account_id = :account AND i.organisation_id = k.organisation_id AND i.contact_id = k.contact_id
          AND i.online_url IS NOT NULL),
    queued AS (
        INSERT INTO projection_queue (account_id, entity_type, organisation_id, xero_id)
        SELECT :account, 'contact', organisation_id, contact_id FROM selected)
    SELECT count(*) FROM renamed
""")
# Keeps the record's type and id of entries that name both ends of a link.
ERASE_LINKED_NAMES = text(r"""
    UPDATE audit_log SET detail = substring(detail FROM '\(((lead|person|company|opportunity) \d+)\)$')
    WHERE account_id = :account AND action IN ('contact.linked', 'contact.unlinked')
      AND detail ~ '\((lead|person|company|opportunity) \d+\)$'
""")
# The columns beside the mirror that may contain an address, and what replaces it.
TEXT_COLUMNS = {
    ("audit_log", "detail"): "''",
    ("audit_log", "actor"): "'erased'",
    ("api_key", "name"): "prefix",
    ("contact_link", "linked_by"): "''",
    ("invoice_pin", "pinned_by"): "''",
    ("named_admin", "name"): "'Copper user ' || user_id",
    ("browser_session", "user_name"): "'Copper user ' || user_id",
    ("copper_user", "name"): "'User ' || user_id",
    ("copper_record_email", "as_typed"): "NULL",
    ("xero_contact_email", "as_typed"): "NULL",
    ("invitation", "note"): "''",
    ("cleanup_task", "error"): "NULL",
    ("sync_run", "error"): "NULL",
    ("unreadable_field", "last_row_id"): "''",
}
# Set-up codes belong to the installation, and so do its operator's audit entries.
WHERE = {"invitation": "true", "audit_log": f"account_id IN (:account, {INSTALLATION})"}
OF_ACCOUNT = "account_id = :account"
CANDIDATE_TEXTS = {
    (table, column): text(f"""
        SELECT DISTINCT {column} FROM {table}
        WHERE {WHERE.get(table, OF_ACCOUNT)} AND {MAY_CONTAIN_ADDRESS.format(column=column)}
    """)
    for table, column in TEXT_COLUMNS
}
REPLACE_TEXTS = {
    (table, column): text(f"""
        UPDATE {table} SET {column} = {replacement} WHERE {WHERE.get(table, OF_ACCOUNT)} AND {column} = ANY(:texts)
    """)
    for (table, column), replacement in TEXT_COLUMNS.items()
}
EVENT_COLUMNS = ("tenant", "category", "event_type", "resource_id", "error")
CANDIDATE_EVENTS = text(f"""
    SELECT account_id, id, body, concat_ws(' ', {", ".join(EVENT_COLUMNS)}) AS text FROM inbox
    WHERE account_id IN (:account, {INSTALLATION}) AND (account_id, id) > (:after_account, :after)
      AND (body IS NOT NULL OR {" OR ".join(MAY_CONTAIN_ADDRESS.format(column=column) for column in EVENT_COLUMNS)})
    ORDER BY account_id, id LIMIT {EVENT_BATCH_SIZE}
""")
CLEAR_EVENTS = text(f"""
    UPDATE inbox SET body = NULL, error = 'erased on request',
        category = CASE WHEN {MAY_CONTAIN_ADDRESS.format(column="category")} THEN '{MALFORMED}' ELSE category END,
        tenant = CASE WHEN {MAY_CONTAIN_ADDRESS.format(column="tenant")} THEN '' ELSE tenant END,
        event_type = CASE WHEN {MAY_CONTAIN_ADDRESS.format(column="event_type")} THEN '' ELSE event_type END,
        resource_id = CASE WHEN {MAY_CONTAIN_ADDRESS.format(column="resource_id")} THEN '' ELSE resource_id END
    WHERE (account_id, id) IN (SELECT * FROM unnest(CAST(:accounts AS bigint[]), CAST(:ids AS bigint[])))
""")
# Everything that contains one of the names, whoever it belongs to.
NAMESAKES = text("""
    SELECT entity_type, id, text FROM (
        SELECT record_type AS entity_type, record_id::text AS id, name AS text FROM copper_record
        WHERE account_id = :account
        UNION ALL SELECT 'contact', contact_id::text, name FROM xero_contact WHERE account_id = :account
        UNION ALL SELECT 'invoice', invoice_id::text, number FROM xero_invoice WHERE account_id = :account
        UNION ALL SELECT 'organisation', id::text, name FROM xero_organisation WHERE account_id = :account
        UNION ALL SELECT 'audit entry', id::text, concat_ws(' ', actor, detail) FROM audit_log
                  WHERE account_id = :account
        UNION ALL SELECT 'admin', user_id::text, name FROM named_admin WHERE account_id = :account
        UNION ALL SELECT 'Copper user', user_id::text, name FROM copper_user WHERE account_id = :account
        UNION ALL SELECT 'session of user', user_id::text, user_name FROM browser_session WHERE account_id = :account
        UNION ALL SELECT 'API key', id::text, name FROM api_key WHERE account_id = :account
        UNION ALL SELECT 'manual link of ' || record_type, record_id::text, linked_by FROM contact_link
                  WHERE account_id = :account
        UNION ALL SELECT 'pin of opportunity', opportunity_id::text, pinned_by FROM invoice_pin
                  WHERE account_id = :account) AS named
    WHERE lower(text) LIKE ANY(CAST(:patterns AS text[]))
    ORDER BY entity_type, id LIMIT :limit
""")
# Other rows that have one of the addresses.
SHARED_ADDRESSES = text("""
    SELECT record_type AS entity_type, record_id::text AS id, 'an address of theirs' AS text FROM copper_record_email
    WHERE account_id = :account AND email = ANY(:emails)
    UNION
    SELECT 'contact', contact_id::text, 'an address of theirs' FROM xero_contact_email
    WHERE account_id = :account AND email = ANY(:emails)
    ORDER BY entity_type, id LIMIT :limit
""")

Record = tuple[str, int]
Contact = tuple[int, UUID]


@dataclass
class Person:
    """The Copper records (type, id) and Xero contacts (organisation, id) of one person in an account."""

    records: set[Record] = field(default_factory=set)
    contacts: set[Contact] = field(default_factory=set)

    @property
    def is_empty(self) -> bool:
        """Whether the person has no records and no contacts."""
        return not self.records and not self.contacts

    def params(self, account_id: int) -> dict[str, object]:
        """The parameters of the statements that select the person's rows."""
        records, contacts = sorted(self.records), sorted(self.contacts)
        return {
            "account": account_id,
            "types": [record_type for record_type, _ in records],
            "records": [record_id for _, record_id in records],
            "organisations": [organisation_id for organisation_id, _ in contacts],
            "contacts": [contact_id for _, contact_id in contacts],
        }


@dataclass(frozen=True)
class Namesake:
    """A row that contains the name or an address and may belong to somebody else: its type, id and text."""

    entity_type: str
    id: str
    text: str


@dataclass(frozen=True)
class CandidateEvent:
    """An event that may contain an address, in its body or its other texts; its key is (account, id)."""

    key: tuple[int, int]
    body: bytes
    text: str


def find_by_email(session: Session, account_id: int, email: str) -> Person:
    """The person with a normalised address."""
    params = {"account": account_id, "email": email}
    records = {(row[0], row[1]) for row in session.execute(RECORDS_BY_EMAIL, params)}
    return Person(records, {(row[0], row[1]) for row in session.execute(CONTACTS_BY_EMAIL, params)})


def find_by_record(session: Session, account_id: int, record_type: RecordType, record_id: int) -> Person:
    """The person of a Copper record; empty if the record is unknown."""
    params = {"account": account_id, "type": record_type.value, "record": record_id}
    return Person(records={(row[0], row[1]) for row in session.execute(RECORD, params)})


def find_by_contact(session: Session, account_id: int, contact_id: UUID) -> Person:
    """The person of a Xero contact, in any organisation; empty if the contact is unknown."""
    params = {"account": account_id, "contact": contact_id}
    return Person(contacts={(row[0], row[1]) for row in session.execute(CONTACT, params)})


def add_linked(session: Session, account_id: int, person: Person) -> None:
    """Add the manually linked records and contacts to the person."""
    params = person.params(account_id)
    person.contacts |= {(row[0], row[1]) for row in session.execute(LINKED_CONTACTS, params)}
    person.records |= {(row[0], row[1]) for row in session.execute(LINKED_RECORDS, params)}


def candidate_records(session: Session, account_id: int) -> Iterator[tuple[Record, str]]:
    """Records whose name may contain an address, with the name."""
    for row in session.execute(CANDIDATE_RECORDS, {"account": account_id}):
        yield (row.record_type, row.record_id), row.name


def candidate_contacts(session: Session, account_id: int) -> Iterator[tuple[Contact, str]]:
    """Contacts whose name may contain an address, with the name."""
    for row in session.execute(CANDIDATE_CONTACTS, {"account": account_id}):
        yield (row.organisation_id, row.contact_id), row.name


def find_names(session: Session, account_id: int, person: Person) -> set[str]:
    """The names of the person's records and contacts."""
    return set(session.execute(NAMES, person.params(account_id)).scalars()) - {""}


def find_addresses(session: Session, account_id: int, person: Person) -> set[str]:
    """The addresses of the person's records and contacts."""
    return set(session.execute(ADDRESSES, person.params(account_id)).scalars())


def erase(session: Session, account_id: int, person: Person, emails: Iterable[str]) -> tuple[int, int]:
    """Blank the person's names and delete phone numbers and `emails` of their records and contacts; count of either.

    The read model follows with the next projection.
    """
    params = {**person.params(account_id), "emails": sorted(emails)}
    records = int(session.execute(ERASE_RECORDS, params).scalar_one())
    return records, int(session.execute(ERASE_CONTACTS, params).scalar_one())


def erase_linked_names(session: Session, account_id: int) -> None:
    """Remove names from the audit log's entries about links; types and ids stay."""
    session.execute(ERASE_LINKED_NAMES, {"account": account_id})


def candidate_texts(session: Session, account_id: int, column: tuple[str, str]) -> Sequence[str]:
    """The texts in a column of `TEXT_COLUMNS` that may contain an address."""
    return list(session.execute(CANDIDATE_TEXTS[column], {"account": account_id}).scalars())


def replace_texts(session: Session, account_id: int, column: tuple[str, str], texts: Sequence[str]) -> int:
    """Replace some texts in a column of `TEXT_COLUMNS`; return the number of changed rows."""
    return execute_rowcount(session, REPLACE_TEXTS[column], {"account": account_id, "texts": list(texts)})


def candidate_events(session: Session, account_id: int) -> Iterator[CandidateEvent]:
    """The events of the account and of the installation that may contain an address."""
    after = (-1, 0)
    while True:
        params = {"account": account_id, "after_account": after[0], "after": after[1]}
        rows = session.execute(CANDIDATE_EVENTS, params).all()
        for row in rows:
            yield CandidateEvent((row.account_id, row.id), bytes(row.body or b""), row.text)
        if len(rows) < EVENT_BATCH_SIZE:
            return
        after = (rows[-1].account_id, rows[-1].id)


def clear_events(session: Session, keys: Sequence[tuple[int, int]]) -> int:
    """Delete the bodies of some events and all their texts that may contain an address; return how many changed."""
    params = {"accounts": [account_id for account_id, _ in keys], "ids": [event_id for _, event_id in keys]}
    return execute_rowcount(session, CLEAR_EVENTS, params)


def find_namesakes(session: Session, account_id: int, names: Iterable[str], emails: Iterable[str]) -> list[Namesake]:
    """Rows that contain one of the names (of at least three letters) or addresses; at most 200 of either."""
    patterns = [f"%{_escape_like(name.lower())}%" for name in names if len(name.strip()) >= MIN_NAME_LENGTH]
    params = {"account": account_id, "patterns": patterns, "emails": list(emails), "limit": MAX_NAMESAKES}
    rows = [*session.execute(SHARED_ADDRESSES, params), *session.execute(NAMESAKES, params)]
    return [Namesake(row.entity_type, row.id, row.text) for row in rows]


def _escape_like(name: str) -> str:
    return name.strip().replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
