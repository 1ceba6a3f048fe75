"""The projection: from the mirror to `record_invoice`, the read model.

A mark in `projection_queue` says what changed. The projection works out whom that affects, from a fresh snapshot. Marks
on invoices, contacts, addresses and people widen to a scope of invoices: every row of those invoices is computed again,
on whatever record it is. Marks on companies and opportunities widen to a scope of records: every row of those records
is computed again. Both scopes end in one statement that deletes rows that are no longer expected and upserts those that
differ. `record_invoice` is a pure function of the mirror: a rebuild gives the same rows, and `compare` reports where it
would not. `record_balance`, what each record owes, is a pure function of those rows and of each organisation's own day,
and changes in the same statement.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.errors import LockNotAvailable, QueryCanceled
from sqlalchemy import Row, TextClause, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from typing_extensions import override

from store.db import tenancy
from store.db.database import execute_rowcount
from store.read_model.field_marks import mark_all, mark_fields
from store.read_model.free_email_domains import is_own_domain
from store.read_model.overdue_sql import AGEING_COLUMNS, AWAITS_PAYMENT, overdue_days, sum_by_age

MAX_BATCH_SIZE = 2_000
# A batch of marks may widen to so many times its maximum; if it widens to more, the rest is left to batches of its own.
MAX_WIDENING = 10
# The timeout of a batch's statements. A batch that is too slow is repeated in parts, so less is lost than by the
# connection's timeout; a batch of one mark, which cannot be divided, has that one.
BATCH_STATEMENT_SECONDS = 30
MAX_STALE_ACCOUNTS = 1_000
# Evaluated once, before any row: nothing is read for an account that does not match by email domain.
MATCHES_DOMAINS = "(SELECT match_email_domain FROM account WHERE id = :account)"
# If an account's opportunities show pinned invoices only, they match none; the planner then skips what finds them.
MATCHES_OPPORTUNITIES = "(SELECT NOT opportunities_show_pinned_only FROM account WHERE id = :account)"
# The records of an invoice, followed outwards from the invoice: the leads and people with an address of its contact, or
# manually linked to it; their companies, companies that are linked, and (by choice) companies whose email domain its
# contact's address has; the opportunities of either, those that are linked, and those that the invoice is pinned to.
INVOICE_PAIRS = f"""
    linked AS (
        SELECT s.organisation_id, s.invoice_id, k.record_type, k.record_id
        FROM scope_invoice s
        JOIN contact_link k ON k.account_id = :account AND k.organisation_id = s.organisation_id
             AND k.contact_id = s.contact_id
        JOIN copper_record c ON c.account_id = :account AND c.record_type = k.record_type
             AND c.record_id = k.record_id AND NOT c.is_deleted),
    holder AS (
        SELECT s.organisation_id, s.invoice_id, re.record_type, re.record_id
        FROM scope_invoice s
        JOIN xero_contact_email ce ON ce.account_id = :account AND ce.organisation_id = s.organisation_id
             AND ce.contact_id = s.contact_id
        JOIN copper_record_email re ON re.account_id = :account AND re.email = ce.email
        UNION
        SELECT organisation_id, invoice_id, record_type, record_id FROM linked
        WHERE record_type IN ('lead', 'person')),
    company_holder AS (
        SELECT h.organisation_id, h.invoice_id, l.related_id AS record_id
        FROM holder h
        JOIN copper_relation l ON l.account_id = :account AND l.record_type = 'person'
             AND l.record_id = h.record_id AND l.related_type = 'company'
        JOIN copper_record c ON c.account_id = :account AND c.record_type = 'company'
             AND c.record_id = l.related_id AND NOT c.is_deleted
        WHERE h.record_type = 'person'
        UNION
        SELECT organisation_id, invoice_id, record_id FROM linked WHERE record_type = 'company'
        UNION
        SELECT s.organisation_id, s.invoice_id, c.record_id
        FROM scope_invoice s
        JOIN xero_contact_email ce ON ce.account_id = :account AND ce.organisation_id = s.organisation_id
             AND ce.contact_id = s.contact_id
        JOIN copper_record c ON c.account_id = :account AND c.record_type = 'company'
             AND c.email_domain = ce.domain AND NOT c.is_deleted
        WHERE {MATCHES_DOMAINS} AND {is_own_domain("ce.domain")}),
    opportunity_holder AS (
        SELECT h.organisation_id, h.invoice_id, l.record_id
        FROM holder h
        JOIN copper_relation l ON l.account_id = :account AND l.related_type = 'person'
             AND l.related_id = h.record_id AND l.record_type = 'opportunity'
        WHERE h.record_type = 'person' AND {MATCHES_OPPORTUNITIES}
        UNION
        SELECT h.organisation_id, h.invoice_id, l.record_id
        FROM company_holder h
        JOIN copper_relation l ON l.account_id = :account AND l.related_type = 'company'
             AND l.related_id = h.record_id AND l.record_type = 'opportunity'
        WHERE {MATCHES_OPPORTUNITIES}
        UNION
        SELECT s.organisation_id, s.invoice_id, p.opportunity_id
        FROM scope_invoice s
        JOIN invoice_pin p ON p.account_id = :account AND p.organisation_id = s.organisation_id
             AND p.invoice_id = s.invoice_id
        JOIN copper_record c ON c.account_id = :account AND c.record_type = 'opportunity'
             AND c.record_id = p.opportunity_id AND NOT c.is_deleted
        UNION
        SELECT organisation_id, invoice_id, record_id FROM linked
        WHERE record_type = 'opportunity' AND {MATCHES_OPPORTUNITIES}),
    invoice_pair AS (
        SELECT organisation_id, invoice_id, record_type, record_id FROM holder
        UNION ALL
        SELECT organisation_id, invoice_id, 'company', record_id FROM company_holder
        UNION ALL
        SELECT organisation_id, invoice_id, 'opportunity', record_id FROM opportunity_holder)
