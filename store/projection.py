"""From the mirror to `record_invoice`, the read model.

A mark says what changed; here it is worked out, from a fresh snapshot, whom that affects. Marks on
invoices, contacts, addresses and people widen to a scope of invoices: every row of those invoices is
computed again, on whatever record it stands. Marks on companies and opportunities widen to a scope of
records: every row of those records is computed again. Both scopes end in one statement that removes
what is not wanted and upserts what differs. `record_invoice` is a pure function of the mirror: a
rebuild gives the same rows, and `compare` says where it would not. `record_balance`, what each record
owes, is a pure function of those rows and of each organisation's own day, and moves with them in the same statement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlmodel import Session

from store import tenancy
from store.database import touched

BATCH = 2_000

# Who holds an invoice, followed outwards from the invoice: the leads and people with an address of its
# contact, or linked to it by hand; their companies, and those linked to it; and the opportunities of either.
INVOICE_PAIRS = """
    linked AS (
        SELECT s.organisation_id, s.invoice_id, k.record_type, k.record_id
        FROM scope_invoice s
        JOIN contact_link k ON k.account_id = :account AND k.organisation_id = s.organisation_id
             AND k.contact_id = s.contact_id
        JOIN crm_record c ON c.account_id = :account AND c.record_type = k.record_type
             AND c.record_id = k.record_id AND NOT c.gone),
    holder AS (
        SELECT s.organisation_id, s.invoice_id, re.record_type, re.record_id
        FROM scope_invoice s
        JOIN xero_contact_email ce ON ce.account_id = :account AND ce.organisation_id = s.organisation_id
             AND ce.contact_id = s.contact_id
        JOIN crm_record_email re ON re.account_id = :account AND re.email = ce.email
        UNION
        SELECT organisation_id, invoice_id, record_type, record_id FROM linked
        WHERE record_type IN ('lead', 'person')),
    company_holder AS (
        SELECT h.organisation_id, h.invoice_id, l.related_id AS record_id
        FROM holder h
        JOIN crm_relation l ON l.account_id = :account AND l.record_type = 'person'
             AND l.record_id = h.record_id AND l.related_type = 'company'
        JOIN crm_record c ON c.account_id = :account AND c.record_type = 'company'
             AND c.record_id = l.related_id AND NOT c.gone
        WHERE h.record_type = 'person'
        UNION
        SELECT organisation_id, invoice_id, record_id FROM linked WHERE record_type = 'company'),
    opportunity_holder AS (
        SELECT h.organisation_id, h.invoice_id, l.record_id
        FROM holder h
        JOIN crm_relation l ON l.account_id = :account AND l.related_type = 'person'
             AND l.related_id = h.record_id AND l.record_type = 'opportunity'
        WHERE h.record_type = 'person'
        UNION
        SELECT h.organisation_id, h.invoice_id, l.record_id
        FROM company_holder h
        JOIN crm_relation l ON l.account_id = :account AND l.related_type = 'company'
             AND l.related_id = h.record_id AND l.record_type = 'opportunity'),
    invoice_pair AS (
        SELECT organisation_id, invoice_id, record_type, record_id FROM holder
        UNION ALL
        SELECT organisation_id, invoice_id, 'company', record_id FROM company_holder
        UNION ALL
        SELECT organisation_id, invoice_id, 'opportunity', record_id FROM opportunity_holder)
