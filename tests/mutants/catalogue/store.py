"""Breaks of what is kept: the mirror, the read model, the inbox and the runs."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

MIRROR = (
    mutant(
        "an older version of an invoice replaces a newer one",
        "store/mirror.py",
        "(EXCLUDED.updated_at, EXCLUDED.fetched_at) >= (old.updated_at, old.fetched_at) END\n"
        "        RETURNING invoice_id",
        "true END\n        RETURNING invoice_id",
        "test_jobs.py::test_an_older_version_of_an_invoice_never_replaces_a_newer_one",
    ),
    mutant(
        "an older version of a contact replaces a newer one",
        "store/mirror.py",
        "(EXCLUDED.updated_at, EXCLUDED.fetched_at) >= (old.updated_at, old.fetched_at) END\n    RETURNING contact_id",
        "true END\n    RETURNING contact_id",
        "test_jobs.py::test_an_older_version_never_replaces_a_newer_one",
    ),
    mutant(
        "an older version of a Copper record replaces a newer one",
        "store/mirror.py",
        "(EXCLUDED.updated_at, EXCLUDED.fetched_at) >= (old.updated_at, old.fetched_at) END\n    RETURNING record_id",
        "true END\n    RETURNING record_id",
        "test_jobs.py::test_an_older_version_of_a_record_never_replaces_a_newer_one",
    ),
    mutant(
        "a tombstone yields to a fetch that began before it",
        "store/mirror.py",
        "WHERE old.fetched_at <= EXCLUDED.fetched_at\n    RETURNING record_id",
        "WHERE old.fetched_at > EXCLUDED.fetched_at\n    RETURNING record_id",
        "test_sync.py::test_drift_of_every_kind_is_found_counted_right_and_repaired",
    ),
    mutant(
        "the earliest of two CREATE times no longer wins",
        "store/mirror.py",
        "e.created_at < i.created_at",
        "e.created_at > i.created_at",
        "test_receivers.py::test_the_earliest_of_two_create_times_wins",
    ),
    mutant(
        "a worse created date replaces the webhook's",
        "store/mirror.py",
        "created_at = CASE WHEN old.created_source IN ('webhook', 'history')",
        "created_at = CASE WHEN false",
        "test_read_api.py::test_created_dates_say_where_they_come_from_and_only_get_better",
    ),
    mutant(
        "an address that a contact lost stays in the mirror",
        "store/mirror.py",
        "AND NOT EXISTS (SELECT FROM incoming i WHERE i.contact_id = e.contact_id AND i.email = e.email)",
        "AND false",
        "test_matching.py::test_an_invoice_moves_when_its_contact_takes_another_address",
    ),
    mutant(
        "an address that a person lost stays in the mirror",
        "store/mirror.py",
        "AND NOT EXISTS (SELECT FROM incoming i WHERE i.record_id = e.record_id AND i.email = e.email)",
        "AND false",
        "test_matching.py::test_a_person_who_takes_another_address_loses_and_gains",
    ),
    mutant(
        "a person who changed company stays with the old one",
        "store/mirror.py",
        "AND i.related_type = l.related_type AND i.related_id = l.related_id)",
        "AND i.related_type = l.related_type)",
        "test_matching.py::test_a_person_who_moves_takes_their_invoices_along",
    ),
    mutant(
        "an invoice that is gone leaves no mark",
        "store/mirror.py",
        "SELECT :account, 'invoice', :organisation, invoice_id FROM buried)",
        "SELECT :account, 'invoice', :organisation, invoice_id FROM buried WHERE false)",
        "test_sync.py::test_drift_of_every_kind_is_found_counted_right_and_repaired",
    ),
    mutant(
        "a merged contact's links stay with the loser",
        "store/mirror.py",
        "AND r.merged_to IS NOT NULL\n        RETURNING",
        "AND false\n        RETURNING",
        "test_answers.py::test_a_link_follows_its_record_and_its_contact",
    ),
    mutant(
        "a renamed organisation marks nothing",
        "store/mirror.py",
        "c.organisation_id = :organisation AND changed",
        "c.organisation_id = :organisation AND NOT changed",
        "test_sync.py::test_a_renamed_organisation_shows_after_reconciliation",
    ),
)

PROJECTION = (
    mutant(
        "deleted invoices show",
        "store/projection.py",
        "AND i.status <> 'DELETED' AND NOT i.gone",
        "AND NOT i.gone",
        "test_matching.py::test_deleted_invoices_never_show_and_drafts_and_voided_ones_do",
    ),
    mutant(
        "an invoice of another organisation's contact shows",
        "store/projection.py",
        "ON ce.account_id = :account AND ce.organisation_id = s.organisation_id\n             AND ce.contact_id",
        "ON ce.account_id = :account\n             AND ce.contact_id",
        "test_matching.py::test_one_contact_id_in_two_organisations_is_two_contacts",
    ),
    mutant(
        "a bill's issuer is the organisation",
        "store/projection.py",
        "CASE WHEN i.type = 'ACCPAY' THEN coalesce(c.name, '') ELSE o.name END",
        "o.name",
        "test_matching.py::test_bills_show_only_where_the_account_wants_them",
    ),
    mutant(
        "a deleted company passes its people's invoices on to its opportunities",
        "store/projection.py",
        "JOIN crm_record c ON c.account_id = :account AND c.record_type = 'company'\n"
        "             AND c.record_id = l.related_id AND NOT c.gone\n        WHERE",
        "JOIN crm_record c ON c.account_id = :account AND c.record_type = 'company'\n"
        "             AND c.record_id = l.related_id\n        WHERE",
        "test_matching.py::test_deleted_records_show_nothing_and_pass_nothing_on",
    ),
    mutant(
        "an opportunity does not see the people of its companies",
        "store/projection.py",
        "FROM company_holder h\n        JOIN crm_relation l",
        "FROM company_holder h\n        JOIN (SELECT * FROM crm_relation WHERE false) l",
        "test_matching.py::test_an_opportunity_sees_its_people_and_the_people_of_its_companies",
    ),
    mutant(
        "voided invoices count as owed",
        "store/projection.py",
        "OWED = \"status = 'AUTHORISED' AND balance > 0\"",
        'OWED = "balance > 0"',
        "test_answers.py::test_balances_move_with_the_rows_and_never_mix_currencies",
    ),
    mutant(
        "balances of two currencies are one sum",
        "store/projection.py",
        "SELECT record_type, record_id, type, coalesce(currency, '') AS currency, balance, -1 AS sign,",
        "SELECT record_type, record_id, type, '' AS currency, balance, -1 AS sign,",
        "test_answers.py::test_balances_move_with_the_rows_and_never_mix_currencies",
    ),
    mutant(
        "a record that owes nothing keeps its balance",
        "store/projection.py",
        "AND b.type = m.type AND b.currency = m.currency AND b.invoices + m.invoices = 0",
        "AND b.type = m.type AND b.currency = m.currency AND false",
        "test_answers.py::test_balances_move_with_the_rows_and_never_mix_currencies",
    ),
    mutant(
        "rows that no longer match stay",
        "store/projection.py",
        "USING (SELECT record_type, record_id, created_at, invoice_id FROM present\n               EXCEPT",
        "USING (SELECT record_type, record_id, created_at, invoice_id FROM present WHERE false\n               EXCEPT",
        "test_matching.py::test_an_invoice_moves_when_its_contact_takes_another_address",
    ),
    mutant(
        "a comparison sees no stale row",
        "store/projection.py",
        "FULL JOIN actual a USING (record_type, record_id, invoice_id)\n        WHERE w IS DISTINCT FROM a",
        "FULL JOIN actual a USING (record_type, record_id, invoice_id)\n        WHERE (w IS NULL) <> (a IS NULL)",
        "test_project.py::test_verify_says_what_is_missing_stale_and_extra_and_rebuild_heals_it",
    ),
    mutant(
        "a comparison sees no wrong balance",
        "store/projection.py",
        "FULL JOIN actual_balance a USING (record_type, record_id, type, currency)\n        WHERE w IS DISTINCT FROM a",
        "FULL JOIN actual_balance a USING (record_type, record_id, type, currency)\n        WHERE false",
        "test_answers.py::test_a_balance_that_went_wrong_is_seen_and_healed",
    ),
    mutant(
        "two projections of an account run at once",
        "store/projection.py",
        'text("SELECT pg_advisory_xact_lock(:space, CAST(:account AS int))")',
        'text("SELECT :space, CAST(:account AS int)")',
        "test_concurrency.py::test_projections_of_one_account_take_turns_and_hold_up_no_other",
    ),
    mutant(
        "an account counts as fresh while an event waits",
        "store/projection.py",
        "AND i.organisation_id = s.organisation_id AND i.state IN ('pending', 'leased')",
        "AND i.organisation_id = s.organisation_id AND i.state IN ('leased')",
        "test_answers.py::test_an_account_is_as_fresh_as_its_oldest_waiting_event",
    ),
)

INBOX = (
    mutant(
        "a lease that ran out is not taken again",
        "store/inbox.py",
        "AND (state = 'pending' OR leased_until < now()) AND kind = ANY(:kinds)",
        "AND state = 'pending' AND kind = ANY(:kinds)",
        "test_jobs.py::test_a_worker_that_died_after_its_lease_loses_no_event",
    ),
    mutant(
        "whoever lost a lease finishes its events all the same",
        "store/inbox.py",
        'WHERE account_id = :account AND id = ANY(:ids) AND lease_id = :lease AND state = \'leased\'\n""")\n# A try',
        'WHERE account_id = :account AND id = ANY(:ids) AND (lease_id = :lease OR true)\n""")\n# A try',
        "test_jobs.py::test_a_lease_that_ran_out_is_taken_again_and_the_first_holder_cannot_finish",
    ),
    mutant(
        "a wait that the vendor asked for counts as a try",
        "store/inbox.py",
        "attempts = attempts - CASE WHEN :free THEN 1 ELSE 0 END,\n        lease_id",
        "lease_id",
        "test_jobs.py::test_a_vendor_that_says_later_puts_the_events_back_without_counting_a_try",
    ),
    mutant(
        "an event that always fails is tried for ever",
        "store/inbox.py",
        "CASE WHEN NOT :free AND attempts >= :most THEN 'failed' ELSE 'pending' END",
        "'pending'",
        "test_jobs.py::test_a_poison_event_is_quarantined_alone",
    ),
    mutant(
        "a replayed event is dropped as known",
        "store/inbox.py",
        "SET state = 'pending', attempts = 0, not_before = now(), error = NULL, finished_at = NULL",
        "SET state = 'done', attempts = 0, not_before = now(), error = NULL, finished_at = now()",
        "test_answers.py::test_a_quarantined_event_is_replayed_or_dismissed",
    ),
    mutant(
        "events that wait are deleted with age",
        "store/inbox.py",
        "AND finished_at < now() - make_interval(days => :days)\n"
        "           AND state IN ('done', 'ignored', 'dismissed')",
        "AND state IN ('done', 'ignored', 'dismissed', 'pending')",
        "test_schedule.py::test_finished_events_are_kept_for_a_time_quarantined_ones_for_longer_and_what_waits_for_ever",
    ),
)