"""

# The invoices of a record, followed inwards from the record.
RECORD_PAIRS = f"""
    linked_company AS (
        SELECT s.record_type, s.record_id, s.record_id AS company_id
        FROM scope_record s WHERE s.record_type = 'company'
        UNION
        SELECT s.record_type, s.record_id, l.related_id
        FROM scope_record s
        JOIN copper_relation l ON l.account_id = :account AND l.record_type = 'opportunity'
             AND l.record_id = s.record_id AND l.related_type = 'company'
        WHERE s.record_type = 'opportunity' AND {MATCHES_OPPORTUNITIES}),
    linked_person AS (
        SELECT s.record_type, s.record_id, l.related_id AS person_id
        FROM scope_record s
        JOIN copper_relation l ON l.account_id = :account AND l.record_type = 'opportunity'
             AND l.record_id = s.record_id AND l.related_type = 'person'
        WHERE s.record_type = 'opportunity' AND {MATCHES_OPPORTUNITIES}
        UNION
        SELECT k.record_type, k.record_id, l.record_id
        FROM linked_company k
        JOIN copper_record c ON c.account_id = :account AND c.record_type = 'company'
             AND c.record_id = k.company_id AND NOT c.is_deleted
        JOIN copper_relation l ON l.account_id = :account AND l.related_type = 'company'
             AND l.related_id = k.company_id AND l.record_type = 'person'),
    record_contact AS (
        SELECT p.record_type, p.record_id, ce.organisation_id, ce.contact_id
        FROM linked_person p
        JOIN copper_record_email re ON re.account_id = :account AND re.record_type = 'person'
             AND re.record_id = p.person_id
        JOIN xero_contact_email ce ON ce.account_id = :account AND ce.email = re.email
        UNION
        SELECT e.record_type, e.record_id, k.organisation_id, k.contact_id
        FROM (SELECT record_type, record_id, 'person' AS end_type, person_id AS end_id FROM linked_person
              UNION
              SELECT record_type, record_id, 'company', company_id FROM linked_company
              UNION
              SELECT record_type, record_id, record_type, record_id FROM scope_record
              WHERE record_type <> 'opportunity' OR {MATCHES_OPPORTUNITIES}) e
        JOIN contact_link k ON k.account_id = :account AND k.record_type = e.end_type AND k.record_id = e.end_id
        JOIN copper_record c ON c.account_id = :account AND c.record_type = k.record_type
             AND c.record_id = k.record_id AND NOT c.is_deleted
        UNION
        SELECT k.record_type, k.record_id, ce.organisation_id, ce.contact_id
        FROM linked_company k
        JOIN copper_record c ON c.account_id = :account AND c.record_type = 'company'
             AND c.record_id = k.company_id AND NOT c.is_deleted
        JOIN xero_contact_email ce ON ce.account_id = :account AND ce.domain = c.email_domain
        WHERE {MATCHES_DOMAINS} AND {is_own_domain("c.email_domain")}),
    record_pair AS (
        SELECT i.organisation_id, i.invoice_id, r.record_type, r.record_id
        FROM record_contact r
        JOIN xero_invoice i ON i.account_id = :account AND i.organisation_id = r.organisation_id
             AND i.contact_id = r.contact_id
        UNION
        SELECT p.organisation_id, p.invoice_id, s.record_type, s.record_id
        FROM scope_record s
        JOIN copper_record c ON c.account_id = :account AND c.record_type = 'opportunity'
             AND c.record_id = s.record_id AND NOT c.is_deleted
        JOIN invoice_pin p ON p.account_id = :account AND p.opportunity_id = s.record_id
        WHERE s.record_type = 'opportunity')
"""

# A row of the read model. Text is cut at 255 characters, Xero's own maximum, so that it fits the index.
READ_MODEL_ROWS = """
    SELECT p.record_type, p.record_id, i.created_at, i.invoice_id, i.organisation_id,
           i.type, i.status, left(i.number, 255) AS number,
           left(CASE WHEN is_purchase(i.type) THEN coalesce(c.name, '') ELSE o.name END, 255) AS issuer,
           i.issue_date, i.due_date, i.total, i.balance, i.currency, i.created_source,
           left(o.short_code, 20) AS short_code, left(i.reference, 255) AS reference, i.paid_on,
           i.expected_payment_date, i.amount_paid, i.amount_credited, i.is_sent
    FROM pair p
    JOIN xero_invoice i ON i.account_id = :account AND i.organisation_id = p.organisation_id
         AND i.invoice_id = p.invoice_id AND i.status <> 'DELETED' AND NOT i.is_deleted
    JOIN xero_organisation o ON o.account_id = :account AND o.id = i.organisation_id AND o.status <> 'removed'
    LEFT JOIN xero_contact c ON c.account_id = :account AND c.organisation_id = i.organisation_id
         AND c.contact_id = i.contact_id
