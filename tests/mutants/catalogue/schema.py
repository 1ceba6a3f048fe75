"""Mutants of the migrations: overdue dates, policies, indexes and constraints."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

DAYS = (
    mutant(
        "an invoice due today counts as overdue (migration)",
        "alembic/versions/0001_baseline.py",
        "THEN greatest(today - due_date, 0) ELSE 0 END",
        "THEN greatest(today - due_date + 1, 0) ELSE 0 END",
        "integration/test_time_zones.py::test_approved_invoices_with_a_balance_are_overdue_after_their_due_date",
        "integration/test_time_zones.py::test_an_invoice_due_today_is_not_overdue_and_one_due_yesterday_is",
    ),
    mutant(
        "drafts count as overdue (migration)",
        "alembic/versions/0001_baseline.py",
        "CASE WHEN status = 'AUTHORISED' AND balance > 0",
        "CASE WHEN balance > 0",
        "integration/test_time_zones.py::test_approved_invoices_with_a_balance_are_overdue_after_their_due_date",
    ),
    mutant(
        "overdue totals include invoices due today",
        "store/read_model/projection.py",
        'overdue_days("day.balances_as_of")',
        'overdue_days("day.balances_as_of + 1")',
        "integration/test_time_zones.py::test_overdue_totals_exclude_invoices_due_today",
    ),
    mutant(
        "the API uses UTC instead of the organisation's date (migration)",
        "alembic/versions/0001_baseline.py",
        "organisation_today(a.time_zones, page.organisation_id, now())",
        "CAST(now() AT TIME ZONE 'UTC' AS date)",
        "integration/test_time_zones.py::test_organisations_in_all_time_zones_use_their_own_date",
    ),
    mutant(
        "pages and exports use UTC instead of the organisation's date",
        "store/read_model/overdue_sql.py",
        'TODAY = "organisation_today(a.time_zones, r.organisation_id, now())"',
        "TODAY = \"CAST(now() AT TIME ZONE 'UTC' AS date)\"",
        "integration/test_time_zones.py::test_organisations_in_all_time_zones_use_their_own_date",
    ),
    mutant(
        "balances do not change at an organisation's midnight",
        "store/read_model/projection.py",
        "SELECT account_id FROM xero_organisation WHERE balances_as_of <> local_date",
        "SELECT account_id FROM xero_organisation WHERE false AND balances_as_of <> local_date",
        "integration/test_time_zones.py::test_balances_change_at_an_organisations_own_midnight_without_any_event",
    ),
)

MIGRATIONS = (
    mutant(
        "every user of the cluster may connect to the database",
        "store/db/roles.py",
        '_execute(connection, f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")',
        "pass",
        "integration/test_roles.py::test_the_owner_of_another_database_has_no_access_to_this_one",
    ),
    mutant(
        "pages may rewrite the audit log",
        "store/db/roles.py",
        '"audit_log": ("SELECT", "INSERT"),',
        '"audit_log": ("SELECT", "INSERT", "UPDATE", "DELETE"),',
        "integration/test_roles.py::test_the_pages_role_may_not",
    ),
    mutant(
        "a table has no policy",
        "store/db/roles.py",
        '_execute(connection, f"ALTER TABLE {quoted_table} ENABLE ROW LEVEL SECURITY")',
        "pass",
        "integration/test_tenant_isolation.py::test_every_table_of_an_account_has_a_row_level_security_policy",
    ),
    mutant(
        "a table's policy admits every account",
        "store/db/roles.py",
        "CREATE POLICY own_account ON {quoted_table} TO {quoted_roles} USING ({column} = {ACCOUNT})",
        "CREATE POLICY own_account ON {quoted_table} TO {quoted_roles} USING (true)",
        "integration/test_tenant_isolation.py::test_every_policy_checks_the_account",
    ),
    mutant(
        "the main read accepts revoked keys (migration)",
        "alembic/versions/0001_baseline.py",
        "WHERE key_hash = api_key_hash AND revoked_at IS NULL AND scopes",
        "WHERE key_hash = api_key_hash AND scopes",
        "integration/test_read_api.py::test_a_revoked_key_is_401",
    ),
    mutant(
        "the main read accepts keys of any scope (migration)",
        "alembic/versions/0001_baseline.py",
        "AND revoked_at IS NULL AND scopes && '{read,admin}'",
        "AND revoked_at IS NULL",
        "integration/test_connect_pages.py::test_a_key_with_another_scope_is_refused_by_the_api",
    ),
    mutant(
        "an index of the models is missing (migration)",
        "alembic/versions/0001_baseline.py",
        'op.create_index("sync_run_latest_idx", "sync_run", ["account_id", "organisation_id", "kind", "id"])',
        "pass",
        "integration/test_migrations.py::test_migrations_create_the_models_tables_and_can_be_reverted",
    ),
    mutant(
        "a constraint of the models is missing (migration)",
        "alembic/versions/0001_baseline.py",
        "\"setup_step IN ('settings', 'panel', 'done')\"",
        "\"setup_step IN ('settings', 'panel', 'done', 'anything')\"",
        "integration/test_migrations.py::test_migrations_create_the_models_constraints",
    ),
    mutant(
        "a downgrade leaves a table behind (migration)",
        "alembic/versions/0001_baseline.py",
        '"xero_organisation",\n    "refused_endpoint",',
        '"xero_organisation",',
        "integration/test_migrations.py::test_migrations_create_the_models_tables_and_can_be_reverted",
    ),
)
