"""Erasing one person: from the mirror and, through its marks, from the read model; and from whatever else names them.

How an address is spelled is not known here: `worker.forgetting` reads what may hold one, and tells which texts do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import text
from sqlmodel import Session

from store.database import touched
from store.inbox import MALFORMED, NOBODY
from store.models import RecordType

BODIES_AT_ONCE = 50
SHORTEST_NAME = 3
MAX_LISTED = 200
# Whatever spells an address has one of these in it.
IS_SUSPECT = r"{column} ~* '@|%40|u0040|&#|&commat'"

RECORDS_WITH = text(
    "SELECT record_type, record_id FROM crm_record_email WHERE account_id = :account AND email = :email"
)
CONTACTS_WITH = text("""
    SELECT organisation_id, contact_id FROM xero_contact_email WHERE account_id = :account AND email = :email
""")
RECORD = text("""
    SELECT record_type, record_id FROM crm_record
    WHERE account_id = :account AND record_type = :type AND record_id = :record
""")
CONTACT = text("""
    SELECT organisation_id, contact_id FROM xero_contact WHERE account_id = :account AND contact_id = :contact
""")
SUSPECT_RECORDS = text(f"""
    SELECT record_type, record_id, name FROM crm_record
    WHERE account_id = :account AND {IS_SUSPECT.format(column="name")}
""")
SUSPECT_CONTACTS = text(f"""
    SELECT organisation_id, contact_id, name FROM xero_contact
    WHERE account_id = :account AND {IS_SUSPECT.format(column="name")}
""")
CHOSEN_RECORDS = "unnest(CAST(:types AS text[]), CAST(:records AS bigint[])) AS k(record_type, record_id)"
CHOSEN_CONTACTS = (
    "unnest(CAST(:organisations AS bigint[]), CAST(:contacts AS uuid[])) AS k(organisation_id, contact_id)"
)
# Whoever linked them by hand said that they are the same: a company's contacts are others' as well.
LINKED_CONTACTS = text(f"""
    SELECT l.organisation_id, l.contact_id FROM contact_link l JOIN {CHOSEN_RECORDS} USING (record_type, record_id)
    WHERE l.account_id = :account AND l.record_type IN ('lead', 'person')
""")
LINKED_RECORDS = text(f"""
    SELECT l.record_type, l.record_id FROM contact_link l JOIN {CHOSEN_CONTACTS} USING (organisation_id, contact_id)
    WHERE l.account_id = :account AND l.record_type IN ('lead', 'person')
""")
NAMES = text(f"""
    SELECT c.name FROM crm_record c JOIN {CHOSEN_RECORDS} USING (record_type, record_id) WHERE c.account_id = :account
    UNION
    SELECT c.name FROM xero_contact c JOIN {CHOSEN_CONTACTS} USING (organisation_id, contact_id)
    WHERE c.account_id = :account
""")
ADDRESSES = text(f"""
    SELECT e.email FROM crm_record_email e JOIN {CHOSEN_RECORDS} USING (record_type, record_id)
    WHERE e.account_id = :account
    UNION
    SELECT e.email FROM xero_contact_email e JOIN {CHOSEN_CONTACTS}
        USING (organisation_id, contact_id)
    WHERE e.account_id = :account
""")
ERASE_RECORDS = text(f"""
    WITH chosen AS (SELECT * FROM {CHOSEN_RECORDS}),
    named AS (
        UPDATE crm_record c SET name = '', changed_at = now() FROM chosen k
        WHERE c.account_id = :account AND c.record_type = k.record_type AND c.record_id = k.record_id
        RETURNING c.record_id),
    gone AS (
        DELETE FROM crm_record_email e USING chosen k
        WHERE e.account_id = :account AND e.record_type = k.record_type AND e.record_id = k.record_id
          AND e.email = ANY(:emails)
        RETURNING e.email),
    marked AS (
        INSERT INTO dirty (account_id, kind, email) SELECT DISTINCT :account, 'email', email FROM gone)
    SELECT count(*) FROM named