"""

KEY_COLUMNS = ("record_type", "record_id", "created_at", "invoice_id")
VALUE_COLUMNS = (
    *("organisation_id", "type", "status", "number", "issuer", "issue_date", "due_date", "total", "balance"),
    *("currency", "created_source", "short_code", "reference", "paid_on", "expected_payment_date", "amount_paid"),
    *("amount_credited", "is_sent"),
)
KEY = ", ".join(KEY_COLUMNS)
COLUMNS = ", ".join(KEY_COLUMNS + VALUE_COLUMNS)
ASSIGNMENTS = ", ".join(f"{column} = EXCLUDED.{column}" for column in VALUE_COLUMNS)
OLD_VALUES = ", ".join(f"old.{column}" for column in VALUE_COLUMNS)
NEW_VALUES = ", ".join(f"EXCLUDED.{column}" for column in VALUE_COLUMNS)
ALL_ROWS = f"SELECT {COLUMNS} FROM record_invoice WHERE account_id = :account"
# `current_rows` are the rows in scope as they are, `expected_rows` as they must become; `rows_to_write` are upserted.
APPLY = f"""
    removed AS (
        DELETE FROM record_invoice x
        USING (SELECT {KEY} FROM current_rows
               EXCEPT
               SELECT {KEY} FROM expected_rows) unexpected
        WHERE x.account_id = :account AND x.record_type = unexpected.record_type
          AND x.record_id = unexpected.record_id AND x.created_at = unexpected.created_at
          AND x.invoice_id = unexpected.invoice_id
        RETURNING x.record_type, x.record_id),
    written AS (
        INSERT INTO record_invoice AS old (account_id, {COLUMNS})
        SELECT :account, rows_to_write.* FROM rows_to_write
        ORDER BY {KEY}
        ON CONFLICT (account_id, {KEY}) DO UPDATE SET {ASSIGNMENTS}
        WHERE ({OLD_VALUES}) IS DISTINCT FROM ({NEW_VALUES})
        RETURNING record_type, record_id),
    {mark_fields("removed", "written")}
"""
APPLY_COUNTS = "SELECT (SELECT count(*) FROM removed) AS removed, (SELECT count(*) FROM written) AS written"
# How the records' balances change when `current_rows` become `expected_rows`: one payment does not re-sum a very large
# record. Only the projection writes balances, one transaction at a time for each account.
DAY = "day AS (SELECT id AS organisation_id, balances_as_of FROM xero_organisation WHERE account_id = :account)"
OVERDUE_DAYS = overdue_days("day.balances_as_of")
BALANCE_COLUMNS = ("open", "overdue", *AGEING_COLUMNS, "invoices", "overdue_invoices")
BALANCE_VALUES = ", ".join(BALANCE_COLUMNS)
BALANCE_ASSIGNMENTS = ", ".join(f"{column} = EXCLUDED.{column}" for column in BALANCE_COLUMNS)
BALANCE_INCREMENTS = ", ".join(f"{column} = old.{column} + EXCLUDED.{column}" for column in BALANCE_COLUMNS)
OLD_BALANCES = ", ".join(f"old.{column}" for column in BALANCE_COLUMNS)
NEW_BALANCES = ", ".join(f"EXCLUDED.{column}" for column in BALANCE_COLUMNS)
MOVE_BALANCES = f"""
    {DAY},
    moved AS (
        SELECT * FROM (
            SELECT record_type, record_id, type, currency, sum(sign * balance) AS open,
                   {sum_by_age("sign * balance", "days")},
                   sum(sign) AS invoices, coalesce(sum(sign) FILTER (WHERE days > 0), 0) AS overdue_invoices
            FROM (
                SELECT record_type, record_id, type, coalesce(currency, '') AS currency, balance, -1 AS sign,
                       {OVERDUE_DAYS} AS days
                FROM current_rows r JOIN day USING (organisation_id) WHERE {AWAITS_PAYMENT}
                UNION ALL
                SELECT record_type, record_id, type, coalesce(currency, ''), balance, 1,
                       {OVERDUE_DAYS}
                FROM expected_rows r JOIN day USING (organisation_id) WHERE {AWAITS_PAYMENT}) AS rows
            GROUP BY record_type, record_id, type, currency) AS sums
        WHERE ({BALANCE_VALUES}) <> ({", ".join("0" for _ in BALANCE_COLUMNS)})),
    emptied AS (
        DELETE FROM record_balance b USING moved m
        WHERE b.account_id = :account AND b.record_type = m.record_type AND b.record_id = m.record_id
          AND b.type = m.type AND b.currency = m.currency AND b.invoices + m.invoices = 0
        RETURNING b.record_type, b.record_id, b.type, b.currency),
    balanced AS (
        INSERT INTO record_balance AS old (account_id, record_type, record_id, type, currency, {BALANCE_VALUES})
        SELECT :account, m.* FROM moved m
        WHERE NOT EXISTS (SELECT FROM emptied e WHERE e.record_type = m.record_type AND e.record_id = m.record_id
                          AND e.type = m.type AND e.currency = m.currency)
        ORDER BY record_type, record_id, type, currency
        ON CONFLICT (account_id, record_type, record_id, type, currency) DO UPDATE SET {BALANCE_INCREMENTS})
"""
# What records owe, from the rows `r`, as of each organisation's day.
BALANCES = f"""
    SELECT record_type, record_id, type, coalesce(currency, '') AS currency, sum(balance) AS open,
           {sum_by_age("balance", OVERDUE_DAYS)},
           count(*)::int AS invoices, (count(*) FILTER (WHERE {OVERDUE_DAYS} > 0))::int AS overdue_invoices
    FROM {{rows}} r JOIN day USING (organisation_id) WHERE {{condition}}
    GROUP BY record_type, record_id, type, coalesce(currency, '')