"""

# Which invoices a record shows, followed inwards from the record.
RECORD_PAIRS = """
    linked_company AS (
        SELECT s.record_type, s.record_id, s.record_id AS company_id
        FROM scope_record s WHERE s.record_type = 'company'
        UNION
        SELECT s.record_type, s.record_id, l.related_id
        FROM scope_record s
        JOIN crm_relation l ON l.account_id = :account AND l.record_type = 'opportunity'
             AND l.record_id = s.record_id AND l.related_type = 'company'
        WHERE s.record_type = 'opportunity'),
    linked_person AS (
        SELECT s.record_type, s.record_id, l.related_id AS person_id
        FROM scope_record s
        JOIN crm_relation l ON l.account_id = :account AND l.record_type = 'opportunity'
             AND l.record_id = s.record_id AND l.related_type = 'person'
        WHERE s.record_type = 'opportunity'
        UNION
        SELECT k.record_type, k.record_id, l.record_id
        FROM linked_company k
        JOIN crm_record c ON c.account_id = :account AND c.record_type = 'company'
             AND c.record_id = k.company_id AND NOT c.gone
        JOIN crm_relation l ON l.account_id = :account AND l.related_type = 'company'
             AND l.related_id = k.company_id AND l.record_type = 'person'),
    record_contact AS (
        SELECT p.record_type, p.record_id, ce.organisation_id, ce.contact_id
        FROM linked_person p
        JOIN crm_record_email re ON re.account_id = :account AND re.record_type = 'person'
             AND re.record_id = p.person_id
        JOIN xero_contact_email ce ON ce.account_id = :account AND ce.email = re.email
        UNION
        SELECT e.record_type, e.record_id, k.organisation_id, k.contact_id
        FROM (SELECT record_type, record_id, 'person' AS end_type, person_id AS end_id FROM linked_person
              UNION
              SELECT record_type, record_id, 'company', company_id FROM linked_company) e
        JOIN contact_link k ON k.account_id = :account AND k.record_type = e.end_type AND k.record_id = e.end_id
        JOIN crm_record c ON c.account_id = :account AND c.record_type = k.record_type
             AND c.record_id = k.record_id AND NOT c.gone),
    record_pair AS (
        SELECT i.organisation_id, i.invoice_id, r.record_type, r.record_id
        FROM record_contact r
        JOIN invoice i ON i.account_id = :account AND i.organisation_id = r.organisation_id
             AND i.contact_id = r.contact_id)
"""

# A row as it is shown. Text is cut at 255 characters, Xero's own bound, so that it fits the index.
DISPLAY = """
    SELECT p.record_type, p.record_id, i.created_at, i.invoice_id, i.organisation_id,
           i.type, i.status, left(i.number, 255) AS number,
           left(CASE WHEN i.type = 'ACCPAY' THEN coalesce(c.name, '') ELSE o.name END, 255) AS issuer,
           i.issue_date, i.due_date, i.total, i.balance, i.currency, i.created_source,
           left(o.short_code, 20) AS short_code
    FROM pair p
    JOIN invoice i ON i.account_id = :account AND i.organisation_id = p.organisation_id
         AND i.invoice_id = p.invoice_id AND i.status <> 'DELETED' AND NOT i.gone
    JOIN xero_organisation o ON o.account_id = :account AND o.id = i.organisation_id AND o.status <> 'dropped'
    LEFT JOIN xero_contact c ON c.account_id = :account AND c.organisation_id = i.organisation_id
         AND c.contact_id = i.contact_id
"""

# Rows that await payment count as open, and as overdue when they were due before their organisation's day.
OWED = "status = 'AUTHORISED' AND balance > 0"
COLUMNS = """record_type, record_id, created_at, invoice_id, organisation_id, type, status, number, issuer,
               issue_date, due_date, total, balance, currency, created_source, short_code"""
ROWS = f"SELECT {COLUMNS} FROM record_invoice WHERE account_id = :account"
# Before: the rows in scope as they stand, `present`; after: as they shall be, `wanted`; to be written: `fresh`.
APPLY = f"""
    removed AS (
        DELETE FROM record_invoice x
        USING (SELECT record_type, record_id, created_at, invoice_id FROM present
               EXCEPT
               SELECT record_type, record_id, created_at, invoice_id FROM wanted) unwanted
        WHERE x.account_id = :account AND x.record_type = unwanted.record_type
          AND x.record_id = unwanted.record_id AND x.created_at = unwanted.created_at
          AND x.invoice_id = unwanted.invoice_id
        RETURNING 1),
    written AS (
        INSERT INTO record_invoice AS old (account_id, {COLUMNS})
        SELECT :account, fresh.* FROM fresh
        ORDER BY record_type, record_id, created_at, invoice_id
        ON CONFLICT (account_id, record_type, record_id, created_at, invoice_id) DO UPDATE SET
            organisation_id = EXCLUDED.organisation_id, type = EXCLUDED.type, status = EXCLUDED.status,
            number = EXCLUDED.number, issuer = EXCLUDED.issuer, issue_date = EXCLUDED.issue_date,
            due_date = EXCLUDED.due_date, total = EXCLUDED.total, balance = EXCLUDED.balance,
            currency = EXCLUDED.currency, created_source = EXCLUDED.created_source,
            short_code = EXCLUDED.short_code
        WHERE (old.organisation_id, old.type, old.status, old.number, old.issuer, old.issue_date, old.due_date,
               old.total, old.balance, old.currency, old.created_source, old.short_code)
              IS DISTINCT FROM
              (EXCLUDED.organisation_id, EXCLUDED.type, EXCLUDED.status, EXCLUDED.number, EXCLUDED.issuer,
               EXCLUDED.issue_date, EXCLUDED.due_date, EXCLUDED.total, EXCLUDED.balance, EXCLUDED.currency,
               EXCLUDED.created_source, EXCLUDED.short_code)
        RETURNING 1)