""")
ERASE_CONTACTS = text(f"""
    WITH chosen AS (SELECT * FROM {CHOSEN_CONTACTS}),
    named AS (
        UPDATE xero_contact c SET name = '', changed_at = now() FROM chosen k
        WHERE c.account_id = :account AND c.organisation_id = k.organisation_id AND c.contact_id = k.contact_id
        RETURNING c.contact_id),
    gone AS (
        DELETE FROM xero_contact_email e USING chosen k
        WHERE e.account_id = :account AND e.organisation_id = k.organisation_id AND e.contact_id = k.contact_id
          AND e.email = ANY(:emails)),
    marked AS (
        INSERT INTO dirty (account_id, kind, organisation_id, xero_id)
        SELECT :account, 'contact', organisation_id, contact_id FROM chosen)
    SELECT count(*) FROM named
""")
# Entries of an earlier version name both ends of a link; the record's type and id stay.
FORGET_LINKED_NAMES = text(r"""
    UPDATE audit SET detail = substring(detail FROM '\(((lead|person|company) \d+)\)$')
    WHERE account_id = :account AND action IN ('contact.linked', 'contact.unlinked')
      AND detail ~ '\((lead|person|company) \d+\)$'
""")
# Where an address may have come to stand beside the mirror, and what it makes way for.
PLACES = {
    ("audit", "detail"): "''",
    ("audit", "who"): "'erased'",
    ("api_key", "name"): "prefix",
    ("contact_link", "linked_by"): "''",
    ("named_admin", "name"): "'Copper user ' || user_id",
    ("web_session", "user_name"): "'Copper user ' || user_id",
    ("crm_record_email", "as_typed"): "NULL",
    ("xero_contact_email", "as_typed"): "NULL",
    ("invitation", "note"): "''",
    ("leftover", "error"): "NULL",
    ("sync_run", "error"): "NULL",
    ("unreadable_field", "last_row_id"): "''",
}
# Set-up codes are the installation's, and so is what its operator did.
WHERE = {"invitation": "true", "audit": f"account_id IN (:account, {NOBODY})"}
OF_ACCOUNT = "account_id = :account"
SUSPECT_TEXTS = {
    (table, column): text(f"""
        SELECT DISTINCT {column} FROM {table}
        WHERE {WHERE.get(table, OF_ACCOUNT)} AND {IS_SUSPECT.format(column=column)}
    """)
    for table, column in PLACES
}
REPLACE_TEXTS = {
    (table, column): text(f"""
        UPDATE {table} SET {column} = {instead} WHERE {WHERE.get(table, OF_ACCOUNT)} AND {column} = ANY(:texts)
    """)
    for (table, column), instead in PLACES.items()
}
EVENT_COLUMNS = ("tenant", "kind", "event", "resource_id", "error")
EVENTS = text(f"""
    SELECT account_id, id, body, concat_ws(' ', {", ".join(EVENT_COLUMNS)}) AS words FROM inbox
    WHERE account_id IN (:account, {NOBODY}) AND (account_id, id) > (:after_account, :after)
      AND (body IS NOT NULL OR {" OR ".join(IS_SUSPECT.format(column=column) for column in EVENT_COLUMNS)})
    ORDER BY account_id, id LIMIT {BODIES_AT_ONCE}
""")
CLEAR_EVENTS = text(f"""
    UPDATE inbox SET body = NULL, error = 'erased on request',
        kind = CASE WHEN {IS_SUSPECT.format(column="kind")} THEN '{MALFORMED}' ELSE kind END,
        tenant = CASE WHEN {IS_SUSPECT.format(column="tenant")} THEN '' ELSE tenant END,
        event = CASE WHEN {IS_SUSPECT.format(column="event")} THEN '' ELSE event END,
        resource_id = CASE WHEN {IS_SUSPECT.format(column="resource_id")} THEN '' ELSE resource_id END
    WHERE (account_id, id) IN (SELECT * FROM unnest(CAST(:accounts AS bigint[]), CAST(:ids AS bigint[])))