"""
# On a new day more of what is open is overdue, and another time zone may change it either way: all of the account's
# balances are summed again. That happens once a day (UTC) in any case, so that a wrong balance does not last. The day
# is the statement's, not the transaction's, which may have waited for the lock since yesterday.
STALE_BALANCES = """
    SELECT id AS account_id FROM account WHERE balances_as_of < CURRENT_DATE AND closed_at IS NULL
    UNION
    SELECT account_id FROM xero_organisation WHERE balances_as_of <> local_date(time_zone, statement_timestamp())
"""
HAS_STALE_BALANCES = text(f"SELECT EXISTS (SELECT FROM ({STALE_BALANCES}) AS stale WHERE account_id = :account)")
ADVANCE_DAY = text("""
    WITH advanced AS (
        UPDATE xero_organisation SET balances_as_of = local_date(time_zone, statement_timestamp())
        WHERE account_id = :account AND balances_as_of <> local_date(time_zone, statement_timestamp()))
    UPDATE account SET balances_as_of = GREATEST(balances_as_of, CURRENT_DATE) WHERE id = :account
""")
RECOMPUTE_BALANCES = text(f"""
    WITH {DAY},
    expected AS MATERIALIZED (
        {BALANCES.format(rows="record_invoice", condition=f"r.account_id = :account AND {AWAITS_PAYMENT}")}),
    emptied AS (
        DELETE FROM record_balance b WHERE b.account_id = :account AND NOT EXISTS (
            SELECT FROM expected e WHERE e.record_type = b.record_type AND e.record_id = b.record_id
            AND e.type = b.type AND e.currency = b.currency)
        RETURNING b.record_type, b.record_id),
    balanced AS (
        INSERT INTO record_balance AS old (account_id, record_type, record_id, type, currency, {BALANCE_VALUES})
        SELECT :account, expected.* FROM expected
        ON CONFLICT (account_id, record_type, record_id, type, currency) DO UPDATE SET {BALANCE_ASSIGNMENTS}
        WHERE ({OLD_BALANCES}) IS DISTINCT FROM ({NEW_BALANCES})
        RETURNING record_type, record_id),
    {mark_fields("emptied", "balanced")}
    SELECT 1
""")

# The planner's estimates of rows from earlier CTEs are far off, and the nested loops that it then chooses take minutes.
PLAN_WITHOUT_NESTED_LOOPS = text(
    "SELECT set_config('enable_nestloop', 'off', true), set_config('work_mem', '64MB', true)"
)
# A rebuild is one statement for all rows of an account: five million rows take some three minutes. A job has no more
# time than the connection gives to a statement; a command may take longer.
LONG_STATEMENT_SECONDS = 3_600
ALLOW_LONG_STATEMENTS = text(f"SET LOCAL statement_timeout = '{LONG_STATEMENT_SECONDS}s'")
ADVISORY_LOCK = text("SELECT pg_advisory_xact_lock(:space, CAST(:account AS int))")
# The limit applies to this lock only. Each step reads the one before it, which fixes their order.
ADVISORY_LOCK_WITHIN_LIMIT = text("""
    WITH earlier AS MATERIALIZED (SELECT current_setting('lock_timeout') AS lock_timeout),
    limited AS MATERIALIZED (SELECT lock_timeout, set_config('lock_timeout', :milliseconds, true) FROM earlier),
    locked AS MATERIALIZED (
        SELECT lock_timeout, pg_advisory_xact_lock(:space, CAST(:account AS int)) FROM limited)
    SELECT set_config('lock_timeout', lock_timeout, true) FROM locked
""")
_lock_wait: ContextVar[float | None] = ContextVar("lock_wait", default=None)
LOCK_SPACE = 0x7061_7469
LIMIT_BATCH = text(f"SET LOCAL statement_timeout = '{BATCH_STATEMENT_SECONDS}s'")

TAKE_MARKS = text("""
    DELETE FROM projection_queue WHERE account_id = :account
      AND id = ANY(ARRAY(SELECT id FROM projection_queue WHERE account_id = :account ORDER BY id LIMIT :batch_size))
    RETURNING entity_type, organisation_id, xero_id, record_id, email
""")

# Keeps the planner from joining a batch with all rows of the account, which would make each batch of a backfill slower
# than the one before: a subquery with an offset is looked up for each row of the batch.
BY_INDEX = "OFFSET 0"
INVOICES_OF = f"""(
            SELECT invoice_id FROM xero_invoice
            WHERE account_id = :account AND organisation_id = {{contact}}.organisation_id
              AND contact_id = {{contact}}.contact_id {BY_INDEX})"""
# The invoices that marks on invoices, contacts, addresses and people widen to.
INVOICE_SCOPE = f"""
        SELECT m.organisation_id, m.invoice_id, i.contact_id
        FROM unnest(CAST(:invoice_organisations AS bigint[]), CAST(:invoices AS uuid[]))
             AS m(organisation_id, invoice_id)
        LEFT JOIN LATERAL (
            SELECT contact_id FROM xero_invoice
            WHERE account_id = :account AND organisation_id = m.organisation_id AND invoice_id = m.invoice_id
            {BY_INDEX}) i ON true
        UNION
        SELECT m.organisation_id, i.invoice_id, m.contact_id
        FROM unnest(CAST(:contact_organisations AS bigint[]), CAST(:contacts AS uuid[]))
             AS m(organisation_id, contact_id)
        CROSS JOIN LATERAL {INVOICES_OF.format(contact="m")} i
        UNION
        SELECT k.organisation_id, i.invoice_id, k.contact_id
        FROM contact_link k CROSS JOIN LATERAL {INVOICES_OF.format(contact="k")} i
        WHERE k.account_id = :account AND k.record_type = 'person' AND k.record_id = ANY(:people)
        UNION
        SELECT c.organisation_id, i.invoice_id, c.contact_id
        FROM (SELECT unnest(CAST(:emails AS text[])) AS email
              UNION
              SELECT re.email FROM copper_record_email re
              WHERE re.account_id = :account AND re.record_type = 'person' AND re.record_id = ANY(:people)) m
        CROSS JOIN LATERAL (
            SELECT organisation_id, contact_id FROM xero_contact_email
            WHERE account_id = :account AND email = m.email {BY_INDEX}) c
        CROSS JOIN LATERAL {INVOICES_OF.format(contact="c")} i