"""
APPLIED = "SELECT (SELECT count(*) FROM removed) AS removed, (SELECT count(*) FROM written) AS written"
# What moves in the records' balances when `present` becomes `wanted`: a whale's sums are not added up again for
# one payment. Only the projection writes balances, one at a time an account.
DAY = "day AS (SELECT id AS organisation_id, balances_on FROM xero_organisation WHERE account_id = :account)"
IS_OVERDUE = "overdue_days(status, balance, due_date, day.balances_on) > 0"
MOVE_BALANCES = f"""
    {DAY},
    moved AS (
        SELECT record_type, record_id, type, currency, sum(sign * balance) AS open,
               sum(CASE WHEN late THEN sign * balance ELSE 0 END) AS overdue,
               sum(sign) AS invoices, sum(CASE WHEN late THEN sign ELSE 0 END) AS overdue_invoices
        FROM (
            SELECT record_type, record_id, type, coalesce(currency, '') AS currency, balance, -1 AS sign,
                   {IS_OVERDUE} AS late
            FROM present JOIN day USING (organisation_id) WHERE {OWED}
            UNION ALL
            SELECT record_type, record_id, type, coalesce(currency, ''), balance, 1,
                   {IS_OVERDUE}
            FROM wanted JOIN day USING (organisation_id) WHERE {OWED}) AS rows
        GROUP BY record_type, record_id, type, currency
        HAVING (sum(sign * balance), sum(CASE WHEN late THEN sign * balance ELSE 0 END), sum(sign),
                sum(CASE WHEN late THEN sign ELSE 0 END)) <> (0, 0, 0, 0)),
    emptied AS (
        DELETE FROM record_balance b USING moved m
        WHERE b.account_id = :account AND b.record_type = m.record_type AND b.record_id = m.record_id
          AND b.type = m.type AND b.currency = m.currency AND b.invoices + m.invoices = 0
        RETURNING b.record_type, b.record_id, b.type, b.currency),
    balanced AS (
        INSERT INTO record_balance AS old (account_id, record_type, record_id, type, currency, open, overdue,
            invoices, overdue_invoices)
        SELECT :account, m.* FROM moved m
        WHERE NOT EXISTS (SELECT FROM emptied e WHERE e.record_type = m.record_type AND e.record_id = m.record_id
                          AND e.type = m.type AND e.currency = m.currency)
        ORDER BY record_type, record_id, type, currency
        ON CONFLICT (account_id, record_type, record_id, type, currency) DO UPDATE SET
            open = old.open + EXCLUDED.open, overdue = old.overdue + EXCLUDED.overdue,
            invoices = old.invoices + EXCLUDED.invoices,
            overdue_invoices = old.overdue_invoices + EXCLUDED.overdue_invoices)
"""
# What a record owes, from its rows, as of each organisation's day.
BALANCES = f"""
    SELECT record_type, record_id, type, coalesce(currency, '') AS currency, sum(balance) AS open,
           coalesce(sum(balance) FILTER (WHERE {IS_OVERDUE}), 0) AS overdue,
           count(*)::int AS invoices, (count(*) FILTER (WHERE {IS_OVERDUE}))::int AS overdue_invoices
    FROM {{rows}} JOIN day USING (organisation_id) WHERE {{owed}}
    GROUP BY record_type, record_id, type, coalesce(currency, '')
