"""Mutants of ageing, receivables and owners."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

TESTS = "integration/test_receivables.py"

RECEIVABLES = (
    mutant(
        "a day belongs to no bucket",
        "store/read_model/overdue_sql.py",
        'AgeingBucket("overdue_31_to_60", 31, 60)',
        'AgeingBucket("overdue_31_to_60", 31, 59)',
        f"{TESTS}::test_each_organisation_ages_its_invoices_by_its_own_day",
    ),
    mutant(
        "the first day of a bucket is left out",
        "store/read_model/overdue_sql.py",
        'condition = f"{days} >= {bucket.first_day}"',
        'condition = f"{days} > {bucket.first_day}"',
        f"{TESTS}::test_each_organisation_ages_its_invoices_by_its_own_day",
    ),
    mutant(
        "the account's total contains deleted invoices",
        "store/read_model/receivables.py",
        "{AWAITS_PAYMENT} AND NOT r.is_deleted",
        "{AWAITS_PAYMENT}",
        f"{TESTS}::test_totals_leave_out_deleted_invoices_and_removed_organisations",
    ),
    mutant(
        "rows with equal amounts are lost between pages",
        "store/read_model/receivables.py",
        "(b.{column}, b.record_id, b.currency) <",
        "(b.{column}, b.record_id, 'ZZZZ') <",
        f"{TESTS}::test_pages_have_every_row_once_in_order_whatever_is_equal",
    ),
    mutant(
        "bills count as a customer's payments",
        "store/read_model/balances.py",
        "AND r.type = 'ACCREC' AND r.status = 'PAID'",
        "AND r.status = 'PAID'",
        f"{TESTS}::test_a_record_pays_on_average_of_its_paid_invoices",
    ),
    mutant(
        "the export leaves out the owner's filter",
        "web/presentation/exports.py",
        "params = query.to_params(currencies)",
        'params = {**query.to_params(currencies), "owner": None}',
        f"{TESTS}::test_the_export_has_exactly_the_rows_of_the_page",
    ),
    mutant(
        "a lost change of a record's owner is no drift",
        "store/mirror/drift.py",
        "(c.name, c.assignee_id, c.email_domain) IS DISTINCT FROM (r.name, r.assignee_id, r.email_domain)",
        "(c.name, c.email_domain) IS DISTINCT FROM (r.name, r.email_domain)",
        f"{TESTS}::test_every_type_of_record_has_an_owner_and_a_lost_change_counts_as_drift",
    ),
    mutant(
        "users who cannot be fetched stop the run",
        "worker/vendors/copper/stages.py",
        '    except VendorError as error:\n        log.warning("users',
        '    except UnexpectedResponseError as error:\n        log.warning("users',
        f"{TESTS}::test_users_are_fetched_once_an_hour_and_a_failure_delays_no_records",
    ),
)
