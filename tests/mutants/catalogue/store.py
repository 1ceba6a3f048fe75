"""Mutants of the store: the mirror, the read model, the inbox and the runs."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

JOBS = "integration/test_jobs.py::test_"
BATCHES = "integration/test_projection_batches.py::test_"

MIRROR = (
    mutant(
        "an organisation that is connected again keeps the watermarks from before its removal",
        "store/accounts/xero_organisations.py",
        'f"{column} = NULL" for column in WATERMARK_COLUMNS',
        'f"{column} = {column}" for column in WATERMARK_COLUMNS',
        "integration/test_connections.py::"
        "test_only_an_organisation_that_was_removed_counts_as_never_synced_when_it_is_connected_again",
    ),
    mutant(
        "connecting an organisation again loses its watermarks",
        "store/accounts/xero_organisations.py",
        "CASE WHEN known.status <> 'removed' THEN",
        "CASE WHEN known.status = 'removed' THEN",
        "integration/test_connections.py::"
        "test_only_an_organisation_that_was_removed_counts_as_never_synced_when_it_is_connected_again",
    ),
    mutant(
        "an organisation that is connected again keeps the watermark of overpayments",
        "store/accounts/xero_organisations.py",
        'f"{column} = NULL" for column in WATERMARK_COLUMNS',
        'f"{column} = NULL" for column in WATERMARK_COLUMNS[:-1]',
        "integration/test_connections.py::"
        "test_only_an_organisation_that_was_removed_counts_as_never_synced_when_it_is_connected_again",
    ),
    mutant(
        "an older version of an invoice replaces a newer one",
        "store/mirror/mirror.py",
        "(EXCLUDED.updated_at, EXCLUDED.fetched_at) >= (old.updated_at, old.fetched_at) END\n"
        "        RETURNING invoice_id",
        "true END\n        RETURNING invoice_id",
        "integration/test_jobs.py::test_an_older_version_of_an_invoice_never_replaces_a_newer_one",
    ),
    mutant(
        "an older version of a contact replaces a newer one",
        "store/mirror/mirror.py",
        "(EXCLUDED.updated_at, EXCLUDED.fetched_at) >= (old.updated_at, old.fetched_at) END\n    RETURNING contact_id",
        "true END\n    RETURNING contact_id",
        "integration/test_jobs.py::test_an_older_version_never_replaces_a_newer_one",
    ),
    mutant(
        "an older version of a Copper record replaces a newer one",
        "store/mirror/mirror.py",
        "(EXCLUDED.updated_at, EXCLUDED.fetched_at) >= (old.updated_at, old.fetched_at) END\n    RETURNING record_id",
        "true END\n    RETURNING record_id",
        "integration/test_jobs.py::test_an_older_version_of_a_record_never_replaces_a_newer_one",
    ),
    mutant(
        "a tombstone yields to a fetch that began before it",
        "store/mirror/mirror.py",
        "WHERE old.fetched_at <= EXCLUDED.fetched_at\n    RETURNING record_id",
        "WHERE old.fetched_at > EXCLUDED.fetched_at\n    RETURNING record_id",
        "integration/test_sync.py::test_every_type_of_drift_is_found_counted_and_repaired",
    ),
    mutant(
        "the earliest of two CREATE times no longer wins",
        "store/mirror/mirror.py",
        "e.created_at < i.created_at",
        "e.created_at > i.created_at",
        "integration/test_webhook_endpoints.py::test_the_earlier_of_two_create_times_wins",
    ),
    mutant(
        "a worse created date replaces the webhook's",
        "store/mirror/mirror.py",
        "created_at = CASE WHEN old.created_source IN ('webhook', 'history')",
        "created_at = CASE WHEN false",
        "integration/test_read_api.py::test_created_dates_name_their_source_and_only_become_more_precise",
    ),
    mutant(
        "an address that a contact lost stays in the mirror",
        "store/mirror/mirror.py",
        "AND NOT EXISTS (SELECT FROM incoming i WHERE i.contact_id = e.contact_id AND i.email = e.email)",
        "AND false",
        "integration/test_matching.py::test_an_invoice_moves_when_its_contact_changes_its_address",
    ),
    mutant(
        "an address that a person lost stays in the mirror",
        "store/mirror/mirror.py",
        "AND NOT EXISTS (SELECT FROM incoming i WHERE i.record_id = e.record_id AND i.email = e.email)",
        "AND false",
        "integration/test_matching.py::test_a_person_who_changes_their_address_loses_and_gains_invoices",
    ),
    mutant(
        "a person who changed company stays with the old one",
        "store/mirror/mirror.py",
        "AND i.related_type = l.related_type AND i.related_id = l.related_id)",
        "AND i.related_type = l.related_type)",
        "integration/test_matching.py::test_a_person_who_moves_takes_their_invoices_along",
    ),
    mutant(
        "a deleted invoice is not queued for projection",
        "store/mirror/mirror.py",
        "SELECT :account, 'invoice', :organisation, invoice_id FROM deleted)",
        "SELECT :account, 'invoice', :organisation, invoice_id FROM buried WHERE false)",
        "integration/test_sync.py::test_every_type_of_drift_is_found_counted_and_repaired",
    ),
    mutant(
        "links of a merged contact are not moved",
        "store/mirror/mirror.py",
        "AND r.merged_to IS NOT NULL\n        RETURNING",
        "AND false\n        RETURNING",
        "integration/test_links_and_balances.py::test_a_link_follows_its_record_and_its_contact",
    ),
    mutant(
        "a renamed organisation is not queued for projection",
        "store/mirror/mirror.py",
        "c.organisation_id = :organisation AND changed",
        "c.organisation_id = :organisation AND NOT changed",
        "integration/test_sync.py::test_a_renamed_organisation_is_shown_after_reconciliation",
    ),
)

PROJECTION = (
    mutant(
        "deleted invoices are shown",
        "store/read_model/projection.py",
        "AND i.status <> 'DELETED' AND NOT i.is_deleted",
        "AND NOT i.is_deleted",
        "integration/test_matching.py::test_deleted_invoices_are_hidden_and_drafts_and_voided_ones_are_shown",
    ),
    mutant(
        "an invoice of another organisation's contact is shown",
        "store/read_model/projection.py",
        "AND ce.organisation_id = s.organisation_id\n             AND ce.contact_id = s.contact_id\n"
        "        JOIN copper_record_email",
        "\n             AND ce.contact_id = s.contact_id\n        JOIN copper_record_email",
        "integration/test_matching.py::test_one_contact_id_in_two_organisations_is_two_contacts",
    ),
    mutant(
        "a bill's issuer is the organisation",
        "store/read_model/projection.py",
        "CASE WHEN is_purchase(i.type) THEN coalesce(c.name, '') ELSE o.name END",
        "o.name",
        "integration/test_matching.py::test_bills_are_shown_only_if_the_account_enables_them",
    ),
    mutant(
        "a deleted company passes its people's invoices on to its opportunities",
        "store/read_model/projection.py",
        "JOIN copper_record c ON c.account_id = :account AND c.record_type = 'company'\n"
        "             AND c.record_id = l.related_id AND NOT c.is_deleted\n        WHERE",
        "JOIN copper_record c ON c.account_id = :account AND c.record_type = 'company'\n"
        "             AND c.record_id = l.related_id\n        WHERE",
        "integration/test_matching.py::test_deleted_records_have_no_invoices_and_pass_none_on",
    ),
    mutant(
        "an opportunity does not see the people of its companies",
        "store/read_model/projection.py",
        "FROM company_holder h\n        JOIN copper_relation l",
        "FROM company_holder h\n        JOIN (SELECT * FROM copper_relation WHERE false) l",
        "integration/test_matching.py::test_an_opportunity_sees_its_people_and_the_people_of_its_companies",
    ),
    mutant(
        "voided invoices have a balance",
        "store/read_model/overdue_sql.py",
        "AWAITS_PAYMENT = \"r.status = 'AUTHORISED' AND r.balance > 0\"",
        'AWAITS_PAYMENT = "r.balance > 0"',
        "integration/test_links_and_balances.py::test_balances_move_with_the_rows_and_never_mix_currencies",
    ),
    mutant(
        "balances of two currencies are summed",
        "store/read_model/projection.py",
        "SELECT record_type, record_id, type, coalesce(currency, '') AS currency, balance, -1 AS sign,",
        "SELECT record_type, record_id, type, '' AS currency, balance, -1 AS sign,",
        "integration/test_links_and_balances.py::test_balances_move_with_the_rows_and_never_mix_currencies",
    ),
    mutant(
        "a paid record keeps its balance",
        "store/read_model/projection.py",
        "AND b.type = m.type AND b.currency = m.currency AND b.invoices + m.invoices = 0",
        "AND b.type = m.type AND b.currency = m.currency AND false",
        "integration/test_links_and_balances.py::test_balances_move_with_the_rows_and_never_mix_currencies",
    ),
    mutant(
        "rows that no longer match stay",
        "store/read_model/projection.py",
        "USING (SELECT {KEY} FROM current_rows\n               EXCEPT",
        "USING (SELECT {KEY} FROM current_rows WHERE false\n               EXCEPT",
        "integration/test_matching.py::test_an_invoice_moves_when_its_contact_changes_its_address",
    ),
    mutant(
        "a comparison does not detect stale rows",
        "store/read_model/projection.py",
        "FULL JOIN actual a USING (record_type, record_id, invoice_id)\n        WHERE e IS DISTINCT FROM a",
        "FULL JOIN actual a USING (record_type, record_id, invoice_id)\n        WHERE (e IS NULL) <> (a IS NULL)",
        "integration/test_verification.py::test_verify_reports_missing_stale_and_extra_rows_and_rebuild_repairs_them",
    ),
    mutant(
        "a comparison does not detect wrong balances",
        "store/read_model/projection.py",
        "FULL JOIN actual_balance a USING (record_type, record_id, type, currency)\n        WHERE e IS DISTINCT FROM a",
        "FULL JOIN actual_balance a USING (record_type, record_id, type, currency)\n        WHERE false",
        "integration/test_links_and_balances.py::test_a_wrong_balance_is_detected_and_repaired",
    ),
    mutant(
        "two projections of an account run at once",
        "store/read_model/projection.py",
        'text("SELECT pg_advisory_xact_lock(:space, CAST(:account AS int))")',
        'text("SELECT :space, CAST(:account AS int)")',
        "integration/test_concurrency.py::test_projections_of_one_account_are_serialised_and_block_no_other_account",
    ),
    mutant(
        "marks that widen to very many invoices are not divided",
        "store/read_model/projection.py",
        'session.execute(statement, {**scope, "max_widened": max_widened}).scalar_one()',
        'session.execute(statement, {**scope, "max_widened": 10**9}).scalar_one()',
        f"{BATCHES}a_contact_with_more_invoices_than_a_batch_may_have_is_projected_invoice_by_invoice",
        f"{BATCHES}a_company_with_more_opportunities_than_a_batch_may_have_is_projected_opportunity_by_opportunity",
    ),
    mutant(
        "a batch that is too slow is repeated at the same size",
        "worker/sync/projector.py",
        "if result is None or result.seconds > SLOW_SECONDS:",
        "if result is not None and result.seconds > SLOW_SECONDS:",
        f"{BATCHES}a_batch_that_is_too_slow_is_repeated_in_smaller_ones",
    ),
    mutant(
        "a slow account forgets how small its batches have to be",
        "worker/sync/projector.py",
        "        _first_batch_sizes[account_id] = batch_size\n",
        "        pass\n",
        f"{BATCHES}a_batch_that_is_too_slow_is_repeated_in_smaller_ones",
    ),
    mutant(
        "an account that cannot be rebuilt in time is rebuilt again and again",
        "worker/sync/projector.py",
        "        _too_large_to_rebuild.add(account_id)\n",
        "",
        f"{BATCHES}an_account_that_cannot_be_rebuilt_in_time_is_projected_in_small_batches",
    ),
    mutant(
        "a run that waits for another projection loses an attempt",
        "worker/sync/run_processor.py",
        "    except projection.AccountBusyError as error:\n"
        "        return _requeue(run, lease, error, delay=ERROR_DELAY_SECONDS, count_attempt=False)",
        "    except projection.AccountBusyError as error:\n"
        "        return _requeue(run, lease, error, delay=ERROR_DELAY_SECONDS, count_attempt=True)",
        f"{BATCHES}a_run_that_waits_for_a_long_projection_loses_no_attempt",
    ),
    mutant(
        "the limit of the wait for a projection applies to all locks of the transaction",
        "store/read_model/projection.py",
        "    SELECT set_config('lock_timeout', lock_timeout, true) FROM locked\n",
        "    SELECT lock_timeout FROM locked\n",
        f"{BATCHES}the_limit_of_the_wait_for_a_projection_ends_it_and_applies_to_no_other_lock",
    ),
    mutant(
        "events are applied again, half by half, because their rows have to wait",
        "worker/sync/event_processor.py",
        "ConnectionLostError, AccountBusyError)\n",
        "ConnectionLostError)\n",
        "unit/test_event_batches.py::test_a_failure_decides_what_becomes_of_its_batch",
    ),
    mutant(
        "events whose rows have to wait are missing from the latency",
        "worker/sync/event_processor.py",
        "            _record_latency(lease.source, completed_ids)\n            raise\n",
        "            raise\n",
        f"{JOBS}a_drain_leaves_its_thread_while_another_job_projects_its_account_for_long",
    ),
    mutant(
        "the jobs of a busy account wait for it again and again",
        "worker/jobs/actors.py",
        "                _busy_until[account_id] = time.monotonic() + BUSY_SECONDS\n",
        "",
        f"{JOBS}a_drain_leaves_its_thread_while_another_job_projects_its_account_for_long",
    ),
    mutant(
        "the tables of a page are not analysed when its rows have to wait",
        "worker/sync/run_processor.py",
        "        _analyze(run, page)\n    # Other",
        "        pass\n    # Other",
        f"{JOBS}a_run_leaves_its_thread_while_another_job_projects_its_account_for_long",
    ),
    mutant(
        "latency ignores pending events",
        "store/read_model/projection.py",
        "AND i.organisation_id = s.organisation_id AND i.state IN ('pending', 'leased')",
        "AND i.organisation_id = s.organisation_id AND i.state IN ('leased')",
        "integration/test_links_and_balances.py::test_latency_includes_the_oldest_pending_event",
    ),
)

INBOX = (
    mutant(
        "an expired lease is not taken over",
        "store/ingest/inbox.py",
        "AND (state = 'pending' OR leased_until < now()) AND category = ANY(:categories)",
        "AND state = 'pending' AND category = ANY(:categories)",
        "integration/test_jobs.py::test_a_worker_that_dies_with_a_lease_loses_no_event",
    ),
    mutant(
        "a lost lease can still complete its events",
        "store/ingest/inbox.py",
        "WHERE account_id = :account AND id = ANY(:ids) "
        'AND lease_id = :lease_id AND state = \'leased\'\n""")\n# An error',
        'WHERE account_id = :account AND id = ANY(:ids) AND (lease_id = :lease_id OR true)\n""")\n# An error',
        "integration/test_jobs.py::test_an_expired_lease_is_taken_over_and_the_first_holder_cannot_finish",
    ),
    mutant(
        "a rate limit response counts as an attempt",
        "store/ingest/inbox.py",
        "attempts = attempts - CASE WHEN :count_attempt THEN 0 ELSE 1 END,\n        lease_id",
        "lease_id",
        "integration/test_jobs.py::test_a_rate_limit_response_requeues_the_events_without_counting_an_attempt",
    ),
    mutant(
        "an event that always fails is retried forever",
        "store/ingest/inbox.py",
        "CASE WHEN :count_attempt AND attempts >= :max_attempts THEN 'failed' ELSE 'pending' END",
        "'pending'",
        "integration/test_jobs.py::test_a_poison_event_is_quarantined_alone",
    ),
    mutant(
        "a replayed event is dropped as a duplicate",
        "store/ingest/inbox.py",
        "SET state = 'pending', attempts = 0, not_before = now(), error = NULL, finished_at = NULL",
        "SET state = 'done', attempts = 0, not_before = now(), error = NULL, finished_at = now()",
        "integration/test_links_and_balances.py::test_a_quarantined_event_is_replayed_or_dismissed",
    ),
    mutant(
        "pending events are deleted by retention",
        "store/ingest/inbox.py",
        "AND finished_at < now() - make_interval(days => :days)\n"
        "           AND state IN ('done', 'ignored', 'dismissed')",
        "AND state IN ('done', 'ignored', 'dismissed', 'pending')",
        "integration/test_schedule.py::test_completed_events_are_deleted_first_quarantined_ones_later_and_pending_ones_never",
    ),
)