RUNS = (
    mutant(
        "two workers write the same page of a run",
        "store/runs.py",
        'WHERE account_id = :account AND id = :id AND lease_id = :lease AND state = \'running\'\n""")\nPUT_BACK',
        'WHERE account_id = :account AND id = :id AND state = \'running\'\n""")\nPUT_BACK',
        "test_sync.py::test_a_run_whose_lease_ran_out_is_taken_again_and_the_first_holder_cannot_write",
    ),
    mutant(
        "a page that always fails is tried for ever",
        "store/runs.py",
        "state = CASE WHEN NOT :free AND attempts >= :most THEN 'failed' ELSE state END",
        "state = state",
        "test_sync.py::test_a_page_that_always_fails_ends_its_run_and_an_outage_does_not",
    ),
    mutant(
        "two schedulers begin the same catch-up",
        "store/chores.py",
        "WHERE c.name = :name AND c.account_id <> 0 AND c.begun_at <= now() - make_interval(secs => :seconds)",
        "WHERE c.name = :name AND c.account_id <> 0 AND (:seconds > 0 OR true)",
        "test_schedule.py::test_a_catch_up_is_begun_when_it_is_due_and_only_once_by_many_schedulers",
    ),
    mutant(
        "accounts are reconciled all at once",
        "store/chores.py",
        "(id * 7919 % 86400) / 86400.0 * :spread * 3600",
        "0 * id * :spread",
        "test_schedule.py::test_accounts_are_reconciled_at_moments_spread_over_the_night",
    ),
    mutant(
        "a catch-up begins without an overlap at Xero",
        "worker/xero/stages.py",
        "OVERLAP = timedelta(seconds=120)",
        "OVERLAP = timedelta(seconds=-120)",
        "test_sync.py::test_a_catch_up_finds_what_lost_webhooks_told",
    ),
    mutant(
        "a catch-up does not follow a merge",
        "worker/xero/stages.py",
        "return all_invoices(client, sorted(heirs)) if heirs else []",
        "return []",
        "test_sync.py::test_a_catch_up_follows_a_merge_that_moved_invoices_untouched",
    ),
    mutant(
        "what a page did not bring is taken for gone without a second look",
        "worker/xero/stages.py",
        "gone = [one for one in ids if one not in there",
        "gone = [one for one in ids if True or one not in there",
        "test_sync.py::test_drift_of_every_kind_is_found_counted_right_and_repaired",
        "test_sync.py::test_rows_that_a_dry_run_has_seen_are_not_looked_at_again",
    ),
    mutant(
        "a second with more records than a page loses some",
        "worker/copper/stages.py",
        'return {**following, "page": page + 1}',
        "return None",
        "test_sync.py::test_a_second_with_more_records_than_a_page_is_read_page_by_page",
    ),
)