"""
# The opportunities that marks on companies widen to.
OPPORTUNITY_SCOPE = """
        SELECT 'opportunity' AS record_type, l.record_id FROM copper_relation l
        WHERE l.account_id = :account AND l.related_type = 'company'
          AND l.related_id = ANY(:companies_of_opportunities) AND l.record_type = 'opportunity'
"""
# What a batch widens to is queued as marks instead, if it is too much for one batch.
QUEUE_INVOICES = text(f"""
    WITH widened AS MATERIALIZED ({INVOICE_SCOPE}),
    queued AS (
        INSERT INTO projection_queue (account_id, entity_type, organisation_id, xero_id)
        SELECT :account, 'invoice', organisation_id, invoice_id FROM widened
        WHERE (SELECT count(*) FROM widened) > :max_widened
        RETURNING 1)
    SELECT count(*) FROM queued
""")
QUEUE_OPPORTUNITIES = text(f"""
    WITH widened AS MATERIALIZED (SELECT DISTINCT * FROM ({OPPORTUNITY_SCOPE}) AS scope),
    queued AS (
        INSERT INTO projection_queue (account_id, entity_type, record_id)
        SELECT :account, record_type, record_id FROM widened
        WHERE (SELECT count(*) FROM widened) > :max_widened
        RETURNING 1)
    SELECT count(*) FROM queued
""")
PROJECT_INVOICES = text(f"""
    WITH scope_invoice AS ({INVOICE_SCOPE}),
    {INVOICE_PAIRS},
    pair AS (SELECT * FROM invoice_pair),
    expected_rows AS ({READ_MODEL_ROWS}),
    current_rows AS (
        SELECT x.record_type, x.record_id, x.created_at, x.invoice_id, x.type, x.status, x.balance, x.currency,
               x.due_date, x.organisation_id
        FROM scope_invoice s
        CROSS JOIN LATERAL (
            SELECT * FROM record_invoice WHERE account_id = :account AND invoice_id = s.invoice_id {BY_INDEX}) x),
    rows_to_write AS (SELECT * FROM expected_rows),
    {APPLY}, {MOVE_BALANCES} {APPLY_COUNTS}
""")

PROJECT_RECORDS = text(f"""
    WITH scope_record AS (
        SELECT 'opportunity' AS record_type, unnest(CAST(:opportunities AS bigint[])) AS record_id
        UNION
        SELECT 'company', unnest(CAST(:companies AS bigint[]))
        UNION
        {OPPORTUNITY_SCOPE}),
    {RECORD_PAIRS},
    pair AS (SELECT * FROM record_pair),
    expected_rows AS ({READ_MODEL_ROWS}),
    current_rows AS (
        SELECT x.record_type, x.record_id, x.created_at, x.invoice_id, x.type, x.status, x.balance, x.currency,
               x.due_date, x.organisation_id
        FROM scope_record s
        JOIN record_invoice x ON x.account_id = :account AND x.record_type = s.record_type
             AND x.record_id = s.record_id),
    rows_to_write AS (SELECT * FROM expected_rows),
    {APPLY}, {MOVE_BALANCES} {APPLY_COUNTS}
""")

# Deletes a removed organisation's rows, and takes them out of the records' balances, in one statement.
REMOVE_ORGANISATION = text(f"""
    WITH current_rows AS (
        SELECT record_type, record_id, created_at, invoice_id, type, status, balance, currency, due_date,
               organisation_id
        FROM record_invoice WHERE account_id = :account AND organisation_id = :organisation),
    expected_rows AS (SELECT * FROM current_rows WHERE false),
    removed AS (
        DELETE FROM record_invoice WHERE account_id = :account AND organisation_id = :organisation
        RETURNING record_type, record_id),
    {mark_fields("removed")}, {MOVE_BALANCES}
    SELECT count(*) FROM removed
""")

ALL_INVOICES = """
    scope_invoice AS (SELECT organisation_id, invoice_id, contact_id FROM xero_invoice WHERE account_id = :account)
"""
REBUILD = text(f"""
    WITH {ALL_INVOICES}, {INVOICE_PAIRS},
    pair AS (SELECT * FROM invoice_pair),
    expected_rows AS ({READ_MODEL_ROWS}),
    current_rows AS ({ALL_ROWS}),
    rows_to_write AS (
        SELECT e.* FROM expected_rows e WHERE NOT EXISTS (
            SELECT FROM current_rows c
            WHERE c.record_type = e.record_type AND c.record_id = e.record_id AND c.created_at = e.created_at
              AND c.invoice_id = e.invoice_id AND c IS NOT DISTINCT FROM e)),
    {APPLY} {APPLY_COUNTS}