""")
# What else has one of the names in it, whoever it belongs to.
NAMESAKES = text("""
    SELECT what, id, said FROM (
        SELECT record_type AS what, record_id::text AS id, name AS said FROM crm_record WHERE account_id = :account
        UNION ALL SELECT 'contact', contact_id::text, name FROM xero_contact WHERE account_id = :account
        UNION ALL SELECT 'invoice', invoice_id::text, number FROM invoice WHERE account_id = :account
        UNION ALL SELECT 'organisation', id::text, name FROM xero_organisation WHERE account_id = :account
        UNION ALL SELECT 'audit entry', id::text, concat_ws(' ', who, detail) FROM audit WHERE account_id = :account
        UNION ALL SELECT 'admin', user_id::text, name FROM named_admin WHERE account_id = :account
        UNION ALL SELECT 'session of user', user_id::text, user_name FROM web_session WHERE account_id = :account
        UNION ALL SELECT 'API key', id::text, name FROM api_key WHERE account_id = :account
        UNION ALL SELECT 'link by hand of ' || record_type, record_id::text, linked_by FROM contact_link
                  WHERE account_id = :account) AS texts
    WHERE lower(said) LIKE ANY(CAST(:patterns AS text[]))
    ORDER BY what, id LIMIT :limit
""")
# Other rows that carry one of the addresses.
SHARED_ADDRESSES = text("""
    SELECT record_type AS what, record_id::text AS id, 'an address of theirs' AS said FROM crm_record_email
    WHERE account_id = :account AND email = ANY(:emails)
    UNION
    SELECT 'contact', contact_id::text, 'an address of theirs' FROM xero_contact_email
    WHERE account_id = :account AND email = ANY(:emails)
    ORDER BY what, id LIMIT :limit
""")

Record = tuple[str, int]
Contact = tuple[int, UUID]


@dataclass
class Person:
    """The Copper records (type, id) and Xero contacts (organisation, id) that are one person's in an account."""

    records: set[Record] = field(default_factory=set)
    contacts: set[Contact] = field(default_factory=set)

    @property
    def is_nobody(self) -> bool:
        """Whether nothing is theirs."""
        return not self.records and not self.contacts

    def params(self, account_id: int) -> dict[str, object]:
        """As the statements take them."""
        records, contacts = sorted(self.records), sorted(self.contacts)
        return {
            "account": account_id,
            "types": [kind for kind, _ in records],
            "records": [number for _, number in records],
            "organisations": [organisation for organisation, _ in contacts],
            "contacts": [contact for _, contact in contacts],
        }


@dataclass(frozen=True)
class Namesake:
    """Something that carries a name or an address and may be somebody else's: what it is, its id, its text."""

    what: str
    id: str
    said: str


@dataclass(frozen=True)
class KeptEvent:
    """An event with what of it may spell an address; its key is (account, id)."""

    key: tuple[int, int]
    body: bytes
    words: str


def by_email(session: Session, account_id: int, email: str) -> Person:
    """Whose address this is, as it is compared."""
    params = {"account": account_id, "email": email}
    records = {(row[0], row[1]) for row in session.execute(RECORDS_WITH, params)}
    return Person(records, {(row[0], row[1]) for row in session.execute(CONTACTS_WITH, params)})


def by_record(session: Session, account_id: int, kind: RecordType, record_id: int) -> Person:
    """The person that a record of Copper is; nobody when it is not known."""
    params = {"account": account_id, "type": kind.value, "record": record_id}
    return Person(records={(row[0], row[1]) for row in session.execute(RECORD, params)})


def by_contact(session: Session, account_id: int, contact_id: UUID) -> Person:
    """The same of a contact of Xero, in whichever organisation."""
    params = {"account": account_id, "contact": contact_id}
    return Person(contacts={(row[0], row[1]) for row in session.execute(CONTACT, params)})