"""
# A new day makes more of what is open overdue, another time zone more or less: all of the account's balances are added
# up again. They are once a day in any case (UTC), so that a wrong one does not last. The day is the statement's, not
# the transaction's, which may have waited for its turn since yesterday.
OLD_BALANCES = """
    SELECT id AS account_id FROM account WHERE balances_on < CURRENT_DATE AND closed_at IS NULL
    UNION
    SELECT account_id FROM xero_organisation WHERE balances_on <> local_date(time_zone, statement_timestamp())
"""
ARE_BALANCES_OLD = text(f"SELECT EXISTS (SELECT FROM ({OLD_BALANCES}) AS old WHERE account_id = :account)")
BEGIN_DAY = text("""
    WITH begun AS (
        UPDATE xero_organisation SET balances_on = local_date(time_zone, statement_timestamp())
        WHERE account_id = :account AND balances_on <> local_date(time_zone, statement_timestamp()))
    UPDATE account SET balances_on = GREATEST(balances_on, CURRENT_DATE) WHERE id = :account
""")
ADD_UP = text(f"""
    WITH {DAY},
    wanted AS MATERIALIZED ({BALANCES.format(rows="record_invoice", owed=f"account_id = :account AND {OWED}")}),
    emptied AS (
        DELETE FROM record_balance b WHERE b.account_id = :account AND NOT EXISTS (
            SELECT FROM wanted w WHERE w.record_type = b.record_type AND w.record_id = b.record_id
            AND w.type = b.type AND w.currency = b.currency))
    INSERT INTO record_balance AS old (account_id, record_type, record_id, type, currency, open, overdue,
        invoices, overdue_invoices)
    SELECT :account, wanted.* FROM wanted
    ON CONFLICT (account_id, record_type, record_id, type, currency) DO UPDATE SET
        open = EXCLUDED.open, overdue = EXCLUDED.overdue, invoices = EXCLUDED.invoices,
        overdue_invoices = EXCLUDED.overdue_invoices
    WHERE (old.open, old.overdue, old.invoices, old.overdue_invoices) IS DISTINCT FROM
          (EXCLUDED.open, EXCLUDED.overdue, EXCLUDED.invoices, EXCLUDED.overdue_invoices)
""")

# Guesses about rows that earlier steps made are far off, and what is looked up row by row then takes minutes.
AS_A_WHOLE = text("SELECT set_config('enable_nestloop', 'off', true), set_config('work_mem', '64MB', true)")
ONE_AT_A_TIME = text("SELECT pg_advisory_xact_lock(:space, CAST(:account AS int))")
LOCK_SPACE = 0x7061_7469

TAKE = text("""
    DELETE FROM dirty WHERE account_id = :account
      AND id = ANY(ARRAY(SELECT id FROM dirty WHERE account_id = :account ORDER BY id LIMIT :batch))
    RETURNING kind, organisation_id, xero_id, record_id, email
""")

PROJECT_INVOICES = text(f"""
    WITH scope_invoice AS (
        SELECT m.organisation_id, m.invoice_id, i.contact_id
        FROM unnest(CAST(:invoice_organisations AS bigint[]), CAST(:invoices AS uuid[]))
             AS m(organisation_id, invoice_id)
        LEFT JOIN invoice i ON i.account_id = :account AND i.organisation_id = m.organisation_id
             AND i.invoice_id = m.invoice_id
        UNION
        SELECT i.organisation_id, i.invoice_id, i.contact_id
        FROM unnest(CAST(:contact_organisations AS bigint[]), CAST(:contacts AS uuid[]))
             AS m(organisation_id, contact_id)
        JOIN invoice i ON i.account_id = :account AND i.organisation_id = m.organisation_id
             AND i.contact_id = m.contact_id
        UNION
        SELECT i.organisation_id, i.invoice_id, i.contact_id
        FROM contact_link k
        JOIN invoice i ON i.account_id = :account AND i.organisation_id = k.organisation_id
             AND i.contact_id = k.contact_id
        WHERE k.account_id = :account AND k.record_type = 'person' AND k.record_id = ANY(:people)
        UNION
        SELECT i.organisation_id, i.invoice_id, i.contact_id
        FROM (SELECT unnest(CAST(:emails AS text[])) AS email
              UNION
              SELECT re.email FROM crm_record_email re
              WHERE re.account_id = :account AND re.record_type = 'person' AND re.record_id = ANY(:people)) m
        JOIN xero_contact_email ce ON ce.account_id = :account AND ce.email = m.email
        JOIN invoice i ON i.account_id = :account AND i.organisation_id = ce.organisation_id
             AND i.contact_id = ce.contact_id),
    {INVOICE_PAIRS},
    pair AS (SELECT * FROM invoice_pair),
    wanted AS ({DISPLAY}),
    present AS (
        SELECT x.record_type, x.record_id, x.created_at, x.invoice_id, x.type, x.status, x.balance, x.currency,
               x.due_date, x.organisation_id
        FROM scope_invoice s
        JOIN record_invoice x ON x.account_id = :account AND x.invoice_id = s.invoice_id),
    fresh AS (SELECT * FROM wanted),
    {APPLY}, {MOVE_BALANCES} {APPLIED}