""")
# If the account has no rows, nothing is looked up or set aside, which saves three quarters of the time. Numbers sort
# faster than text, and any order that keeps a record's rows together fills the index equally well.
IS_EMPTY = text("SELECT NOT EXISTS (SELECT FROM record_invoice WHERE account_id = :account)")
ANALYZE_ROWS = text("ANALYZE record_invoice")
ANALYZE = text("ANALYZE record_invoice, record_balance")
FILL = text(f"""
    WITH {ALL_INVOICES}, {INVOICE_PAIRS},
    pair AS (SELECT * FROM invoice_pair),
    expected_rows AS ({READ_MODEL_ROWS})
    INSERT INTO record_invoice (account_id, {COLUMNS})
    SELECT :account, expected_rows.* FROM expected_rows
    ORDER BY record_id, record_type, created_at, invoice_id
""")
COMPARE = text(f"""
    WITH {ALL_INVOICES}, {INVOICE_PAIRS},
    pair AS (SELECT * FROM invoice_pair),
    expected AS MATERIALIZED ({READ_MODEL_ROWS}),
    actual AS ({ALL_ROWS}),
    {DAY},
    expected_balance AS ({BALANCES.format(rows="expected", condition=AWAITS_PAYMENT)}),
    actual_balance AS (
        SELECT record_type, record_id, type, currency, {BALANCE_VALUES}
        FROM record_balance WHERE account_id = :account),
    difference AS (
        SELECT coalesce(e.record_type, a.record_type) AS record_type, coalesce(e.record_id, a.record_id) AS record_id,
               'invoice ' || coalesce(e.invoice_id, a.invoice_id) AS what,
               CASE WHEN a.invoice_id IS NULL THEN 'missing' WHEN e.invoice_id IS NULL THEN 'extra'
                    ELSE 'stale' END AS difference_type
        FROM expected e
        FULL JOIN actual a USING (record_type, record_id, invoice_id)
        WHERE e IS DISTINCT FROM a
        UNION ALL
        SELECT record_type, record_id, currency, 'balances'
        FROM expected_balance e
        FULL JOIN actual_balance a USING (record_type, record_id, type, currency)
        WHERE e IS DISTINCT FROM a)
    SELECT difference_type, count(*) AS rows,
           (array_agg(record_type || ' ' || record_id || ', ' || what
                      ORDER BY record_type, record_id, what))[1:20] AS examples
    FROM difference GROUP BY difference_type
    UNION ALL
    SELECT 'marks', (SELECT count(*) FROM projection_queue WHERE account_id = :account)
                    + (SELECT count(*) FROM ({STALE_BALANCES}) AS stale WHERE account_id = :account), NULL
""")

# Rows are correct as of now, or as of the receipt of the oldest event that is not applied yet. Ids are assigned in the
# order of receipt except by concurrent statements, so the oldest event is among each source's first thousand.
UPDATE_SYNCED_AT = text("""
    UPDATE account SET synced_at = GREATEST(synced_at, LEAST(now(), (
        SELECT min(oldest.received_at)
        FROM (SELECT 'copper' AS vendor, 0 AS organisation_id
              UNION ALL
              SELECT 'xero', id FROM xero_organisation WHERE account_id = :account) AS s,
             LATERAL (SELECT received_at FROM inbox i
                      WHERE i.account_id = :account AND i.vendor = s.vendor
                        AND i.organisation_id = s.organisation_id AND i.state IN ('pending', 'leased')
                      ORDER BY i.id LIMIT 1000) AS oldest)))
    WHERE id = :account
""")
# While marks are pending, rows are older than what was fetched.
UPDATE_SYNCED_AT_IF_PROJECTED = text(
    f"{UPDATE_SYNCED_AT.text} AND NOT EXISTS (SELECT FROM projection_queue WHERE account_id = :account)"
)
# STALE_BALANCES of all accounts, zone by zone: by the indexes, it only reads accounts whose day has changed. When
# midnight passes for very many of them, each sweep takes some.
ACCOUNTS_PENDING = text("""
    WITH RECURSIVE zone AS (
        SELECT min(time_zone) AS name FROM xero_organisation
        UNION ALL
        SELECT (SELECT min(time_zone) FROM xero_organisation WHERE time_zone > zone.name)
        FROM zone WHERE zone.name IS NOT NULL),
    today AS (SELECT name, local_date(name, statement_timestamp()) AS day FROM zone WHERE name IS NOT NULL)
    SELECT account_id FROM projection_queue
    UNION
    (SELECT id FROM account WHERE balances_as_of < CURRENT_DATE AND closed_at IS NULL
     ORDER BY balances_as_of LIMIT :limit)
    UNION
    SELECT o.account_id FROM today CROSS JOIN LATERAL (
        SELECT account_id FROM xero_organisation
        WHERE time_zone = today.name AND balances_as_of < today.day ORDER BY balances_as_of LIMIT :limit) o
    UNION
    SELECT o.account_id FROM today CROSS JOIN LATERAL (
        SELECT account_id FROM xero_organisation
        WHERE time_zone = today.name AND balances_as_of > today.day ORDER BY balances_as_of DESC LIMIT :limit) o
""")
HAS_PENDING = text("""
    SELECT count(*) >= :marks FROM (SELECT FROM projection_queue WHERE account_id = :account LIMIT :marks) AS pending
