"""Breaks of the migrations: days, policies, indexes and constraints."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

DAYS = (
    mutant(
        "an invoice due today counts as overdue (migration)",
        "alembic/versions/0009_organisations_have_a_time_zone.py",
        "THEN greatest(today - due_date, 0) ELSE 0 END",
        "THEN greatest(today - due_date + 1, 0) ELSE 0 END",
        "test_days.py::test_overdue_is_what_is_approved_and_owed_after_its_due_date",
        "test_days.py::test_an_invoice_due_today_is_not_overdue_and_one_due_yesterday_is",
    ),
    mutant(
        "drafts count as overdue (migration)",
        "alembic/versions/0009_organisations_have_a_time_zone.py",
        "CASE WHEN status = 'AUTHORISED' AND balance > 0",
        "CASE WHEN balance > 0",
        "test_days.py::test_overdue_is_what_is_approved_and_owed_after_its_due_date",
    ),
    mutant(
        "overdue sums count what is due today",
        "store/projection.py",
        "overdue_days(status, balance, due_date, day.balances_on) > 0",
        "overdue_days(status, balance, due_date, day.balances_on + 1) > 0",
        "test_days.py::test_no_overdue_sum_counts_what_is_due_today",
    ),
    mutant(
        "the API goes by UTC, not by the organisation's day (migration)",
        "alembic/versions/0009_organisations_have_a_time_zone.py",
        "organisation_today(a.time_zones, rows.organisation_id, now())",
        "CAST(now() AT TIME ZONE 'UTC' AS date)",
        "test_days.py::test_organisations_all_over_the_earth_each_go_by_their_own_day",
    ),
    mutant(
        "pages and files go by UTC, not by the organisation's day",
        "store/days.py",
        'TODAY = "organisation_today(a.time_zones, r.organisation_id, now())"',
        "TODAY = \"CAST(now() AT TIME ZONE 'UTC' AS date)\"",
        "test_days.py::test_organisations_all_over_the_earth_each_go_by_their_own_day",
    ),
    mutant(
        "balances do not move on at an organisation's midnight",
        "store/projection.py",
        "SELECT account_id FROM xero_organisation WHERE balances_on <> local_date",
        "SELECT account_id FROM xero_organisation WHERE false AND balances_on <> local_date",
        "test_days.py::test_balances_move_on_at_an_organisations_own_midnight_without_any_event",
    ),
)

MIGRATIONS = (
    mutant(
        "every user of the cluster may connect to the database",
        "store/roles.py",
        '_run(connection, f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")',
        "pass",
        "test_roles.py::test_the_owner_of_another_database_has_no_part_in_this_one",
    ),
    mutant(
        "pages may rewrite the audit log",
        "store/roles.py",
        '"audit": ("SELECT", "INSERT"),',
        '"audit": ("SELECT", "INSERT", "UPDATE", "DELETE"),',
        "test_roles.py::test_pages_may_not",
    ),
    mutant(
        "a table stands behind no policy",
        "store/roles.py",
        '_run(connection, f"ALTER TABLE {here} ENABLE ROW LEVEL SECURITY")',
        "pass",
        "test_walls.py::test_every_table_of_an_account_stands_behind_a_policy",
    ),
    mutant(
        "every account passes a table's policy",
        "store/roles.py",
        "CREATE POLICY own_account ON {here} TO {admitted} USING ({column} = {ACCOUNT})",
        "CREATE POLICY own_account ON {here} TO {admitted} USING (true)",
        "test_walls.py::test_every_policy_compares_the_account",
    ),
    mutant(
        "revoked keys go on opening the main read (migration)",
        "alembic/versions/0004_row_level_security.py",
        "WHERE key_hash = hash AND revoked_at IS NULL AND scopes",
        "WHERE key_hash = hash AND scopes",
        "test_read_api.py::test_a_revoked_key_is_401",
    ),
    mutant(
        "keys of any scope open the main read (migration)",
        "alembic/versions/0004_row_level_security.py",
        "AND revoked_at IS NULL AND scopes && '{read,admin}'",
        "AND revoked_at IS NULL",
        "test_pages.py::test_a_key_of_another_scope_does_not_open_the_api",
    ),
    mutant(
        "an index of the models is missing (migration)",
        "alembic/versions/0011_runs_pause_while_disconnected.py",
        'op.create_index("sync_run_latest_idx", "sync_run", ["account_id", "organisation_id", "kind", "id"])',
        "pass",
        "test_project.py::test_migrations_give_the_models_tables_and_go_back_to_nothing",
    ),
    mutant(
        "a constraint of the models is missing (migration)",
        "alembic/versions/0012_the_step_that_set_up_waits_for.py",
        "\"setup_step IN ('settings', 'panel', 'done')\"",
        "\"setup_step IN ('settings', 'panel', 'done', 'anything')\"",
        "test_project.py::test_migrations_give_the_models_constraints",
    ),
    mutant(
        "going back leaves a table behind (migration)",
        "alembic/versions/0010_grant_identity_and_refused_endpoints.py",
        'op.drop_table("refused_endpoint")',
        "pass",
        "test_project.py::test_migrations_give_the_models_tables_and_go_back_to_nothing",
    ),
)