""")

PROJECT_RECORDS = text(f"""
    WITH scope_record AS (
        SELECT 'opportunity' AS record_type, unnest(CAST(:opportunities AS bigint[])) AS record_id
        UNION
        SELECT 'company', unnest(CAST(:companies AS bigint[]))
        UNION
        SELECT 'opportunity', l.record_id FROM crm_relation l
        WHERE l.account_id = :account AND l.related_type = 'company' AND l.related_id = ANY(:companies)
          AND l.record_type = 'opportunity'),
    {RECORD_PAIRS},
    pair AS (SELECT * FROM record_pair),
    wanted AS ({DISPLAY}),
    present AS (
        SELECT x.record_type, x.record_id, x.created_at, x.invoice_id, x.type, x.status, x.balance, x.currency,
               x.due_date, x.organisation_id
        FROM scope_record s
        JOIN record_invoice x ON x.account_id = :account AND x.record_type = s.record_type
             AND x.record_id = s.record_id),
    fresh AS (SELECT * FROM wanted),
    {APPLY}, {MOVE_BALANCES} {APPLIED}
""")

# An organisation that is removed: its rows go, and what they add to the records' balances, in one statement.
REMOVE_ORGANISATION = text(f"""
    WITH present AS (
        SELECT record_type, record_id, created_at, invoice_id, type, status, balance, currency, due_date,
               organisation_id
        FROM record_invoice WHERE account_id = :account AND organisation_id = :organisation),
    wanted AS (SELECT * FROM present WHERE false),
    removed AS (
        DELETE FROM record_invoice WHERE account_id = :account AND organisation_id = :organisation RETURNING 1),
    {MOVE_BALANCES}
    SELECT count(*) FROM removed
""")

EVERYTHING = """
    scope_invoice AS (SELECT organisation_id, invoice_id, contact_id FROM invoice WHERE account_id = :account)
"""
REBUILD = text(f"""
    WITH {EVERYTHING}, {INVOICE_PAIRS},
    pair AS (SELECT * FROM invoice_pair),
    wanted AS ({DISPLAY}),
    present AS ({ROWS}),
    fresh AS (
        SELECT w.* FROM wanted w WHERE NOT EXISTS (
            SELECT FROM present p
            WHERE p.record_type = w.record_type AND p.record_id = w.record_id AND p.created_at = w.created_at
              AND p.invoice_id = w.invoice_id AND p IS NOT DISTINCT FROM w)),
    {APPLY} {APPLIED}
""")
# Where nothing stands, nothing is looked up and nothing kept beside: three quarters of the time. Numbers sort faster
# than words, and any order that keeps a record's rows together fills the index as well.
IS_EMPTY = text("SELECT NOT EXISTS (SELECT FROM record_invoice WHERE account_id = :account)")
ANALYZE_ROWS = text("ANALYZE record_invoice")
FILL = text(f"""
    WITH {EVERYTHING}, {INVOICE_PAIRS},
    pair AS (SELECT * FROM invoice_pair),
    wanted AS ({DISPLAY})
    INSERT INTO record_invoice (account_id, {COLUMNS})
    SELECT :account, wanted.* FROM wanted
    ORDER BY record_id, record_type, created_at, invoice_id