""")
# A mark costs all rows of an invoice or a record, and most rows have several marks; a rebuild computes each row once.
IS_REBUILD_CHEAPER = text("""
    SELECT 2 * (SELECT count(*) FROM projection_queue WHERE account_id = :account)
           >= (SELECT count(*) FROM xero_invoice WHERE account_id = :account)
""")
DELETE_MARKS = text("DELETE FROM projection_queue WHERE account_id = :account")
COUNT_ROWS = text("""
    SELECT count(DISTINCT (record_type, record_id)) AS records, count(*) AS rows
    FROM record_invoice WHERE account_id = :account
""")


@dataclass(frozen=True)
class ProjectionResult:
    """Counts of one batch: marks taken, rows removed, rows written; and whether all balances were recomputed.

    `has_more` says whether marks may be left, and `seconds` how long the batch took once it had the account's lock.
    """

    marks: int
    removed: int
    written: int
    recomputed_balances: bool = False
    has_more: bool = False
    seconds: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """The read model compared with a rebuild: rows that it would add, change and remove, and balances that differ.

    `fields` are records whose expected custom fields in Copper differ (`store.read_model.field_values.compare`).
    `examples` names the first 20 of each type: the record, and the invoice or the currency. While `marks` are pending,
    differences are not errors: the marks will resolve them.
    """

    missing: int
    stale: int
    extra: int
    balances: int
    marks: int
    examples: dict[str, list[str]]
    fields: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether a rebuild would change nothing."""
        return not (self.missing or self.stale or self.extra or self.balances or self.fields)


class AccountBusyError(OperationalError):
    """Another transaction has projected this account for longer than this one may wait. Try again later."""

    @override
    def __str__(self) -> str:
        return "the account's rows are being computed by another job, which takes unusually long; this one tries again"


@contextmanager
def limited_lock_wait(seconds: float | None) -> Iterator[None]:
    """Let `lock_account` in this context wait at most `seconds`; None: as long as a statement may take."""
    token = _lock_wait.set(seconds)
    try:
        yield
    finally:
        _lock_wait.reset(token)


def lock_account(session: Session, account_id: int) -> None:
    """Wait until no other transaction projects this account, and lock it until the transaction ends.

    Raises `AccountBusyError`, and `AccountClosedError` if the account was closed.
    """
    params: dict[str, Any] = {"space": LOCK_SPACE, "account": account_id % 2**31}
    statement, seconds = ADVISORY_LOCK, _lock_wait.get()
    if seconds is not None:
        statement, params["milliseconds"] = ADVISORY_LOCK_WITHIN_LIMIT, str(int(seconds * 1000))
    try:
        session.execute(statement, params)
    except OperationalError as error:
        if isinstance(error.orig, QueryCanceled | LockNotAvailable):
            raise AccountBusyError(error.statement, error.params, error.orig) from error
        raise
    tenancy.lock_account(session, account_id)


class BatchTooSlowError(Exception):
    """A batch of several marks did not end within `BATCH_STATEMENT_SECONDS`; nothing changed. Try a smaller one."""


def project_batch(session: Session, account_id: int, batch_size: int = MAX_BATCH_SIZE) -> ProjectionResult:
    """Project up to `batch_size` marks in the caller's transaction; `marks` is 0 if there were none.

    Marks that widen to more than `MAX_WIDENING * batch_size` invoices, or companies with more opportunities than that,
    are replaced by marks on these, so that one mark is no more work than a batch. Raises `BatchTooSlowError`; the
    transaction can then only be rolled back.
    """
    lock_account(session, account_id)
    started = time.monotonic()
    has_stale_balances = bool(session.execute(HAS_STALE_BALANCES, {"account": account_id}).scalar_one())
    if has_stale_balances:
        _recompute_balances(session, account_id)
    marks = session.execute(TAKE_MARKS, {"account": account_id, "batch_size": batch_size}).all()
    removed = written = 0
    scopes, was_divided = _scopes(session, account_id, marks, MAX_WIDENING * batch_size)
    if len(marks) > 1:
        session.execute(LIMIT_BATCH)
    for statement, params in scopes:
        try:
            row = session.execute(statement, params).one()
        except OperationalError as error:
            if len(marks) > 1 and isinstance(error.orig, QueryCanceled):
                raise BatchTooSlowError from error
            raise
        removed += row.removed
        written += row.written
    has_more = was_divided or len(marks) == batch_size
    if not has_more:
        session.execute(UPDATE_SYNCED_AT, {"account": account_id})
    return ProjectionResult(
        len(marks), removed, written, has_stale_balances, has_more, seconds=time.monotonic() - started
    )


def analyze(session: Session) -> None:
    """Update the planner's statistics of the read model, after it was filled."""
    session.execute(ANALYZE)


def update_synced_at(session: Session, account_id: int) -> None:
    """Note that the rows are correct as of now; does nothing while marks are pending, because then they are not."""
    session.execute(UPDATE_SYNCED_AT_IF_PROJECTED, {"account": account_id})


class RebuildTooSlowError(Exception):
    """A rebuild did not end within the statement timeout; nothing changed."""


def rebuild_if_cheaper(session: Session, account_id: int) -> ProjectionResult | None:
    """Rebuild an account whose marks are slow, if so much of it is marked that this takes less time; else None.

    Raises `RebuildTooSlowError`; the transaction can then only be rolled back.
    """
    # Decided under the lock: another job may have rebuilt the account while this one waited.
    lock_account(session, account_id)
    if not session.execute(IS_REBUILD_CHEAPER, {"account": account_id}).scalar_one():
        return None
    try:
        return rebuild(session, account_id)
    except OperationalError as error:
        if isinstance(error.orig, QueryCanceled):
            raise RebuildTooSlowError from error
        raise


