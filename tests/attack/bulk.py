"""An account with very many rows, so that its pages and exports cost as much as a large customer's."""

from __future__ import annotations

import psycopg

from store.db.database import conninfo
from tests.attack.site import Site, Tenant, query

CONTACTS = 100_000
EXPORTED = 200_000

STATEMENTS = (
    """INSERT INTO copper_record (account_id, record_type, record_id, name, updated_at, fetched_at, changed_at)
       SELECT :account, 'person', 500000000 + n, 'Person ' || n, now(), now(), now()
       FROM generate_series(1, :count) n""",
    """INSERT INTO copper_record_email (account_id, record_type, record_id, email)
       SELECT :account, 'person', 500000000 + n, 'p' || n || '@bulk.test' FROM generate_series(1, :count) n""",
    """INSERT INTO xero_contact (account_id, organisation_id, contact_id, name, status, updated_at, fetched_at,
           changed_at)
       SELECT :account, :organisation, md5('contact' || n)::uuid, 'Contact ' || n, 'ACTIVE', now(), now(), now()
       FROM generate_series(1, :count) n""",
    """INSERT INTO xero_invoice (account_id, organisation_id, invoice_id, contact_id, type, status, number, issue_date,
           due_date, total, balance, currency, created_at, created_source, updated_at, fetched_at, changed_at)
       SELECT :account, :organisation, md5('invoice' || n)::uuid, md5('contact' || n)::uuid, 'ACCREC', 'AUTHORISED',
           'BULK-' || n, '2024-01-01', '2024-02-01', 115, 115, 'NZD', now(), 'webhook', now(), now(), now()
       FROM generate_series(1, :count) n""",
    """INSERT INTO record_invoice (account_id, record_type, record_id, created_at, invoice_id, organisation_id, type,
           status, number, issuer, issue_date, due_date, total, balance, currency, created_source)
       SELECT :account, 'person', 500000000 + n / 2, now(), md5('row' || n)::uuid, :organisation, 'ACCREC',
           'AUTHORISED', 'BULK-' || n, 'Bulk', '2024-01-01', '2024-02-01', 115, 115, 'NZD', 'webhook'
       FROM generate_series(1, :exported) n""",
)


def fill(site: Site, tenant: Tenant) -> None:
    """Create the account's rows, once per installation."""
    if tenant.account in site.filled:
        return
    site.filled.add(tenant.account)
    organisation = query("SELECT id FROM xero_organisation WHERE account_id = :a", a=tenant.account)[0][0]
    params = {"account": tenant.account, "organisation": organisation, "count": CONTACTS, "exported": EXPORTED}
    for statement in STATEMENTS:
        query(statement, **{name: value for name, value in params.items() if f":{name}" in statement})
    # A large account has been vacuumed long ago. Otherwise autovacuum would do it during the measurement.
    with psycopg.connect(conninfo(), autocommit=True) as connection:
        connection.execute(
            "VACUUM (ANALYZE) copper_record, copper_record_email, xero_contact, xero_invoice, record_invoice"
        )