""")
COMPARE = text(f"""
    WITH {EVERYTHING}, {INVOICE_PAIRS},
    pair AS (SELECT * FROM invoice_pair),
    wanted AS MATERIALIZED ({DISPLAY}),
    actual AS ({ROWS}),
    {DAY},
    wanted_balance AS ({BALANCES.format(rows="wanted", owed=OWED)}),
    actual_balance AS (
        SELECT record_type, record_id, type, currency, open, overdue, invoices, overdue_invoices
        FROM record_balance WHERE account_id = :account),
    difference AS (
        SELECT coalesce(w.record_type, a.record_type) AS record_type, coalesce(w.record_id, a.record_id) AS record_id,
               'invoice ' || coalesce(w.invoice_id, a.invoice_id) AS what,
               CASE WHEN a.invoice_id IS NULL THEN 'missing' WHEN w.invoice_id IS NULL THEN 'extra'
                    ELSE 'stale' END AS kind
        FROM wanted w
        FULL JOIN actual a USING (record_type, record_id, invoice_id)
        WHERE w IS DISTINCT FROM a
        UNION ALL
        SELECT record_type, record_id, currency, 'balances'
        FROM wanted_balance w
        FULL JOIN actual_balance a USING (record_type, record_id, type, currency)
        WHERE w IS DISTINCT FROM a)
    SELECT kind, count(*) AS rows,
           (array_agg(record_type || ' ' || record_id || ', ' || what
                      ORDER BY record_type, record_id, what))[1:20] AS examples
    FROM difference GROUP BY kind
    UNION ALL
    SELECT 'marks', (SELECT count(*) FROM dirty WHERE account_id = :account)
                    + (SELECT count(*) FROM ({OLD_BALANCES}) AS old WHERE account_id = :account), NULL
""")

# Rows are right as of now, or as of when the oldest event that is not applied yet came. Ids are given in the order of
# receipt but for statements that ran side by side, so the oldest is among each source's first thousand.
SYNCED = text("""
    UPDATE account SET synced_at = GREATEST(synced_at, LEAST(now(), (
        SELECT min(oldest.received_at)
        FROM (SELECT 'copper' AS source, 0 AS organisation_id
              UNION ALL
              SELECT 'xero', id FROM xero_organisation WHERE account_id = :account) AS s,
             LATERAL (SELECT received_at FROM inbox i
                      WHERE i.account_id = :account AND i.source = s.source
                        AND i.organisation_id = s.organisation_id AND i.state IN ('pending', 'leased')
                      ORDER BY i.id LIMIT 1000) AS oldest)))
    WHERE id = :account
""")
WAITING = text(f"SELECT account_id FROM dirty UNION {OLD_BALANCES}")
ARE_WAITING = text("""
    SELECT count(*) >= :marks FROM (SELECT FROM dirty WHERE account_id = :account LIMIT :marks) AS waiting
""")
FORGET_MARKS = text("DELETE FROM dirty WHERE account_id = :account")
COUNT_ROWS = text("""
    SELECT count(DISTINCT (record_type, record_id)) AS records, count(*) AS rows
    FROM record_invoice WHERE account_id = :account
""")


@dataclass(frozen=True)
class Projected:
    """What one batch did: marks taken, rows removed, rows written, whether all balances were added up again."""

    marks: int
    removed: int
    written: int
    recomputed_balances: bool = False


def take_turn(session: Session, account_id: int) -> None:
    """Wait until no other transaction projects this account; held until the transaction ends.

    Raises `AccountClosedError` when the account was closed.
    """
    session.execute(ONE_AT_A_TIME, {"space": LOCK_SPACE, "account": account_id % 2**31})
    tenancy.hold(session, account_id)


def project_batch(session: Session, account_id: int, batch: int = BATCH) -> Projected:
    """Project up to `batch` marks in the caller's transaction; `marks` is 0 when there were none."""
    take_turn(session, account_id)
    is_old = bool(session.execute(ARE_BALANCES_OLD, {"account": account_id}).scalar_one())
    if is_old:
        _add_up(session, account_id)
    marks = session.execute(TAKE, {"account": account_id, "batch": batch}).all()
    removed = written = 0
    if marks:
        for statement, chosen in _scopes(account_id, marks):
            row = session.execute(statement, chosen).one()
            removed += row.removed
            written += row.written
    if len(marks) < batch:
        session.execute(SYNCED, {"account": account_id})
    return Projected(len(marks), removed, written, is_old)


def _add_up(session: Session, account_id: int) -> None:
    session.execute(BEGIN_DAY, {"account": account_id})
    session.execute(ADD_UP, {"account": account_id})