def allow_long_statements(session: Session) -> None:
    """Let the statements of the transaction take up to `LONG_STATEMENT_SECONDS`."""
    session.execute(ALLOW_LONG_STATEMENTS)


def rebuild(session: Session, account_id: int) -> ProjectionResult:
    """Compute every row of the account again, in the caller's transaction; this also covers pending marks."""
    lock_account(session, account_id)
    session.execute(PLAN_WITHOUT_NESTED_LOOPS)
    marks = execute_rowcount(session, DELETE_MARKS, {"account": account_id})
    removed = 0
    if session.execute(IS_EMPTY, {"account": account_id}).scalar_one():
        written = execute_rowcount(session, FILL, {"account": account_id})
        # The planner's statistics are stale: without new ones, the next query of all rows takes ten times as long.
        session.execute(ANALYZE_ROWS)
    else:
        row = session.execute(REBUILD, {"account": account_id}).one()
        removed, written = row.removed, row.written
    mark_all(session, account_id)
    _recompute_balances(session, account_id)
    session.execute(UPDATE_SYNCED_AT, {"account": account_id})
    return ProjectionResult(marks, removed, written)


def remove_organisation(session: Session, account_id: int, organisation_id: int) -> int:
    """Delete an organisation's rows and balances from the read model; returns how many rows were deleted.

    Its status must be `removed` already, in the same transaction, so that a rebuild gives the same rows.
    """
    lock_account(session, account_id)
    params = {"account": account_id, "organisation": organisation_id}
    return int(session.execute(REMOVE_ORGANISATION, params).scalar_one())


def compare(session: Session, account_id: int) -> Comparison:
    """Compare the account's rows with those of a rebuild; changes nothing."""
    session.execute(PLAN_WITHOUT_NESTED_LOOPS)
    rows = {row.difference_type: row for row in session.execute(COMPARE, {"account": account_id})}
    types = ("missing", "stale", "extra", "balances", "marks")
    counts = {name: rows[name].rows if name in rows else 0 for name in types}
    examples = {name: list(row.examples) for name, row in rows.items() if row.examples}
    return Comparison(**counts, examples=examples)


def has_pending(session: Session, account_id: int, marks: int) -> bool:
    """Whether at least `marks` marks of the account are not projected yet."""
    return bool(session.execute(HAS_PENDING, {"account": account_id, "marks": marks}).scalar_one())


def accounts_pending(session: Session) -> set[int]:
    """Accounts with pending marks, or with balances of another day; of these, `MAX_STALE_ACCOUNTS` of each zone."""
    return set(session.execute(ACCOUNTS_PENDING, {"limit": MAX_STALE_ACCOUNTS}).scalars())


def count_rows(session: Session, account_id: int) -> tuple[int, int]:
    """How many records of the account have invoices, and how many rows the read model has for them."""
    row = session.execute(COUNT_ROWS, {"account": account_id}).one()
    return row.records, row.rows


def _recompute_balances(session: Session, account_id: int) -> None:
    session.execute(ADVANCE_DAY, {"account": account_id})
    session.execute(RECOMPUTE_BALANCES, {"account": account_id})


def _scopes(
    session: Session, account_id: int, marks: Sequence[Row[Any]], max_widened: int
) -> tuple[list[tuple[TextClause, dict[str, Any]]], bool]:
    """The statements that project the marks, with their parameters; and whether marks were replaced by others."""
    keys_by_type: dict[str, set[Any]] = {}
    for mark in marks:
        key = (mark.organisation_id, mark.xero_id) if mark.xero_id else mark.record_id or mark.email
        keys_by_type.setdefault(mark.entity_type, set()).add(key)
    invoices: list[tuple[int, UUID]] = sorted(keys_by_type.get("invoice", ()))
    contacts: list[tuple[int, UUID]] = sorted(keys_by_type.get("contact", ()))
    invoice_scope = {
        "account": account_id,
        "invoice_organisations": [organisation_id for organisation_id, _ in invoices],
        "invoices": [invoice_id for _, invoice_id in invoices],
        "contact_organisations": [organisation_id for organisation_id, _ in contacts],
        "contacts": [contact_id for _, contact_id in contacts],
        "emails": sorted(keys_by_type.get("email", ())),
        "people": sorted(keys_by_type.get("person", ())),
    }
    companies = sorted(keys_by_type.get("company", ()))
    record_scope = {
        "account": account_id,
        "companies": companies,
        "companies_of_opportunities": companies,
        "opportunities": sorted(keys_by_type.get("opportunity", ())),
    }
    scopes: list[tuple[TextClause, dict[str, Any]]] = []
    was_divided = False

    def is_divided(statement: TextClause, scope: dict[str, Any]) -> bool:
        return bool(session.execute(statement, {**scope, "max_widened": max_widened}).scalar_one())

    if keys_by_type.keys() & {"contact", "email", "person"} and is_divided(QUEUE_INVOICES, invoice_scope):
        was_divided = True
    elif keys_by_type.keys() & {"invoice", "contact", "email", "person"}:
        scopes.append((PROJECT_INVOICES, invoice_scope))
    if companies and is_divided(QUEUE_OPPORTUNITIES, record_scope):
        was_divided = True
        record_scope["companies_of_opportunities"] = []
    if keys_by_type.keys() & {"company", "opportunity"}:
        scopes.append((PROJECT_RECORDS, record_scope))
    return scopes, was_divided