RUNS = (
    mutant(
        "two workers write the same page of a run",
        "store/sync/runs.py",
        'WHERE account_id = :account AND id = :id AND lease_id = :lease_id AND state = \'running\'\n""")\nRELEASE',
        'WHERE account_id = :account AND id = :id AND state = \'running\'\n""")\nRELEASE',
        "integration/test_sync.py::test_an_expired_run_lease_is_taken_over_and_the_first_holder_cannot_write",
    ),
    mutant(
        "a page that always fails is retried forever",
        "store/sync/runs.py",
        "state = CASE WHEN :count_attempt AND attempts >= :max_attempts THEN 'failed' ELSE state END",
        "state = state",
        "integration/test_sync.py::test_a_page_that_always_fails_ends_its_run_but_an_outage_does_not",
    ),
    mutant(
        "two schedulers start the same catch-up",
        "store/sync/scheduled_tasks.py",
        "WHERE t.name = :name AND t.account_id <> 0 AND t.last_started_at <= now() - make_interval(secs => :seconds)",
        "WHERE t.name = :name AND t.account_id <> 0 AND (:seconds > 0 OR true)",
        "integration/test_schedule.py::test_concurrent_schedulers_start_a_due_catch_up_only_once",
    ),
    mutant(
        "accounts are reconciled at the same time",
        "store/sync/scheduled_tasks.py",
        "({account} * 7919 % 86400) / 86400.0 * :spread * 3600",
        "0 * {account} * :spread",
        "integration/test_schedule.py::test_reconciliations_are_spread_over_the_night",
    ),
    mutant(
        "a catch-up has no overlap at Xero",
        "worker/vendors/xero/stages.py",
        "OVERLAP = timedelta(seconds=120)",
        "OVERLAP = timedelta(seconds=-120)",
        "integration/test_sync.py::test_a_catch_up_finds_changes_of_lost_webhooks",
    ),
    mutant(
        "a catch-up does not follow a merge",
        "worker/vendors/xero/stages.py",
        "return list_documents_of(client, sorted(merge_targets)) if merge_targets else []",
        "return []",
        "integration/test_sync.py::test_a_catch_up_follows_a_merge_that_does_not_modify_invoices",
    ),
    mutant(
        "rows missing in a listing are deleted without being verified",
        "worker/vendors/xero/stages.py",
        "deleted_ids = [row_id for row_id in ids if row_id not in existing_ids",
        "deleted_ids = [row_id for row_id in ids if True or row_id not in existing_ids",
        "integration/test_sync.py::test_every_type_of_drift_is_found_counted_and_repaired",
        "integration/test_sync.py::test_rows_seen_by_a_dry_run_are_not_checked_again",
    ),
    mutant(
        "more records of one second than a page are lost",
        "worker/vendors/copper/stages.py",
        '"page": page_number + 1, "restarts": restarts}',
        '"page": page_number + 2, "restarts": restarts}',
        "integration/test_sync.py::test_records_of_one_second_that_exceed_a_page_are_all_fetched",
    ),
    mutant(
        "a record is skipped if another one is deleted before the last page",
        "worker/vendors/copper/stages.py",
        '    if page_number > 1 and _has_shrunk(page, cursor.get("total")) and restarts < MAX_RESTARTS:',
        "    if (\n"
        "        page.received_count == PAGE_SIZE\n"
        "        and page_number > 1\n"
        '        and _has_shrunk(page, cursor.get("total"))\n'
        "        and restarts < MAX_RESTARTS\n"
        "    ):",
        "unit/test_copper_paging.py::test_a_deletion_between_two_pages_hides_no_other_record",
    ),
)