def remove_organisation(session: Session, account_id: int, organisation_id: int) -> int:
    """Take an organisation's rows and their balances out of the read model; returns how many rows went.

    Its status must be `dropped` already, in the same transaction: a rebuild then gives the same rows.
    """
    take_turn(session, account_id)
    params = {"account": account_id, "organisation": organisation_id}
    return int(session.execute(REMOVE_ORGANISATION, params).scalar_one())


def _scopes(account_id: int, marks: list[Any] | Any) -> list[tuple[Any, dict[str, Any]]]:
    of: dict[str, set[Any]] = {}
    for mark in marks:
        key = (mark.organisation_id, mark.xero_id) if mark.xero_id else mark.record_id or mark.email
        of.setdefault(mark.kind, set()).add(key)
    invoices: list[tuple[int, UUID]] = sorted(of.get("invoice", ()))
    contacts: list[tuple[int, UUID]] = sorted(of.get("contact", ()))
    by_invoice = {
        "account": account_id,
        "invoice_organisations": [key[0] for key in invoices],
        "invoices": [key[1] for key in invoices],
        "contact_organisations": [key[0] for key in contacts],
        "contacts": [key[1] for key in contacts],
        "emails": sorted(of.get("email", ())),
        "people": sorted(of.get("person", ())),
    }
    by_record = {
        "account": account_id,
        "companies": sorted(of.get("company", ())),
        "opportunities": sorted(of.get("opportunity", ())),
    }
    chosen: list[tuple[Any, dict[str, Any]]] = []
    if of.keys() & {"invoice", "contact", "email", "person"}:
        chosen.append((PROJECT_INVOICES, by_invoice))
    if of.keys() & {"company", "opportunity"}:
        chosen.append((PROJECT_RECORDS, by_record))
    return chosen


def rebuild(session: Session, account_id: int) -> Projected:
    """Compute every row of the account again, in the caller's transaction; marks waiting are covered."""
    take_turn(session, account_id)
    session.execute(AS_A_WHOLE)
    marks = touched(session, FORGET_MARKS, {"account": account_id})
    removed = 0
    if session.execute(IS_EMPTY, {"account": account_id}).scalar_one():
        written = touched(session, FILL, {"account": account_id})
        # The planner still takes the table for what it was: the next look at all of it would take ten times as long.
        session.execute(ANALYZE_ROWS)
    else:
        removed, written = session.execute(REBUILD, {"account": account_id}).one()
    _add_up(session, account_id)
    session.execute(SYNCED, {"account": account_id})
    return Projected(marks, removed, written)


@dataclass(frozen=True)
class Comparison:
    """The read model held against a rebuild: how many rows it would add, change and remove, how many balances differ.

    `examples` names the first of each kind (at most 20): the record, and the invoice or the currency. While
    `marks` wait to be projected, differences are no fault: they are what the marks are for.
    """

    missing: int
    stale: int
    extra: int
    balances: int
    marks: int
    examples: dict[str, list[str]]

    @property
    def clean(self) -> bool:
        """Whether a rebuild would change nothing."""
        return not (self.missing or self.stale or self.extra or self.balances)


def compare(session: Session, account_id: int) -> Comparison:
    """Hold the account's rows against what a rebuild would give; changes nothing."""
    session.execute(AS_A_WHOLE)
    found = {row.kind: row for row in session.execute(COMPARE, {"account": account_id})}
    kinds = ("missing", "stale", "extra", "balances", "marks")
    counts = {kind: found[kind].rows if kind in found else 0 for kind in kinds}
    return Comparison(**counts, examples={kind: list(row.examples) for kind, row in found.items() if row.examples})


def waits(session: Session, account_id: int, marks: int) -> bool:
    """Whether so many of the account's marks at least are not projected yet."""
    return bool(session.execute(ARE_WAITING, {"account": account_id, "marks": marks}).scalar_one())


def waiting(session: Session) -> set[int]:
    """Accounts with marks that are not projected yet, or whose balances are of another day."""
    return set(session.execute(WAITING).scalars())


def count(session: Session, account_id: int) -> tuple[int, int]:
    """How many records of the account show invoices, and in how many rows."""
    row = session.execute(COUNT_ROWS, {"account": account_id}).one()
    return row.records, row.rows