def add_linked(session: Session, account_id: int, person: Person) -> None:
    """Add what was linked by hand to the person's records and contacts."""
    params = person.params(account_id)
    person.contacts |= {(row[0], row[1]) for row in session.execute(LINKED_CONTACTS, params)}
    person.records |= {(row[0], row[1]) for row in session.execute(LINKED_RECORDS, params)}


def suspect_records(session: Session, account_id: int) -> Iterator[tuple[Record, str]]:
    """Records whose name may hold an address."""
    for row in session.execute(SUSPECT_RECORDS, {"account": account_id}):
        yield (row.record_type, row.record_id), row.name


def suspect_contacts(session: Session, account_id: int) -> Iterator[tuple[Contact, str]]:
    """Contacts whose name may hold an address."""
    for row in session.execute(SUSPECT_CONTACTS, {"account": account_id}):
        yield (row.organisation_id, row.contact_id), row.name


def names(session: Session, account_id: int, person: Person) -> set[str]:
    """The names of the person's records and contacts."""
    return set(session.execute(NAMES, person.params(account_id)).scalars()) - {""}


def addresses(session: Session, account_id: int, person: Person) -> set[str]:
    """The addresses of the person's records and contacts."""
    return set(session.execute(ADDRESSES, person.params(account_id)).scalars())


def erase(session: Session, account_id: int, person: Person, emails: Iterable[str]) -> tuple[int, int]:
    """Blank the person's names and delete `emails` from their records and contacts; returns how many of either.

    What showed by it goes with the next projection.
    """
    params = {**person.params(account_id), "emails": sorted(emails)}
    records = int(session.execute(ERASE_RECORDS, params).scalar_one())
    return records, int(session.execute(ERASE_CONTACTS, params).scalar_one())


def forget_linked_names(session: Session, account_id: int) -> None:
    """Leave of the audit log's entries about links what they are about, without anybody's name."""
    session.execute(FORGET_LINKED_NAMES, {"account": account_id})


def suspect_texts(session: Session, account_id: int, place: tuple[str, str]) -> Sequence[str]:
    """What stands in a place of `PLACES` and may spell an address."""
    return list(session.execute(SUSPECT_TEXTS[place], {"account": account_id}).scalars())


def replace_texts(session: Session, account_id: int, place: tuple[str, str], texts: Sequence[str]) -> int:
    """Put something without an address in the place of some texts; returns how many rows changed."""
    return touched(session, REPLACE_TEXTS[place], {"account": account_id, "texts": list(texts)})


def kept_events(session: Session, account_id: int) -> Iterator[KeptEvent]:
    """The account's events, and those of nobody, that may spell an address somewhere."""
    after = (-1, 0)
    while True:
        params = {"account": account_id, "after_account": after[0], "after": after[1]}
        rows = session.execute(EVENTS, params).all()
        for row in rows:
            yield KeptEvent((row.account_id, row.id), bytes(row.body or b""), row.words)
        if len(rows) < BODIES_AT_ONCE:
            return
        after = (rows[-1].account_id, rows[-1].id)


def clear_events(session: Session, keys: Sequence[tuple[int, int]]) -> int:
    """Drop the bodies of some events, and whatever else of them may spell an address; returns how many changed."""
    params = {"accounts": [key[0] for key in keys], "ids": [key[1] for key in keys]}
    return touched(session, CLEAR_EVENTS, params)


def namesakes(session: Session, account_id: int, known_by: Iterable[str], emails: Iterable[str]) -> list[Namesake]:
    """What else carries one of the names (of three letters at least) or addresses; at most 200 of either."""
    patterns = [f"%{_plain(name.lower())}%" for name in known_by if len(name.strip()) >= SHORTEST_NAME]
    params = {"account": account_id, "patterns": patterns, "emails": list(emails), "limit": MAX_LISTED}
    rows = [*session.execute(SHARED_ADDRESSES, params), *session.execute(NAMESAKES, params)]
    return [Namesake(row.what, row.id, row.said) for row in rows]


def _plain(name: str) -> str:
    return name.strip().replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
