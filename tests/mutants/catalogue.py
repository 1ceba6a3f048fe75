"""The mutants: one deliberate break each, and the tests that must notice it.

They stand for mistakes that a change could bring in unnoticed. Each replaces a text that occurs exactly once in its
file, so a mutant whose place was rewritten is reported, and never silently skipped.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One break: in `path`, `before` (which occurs exactly once) becomes `after`; `tests` are pytest's node ids."""

    name: str
    path: str
    before: str
    after: str
    tests: tuple[str, ...]


def _mutant(name: str, path: str, before: str, after: str, *tests: str) -> Mutant:
    return Mutant(name, path, before, after, tuple(f"tests/{test}" for test in tests))


MIRROR = (
    _mutant(
        "an older version of an invoice replaces a newer one",
        "store/mirror.py",
        "(EXCLUDED.updated_at, EXCLUDED.fetched_at) >= (old.updated_at, old.fetched_at) END\n"
        "        RETURNING invoice_id",
        "true END\n        RETURNING invoice_id",
        "test_jobs.py::test_an_older_version_never_replaces_a_newer_one",
    ),
    _mutant(
        "an older version of a contact replaces a newer one",
        "store/mirror.py",
        "(EXCLUDED.updated_at, EXCLUDED.fetched_at) >= (old.updated_at, old.fetched_at) END\n    RETURNING contact_id",
        "true END\n    RETURNING contact_id",
        "test_jobs.py::test_an_older_version_never_replaces_a_newer_one",
    ),
    _mutant(
        "an older version of a Copper record replaces a newer one",
        "store/mirror.py",
        "(EXCLUDED.updated_at, EXCLUDED.fetched_at) >= (old.updated_at, old.fetched_at) END\n    RETURNING record_id",
        "true END\n    RETURNING record_id",
        "test_jobs.py::test_an_older_version_never_replaces_a_newer_one",
    ),
    _mutant(
        "a tombstone yields to a fetch that began before it",
        "store/mirror.py",
        "WHERE old.fetched_at <= EXCLUDED.fetched_at\n    RETURNING record_id",
        "WHERE old.fetched_at > EXCLUDED.fetched_at\n    RETURNING record_id",
        "test_sync.py::test_drift_of_every_kind_is_found_counted_right_and_repaired",
    ),
    _mutant(
        "the earliest of two CREATE times no longer wins",
        "store/mirror.py",
        "e.created_at < i.created_at",
        "e.created_at > i.created_at",
        "test_receivers.py::test_the_earliest_of_two_create_times_wins",
    ),
    _mutant(
        "a worse created date replaces the webhook's",
        "store/mirror.py",
        "created_at = CASE WHEN old.created_source IN ('webhook', 'history')",
        "created_at = CASE WHEN false",
        "test_read_api.py::test_created_dates_say_where_they_come_from_and_only_get_better",
    ),
    _mutant(
        "an address that a contact lost stays in the mirror",
        "store/mirror.py",
        "AND NOT EXISTS (SELECT FROM incoming i WHERE i.contact_id = e.contact_id AND i.email = e.email)",
        "AND false",
        "test_matching.py::test_an_invoice_moves_when_its_contact_takes_another_address",
    ),
    _mutant(
        "an address that a person lost stays in the mirror",
        "store/mirror.py",
        "AND NOT EXISTS (SELECT FROM incoming i WHERE i.record_id = e.record_id AND i.email = e.email)",
        "AND false",
        "test_matching.py::test_a_person_who_takes_another_address_loses_and_gains",
    ),
    _mutant(
        "a person who changed company stays with the old one",
        "store/mirror.py",
        "AND i.related_type = l.related_type AND i.related_id = l.related_id)",
        "AND i.related_type = l.related_type)",
        "test_matching.py::test_a_person_who_moves_takes_their_invoices_along",
    ),
    _mutant(
        "an invoice that is gone leaves no mark",
        "store/mirror.py",
        "SELECT :account, 'invoice', :organisation, invoice_id FROM buried)",
        "SELECT :account, 'invoice', :organisation, invoice_id FROM buried WHERE false)",
        "test_sync.py::test_drift_of_every_kind_is_found_counted_right_and_repaired",
    ),
    _mutant(
        "a merged contact's links stay with the loser",
        "store/mirror.py",
        "AND r.merged_to IS NOT NULL\n        RETURNING",
        "AND false\n        RETURNING",
        "test_answers.py::test_a_link_follows_its_record_and_its_contact",
    ),
    _mutant(
        "a renamed organisation marks nothing",
        "store/mirror.py",
        "c.organisation_id = :organisation AND changed",
        "c.organisation_id = :organisation AND NOT changed",
        "test_sync.py::test_a_renamed_organisation_shows_after_reconciliation",
    ),
)

PROJECTION = (
    _mutant(
        "deleted invoices show",
        "store/projection.py",
        "AND i.status <> 'DELETED' AND NOT i.gone",
        "AND NOT i.gone",
        "test_matching.py::test_deleted_invoices_never_show_and_drafts_and_voided_ones_do",
    ),
    _mutant(
        "an invoice of another organisation's contact shows",
        "store/projection.py",
        "ON ce.account_id = :account AND ce.organisation_id = s.organisation_id\n             AND ce.contact_id",
        "ON ce.account_id = :account\n             AND ce.contact_id",
        "test_concurrency.py::test_every_round_of_concurrent_changes_ends_equal_to_a_rebuild",
        "test_matching.py::test_several_organisations_on_one_account_show_side_by_side",
    ),
    _mutant(
        "a bill's issuer is the organisation",
        "store/projection.py",
        "CASE WHEN i.type = 'ACCPAY' THEN coalesce(c.name, '') ELSE o.name END",
        "o.name",
        "test_matching.py::test_bills_show_only_where_the_account_wants_them",
    ),
    _mutant(
        "a deleted company passes its people's invoices on to its opportunities",
        "store/projection.py",
        "JOIN crm_record c ON c.account_id = :account AND c.record_type = 'company'\n"
        "             AND c.record_id = l.related_id AND NOT c.gone\n        WHERE",
        "JOIN crm_record c ON c.account_id = :account AND c.record_type = 'company'\n"
        "             AND c.record_id = l.related_id\n        WHERE",
        "test_matching.py::test_deleted_records_show_nothing_and_pass_nothing_on",
    ),
    _mutant(
        "an opportunity does not see the people of its companies",
        "store/projection.py",
        "FROM company_holder h\n        JOIN crm_relation l",
        "FROM company_holder h\n        JOIN (SELECT * FROM crm_relation WHERE false) l",
        "test_matching.py::test_an_opportunity_sees_its_people_and_the_people_of_its_companies",
    ),
    _mutant(
        "voided invoices count as owed",
        "store/projection.py",
        "OWED = \"status = 'AUTHORISED' AND balance > 0\"",
        'OWED = "balance > 0"',
        "test_answers.py::test_balances_move_with_the_rows_and_never_mix_currencies",
    ),
    _mutant(
        "balances of two currencies are one sum",
        "store/projection.py",
        "SELECT record_type, record_id, type, coalesce(currency, '') AS currency, balance, -1 AS sign,",
        "SELECT record_type, record_id, type, '' AS currency, balance, -1 AS sign,",
        "test_answers.py::test_balances_move_with_the_rows_and_never_mix_currencies",
    ),
    _mutant(
        "a record that owes nothing keeps its balance",
        "store/projection.py",
        "AND b.type = m.type AND b.currency = m.currency AND b.invoices + m.invoices = 0",
        "AND b.type = m.type AND b.currency = m.currency AND false",
        "test_answers.py::test_balances_move_with_the_rows_and_never_mix_currencies",
    ),
    _mutant(
        "rows that no longer match stay",
        "store/projection.py",
        "USING (SELECT record_type, record_id, created_at, invoice_id FROM present\n               EXCEPT",
        "USING (SELECT record_type, record_id, created_at, invoice_id FROM present WHERE false\n               EXCEPT",
        "test_matching.py::test_an_invoice_moves_when_its_contact_takes_another_address",
    ),
    _mutant(
        "a comparison sees no stale row",
        "store/projection.py",
        "FULL JOIN actual a USING (record_type, record_id, invoice_id)\n        WHERE w IS DISTINCT FROM a",
        "FULL JOIN actual a USING (record_type, record_id, invoice_id)\n        WHERE (w IS NULL) <> (a IS NULL)",
        "test_project.py::test_verify_says_what_is_missing_stale_and_extra_and_rebuild_heals_it",
    ),
    _mutant(
        "a comparison sees no wrong balance",
        "store/projection.py",
        "FULL JOIN actual_balance a USING (record_type, record_id, type, currency)\n        WHERE w IS DISTINCT FROM a",
        "FULL JOIN actual_balance a USING (record_type, record_id, type, currency)\n        WHERE false",
        "test_answers.py::test_a_balance_that_went_wrong_is_seen_and_healed",
    ),
    _mutant(
        "two projections of an account run at once",
        "store/projection.py",
        'text("SELECT pg_advisory_xact_lock(:space, CAST(:account AS int))")',
        'text("SELECT :space, CAST(:account AS int)")',
        "test_concurrency.py::test_every_round_of_concurrent_changes_ends_equal_to_a_rebuild",
    ),
    _mutant(
        "an account counts as fresh while an event waits",
        "store/projection.py",
        "AND i.organisation_id = s.organisation_id AND i.state IN ('pending', 'leased')",
        "AND i.organisation_id = s.organisation_id AND i.state IN ('leased')",
        "test_answers.py::test_an_account_is_as_fresh_as_its_oldest_waiting_event",
    ),
)

INBOX = (
    _mutant(
        "a lease that ran out is not taken again",
        "store/inbox.py",
        "AND (state = 'pending' OR leased_until < now()) AND kind = ANY(:kinds)",
        "AND state = 'pending' AND kind = ANY(:kinds)",
        "test_jobs.py::test_a_worker_that_died_after_its_lease_loses_no_event",
    ),
    _mutant(
        "whoever lost a lease finishes its events all the same",
        "store/inbox.py",
        'WHERE account_id = :account AND id = ANY(:ids) AND lease_id = :lease AND state = \'leased\'\n""")\n# A try',
        'WHERE account_id = :account AND id = ANY(:ids) AND (lease_id = :lease OR true)\n""")\n# A try',
        "test_jobs.py::test_a_lease_that_ran_out_is_taken_again_and_the_first_holder_cannot_finish",
    ),
    _mutant(
        "a wait that the vendor asked for counts as a try",
        "store/inbox.py",
        "attempts = attempts - CASE WHEN :free THEN 1 ELSE 0 END,\n        lease_id",
        "lease_id",
        "test_jobs.py::test_a_vendor_that_says_later_puts_the_events_back_without_counting_a_try",
    ),
    _mutant(
        "an event that always fails is tried for ever",
        "store/inbox.py",
        "CASE WHEN NOT :free AND attempts >= :most THEN 'failed' ELSE 'pending' END",
        "'pending'",
        "test_jobs.py::test_a_poison_event_is_quarantined_alone",
    ),
    _mutant(
        "a replayed event is dropped as known",
        "store/inbox.py",
        "SET state = 'pending', attempts = 0, not_before = now(), error = NULL, finished_at = NULL",
        "SET state = 'done', attempts = 0, not_before = now(), error = NULL, finished_at = now()",
        "test_answers.py::test_a_quarantined_event_is_replayed_or_dismissed",
    ),
    _mutant(
        "events that wait are deleted with age",
        "store/inbox.py",
        "AND state IN ('done', 'ignored', 'dismissed')",
        "AND state IN ('done', 'ignored', 'dismissed', 'pending')",
        "test_schedule.py::test_finished_events_are_kept_for_a_time_quarantined_ones_for_longer_and_what_waits_for_ever",
    ),
)

RUNS = (
    _mutant(
        "two workers write the same page of a run",
        "store/runs.py",
        'WHERE account_id = :account AND id = :id AND lease_id = :lease AND state = \'running\'\n""")\nPUT_BACK',
        'WHERE account_id = :account AND id = :id AND state = \'running\'\n""")\nPUT_BACK',
        "test_sync.py::test_two_runs_of_a_kind_are_one_and_workers_on_the_same_run_do_no_harm",
    ),
    _mutant(
        "a page that always fails is tried for ever",
        "store/runs.py",
        "state = CASE WHEN NOT :free AND attempts >= :most THEN 'failed' ELSE state END",
        "state = state",
        "test_sync.py::test_a_page_that_always_fails_ends_its_run_and_an_outage_does_not",
    ),
    _mutant(
        "two schedulers begin the same catch-up",
        "store/chores.py",
        "WHERE c.name = :name AND c.account_id <> 0 AND c.begun_at <= now() - make_interval(secs => :seconds)",
        "WHERE c.name = :name AND c.account_id <> 0 AND (:seconds > 0 OR true)",
        "test_schedule.py::test_a_catch_up_is_begun_when_it_is_due_and_only_once_by_many_schedulers",
    ),
    _mutant(
        "accounts are reconciled all at once",
        "store/chores.py",
        "(id * 7919 % 86400) / 86400.0 * :spread * 3600",
        "0 * id * :spread",
        "test_schedule.py::test_each_account_is_reconciled_once_a_night_at_its_own_time",
    ),
    _mutant(
        "a catch-up begins without an overlap at Xero",
        "worker/xero/stages.py",
        "OVERLAP = timedelta(seconds=120)",
        "OVERLAP = timedelta(seconds=-120)",
        "test_sync.py::test_a_catch_up_finds_what_lost_webhooks_told",
    ),
    _mutant(
        "a catch-up does not follow a merge",
        "worker/xero/stages.py",
        "return all_invoices(client, sorted(heirs)) if heirs else []",
        "return []",
        "test_sync.py::test_a_catch_up_follows_a_merge_that_moved_invoices_untouched",
    ),
    _mutant(
        "what a page did not bring is taken for gone without a second look",
        "worker/xero/stages.py",
        "gone = [one for one in ids if one not in there",
        "gone = [one for one in ids if True or one not in there",
        "test_sync.py::test_drift_of_every_kind_is_found_counted_right_and_repaired",
        "test_sync.py::test_rows_that_a_dry_run_has_seen_are_not_looked_at_again",
    ),
    _mutant(
        "a second with more records than a page loses some",
        "worker/copper/stages.py",
        'return {**following, "page": page + 1}',
        "return None",
        "test_sync.py::test_copper_pages_cost_the_arithmetic",
    ),
)

BUDGET = (
    _mutant(
        "a call counts from its sending, not from its answer (Lua)",
        "worker/budget.py",
        "redis.call('ZADD', KEYS[2], 'XX', now + window, token)",
        "redis.call('ZREM', KEYS[2], token)",
        "test_budget.py::test_no_window_ever_holds_more_calls_than_its_limit_whoever_makes_them",
    ),
    _mutant(
        "one call more than the limit fits a minute (Lua)",
        "worker/budget.py",
        "if used < allowed then return nil end",
        "if used <= allowed then return nil end",
        "test_budget.py::test_no_window_ever_holds_more_calls_than_its_limit_whoever_makes_them",
    ),
    _mutant(
        "calls at once are not bounded (Lua)",
        "worker/budget.py",
        "return {0, '0', 'at once'}",
        "redis.call('ZCARD', KEYS[3])",
        "test_budget.py::test_no_more_calls_run_at_once_than_allowed_and_the_last_place_is_for_events",
    ),
    _mutant(
        "reconciliation leaves nothing of the day to events",
        "worker/budget.py",
        "Purpose.RECONCILIATION: 0.25",
        "Purpose.RECONCILIATION: 0.0",
        "test_budget.py::test_reconciliation_leaves_a_quarter_of_the_day_to_events",
    ),
    _mutant(
        "what Xero counted is not believed (Lua)",
        "worker/budget.py",
        "if ARGV[4] ~= '' then correct(KEYS[2], tonumber(ARGV[3]), ARGV[4]) end",
        "",
        "test_budget.py::test_calls_that_xero_has_counted_and_we_have_not_are_counted_too",
    ),
    _mutant(
        "a wait that Xero asked for is kept by its caller alone (Lua)",
        "worker/budget.py",
        "if blocked > now then return",
        "if blocked < now then return",
        "test_budget.py::test_a_wait_that_xero_asks_for_is_kept_by_everybody",
    ),
    _mutant(
        "a Redis that forgot starts with an empty minute (Lua)",
        "worker/budget.py",
        "if left > 0 then",
        "if left > 1e9 then",
        "test_budget.py::test_a_redis_that_lost_its_memory_starts_from_the_meters_with_a_full_minute",
    ),
    _mutant(
        "a Redis that is away lets calls through",
        "worker/budget.py",
        'raise BudgetSpentError("the shared call budget cannot be reached", UNREACHABLE_SECONDS) from None',
        "return token",
        "test_budget.py::test_a_redis_that_cannot_be_reached_lets_no_call_through",
    ),
)

EVENTS = (
    _mutant(
        "a burst is fetched one by one",
        "worker/events.py",
        "size = IDS_PER_CALL if not source.is_copper else PAGE_SIZE",
        "size = 1",
        "test_jobs.py::test_a_burst_on_the_same_invoices_costs_one_fetch_for_forty_ids",
    ),
    _mutant(
        "an outage is blamed on the events",
        "worker/events.py",
        "if isinstance(error, PassingError) and not (error.suspect and (alive or _answers(held.source))):",
        "if isinstance(error, PassingError) and not error.suspect:",
        "test_jobs.py::test_an_outage_is_not_blamed_on_the_events",
    ),
    _mutant(
        "one portion that cannot be written stops its siblings",
        "worker/events.py",
        "return sum(_apply(held, events, alive=True) for events, _ in some)",
        "raise",
        "test_jobs.py::test_a_row_that_cannot_be_written_stops_none_of_those_written_with_it",
    ),
    _mutant(
        "a flood of one account goes on until it is over",
        "worker/events.py",
        "if again_in is not None or time.monotonic() > until:",
        "if again_in is not None:",
        "test_fairness.py::test_one_accounts_flood_does_not_delay_anothers_single_event",
    ),
)

SIGNATURES_AND_SECRETS = (
    _mutant(
        "only the first webhook key is looked at",
        "webhooks/signature.py",
        "right |= hmac.compare_digest(wanted, given)",
        "return hmac.compare_digest(wanted, given)",
        "test_receivers.py::test_two_keys_are_active_while_one_is_rotated",
    ),
    _mutant(
        "any secret opens a Copper path",
        "webhooks/signature.py",
        'return hmac.compare_digest(text.encode("utf-8", "replace"), wanted.encode())',
        "return bool(text and wanted)",
        "test_receivers.py::test_a_wrong_path_and_a_wrong_secret_look_the_same",
    ),
    _mutant(
        "addresses are logged",
        "runtime/logs.py",
        'without = ADDRESS.sub("[address]", text) if "@" in text else text',
        "without = text",
        "test_project.py::test_text_for_logs_loses_addresses_and_tokens",
    ),
    _mutant(
        "a state works in another browser",
        "store/access.py",
        "if not randomness.compare_digest(bytes(row.browser_hash), digest(browser)):",
        "if False:",
        "test_pages.py::test_a_state_works_once_in_its_own_browser_within_ten_minutes",
    ),
    _mutant(
        "a state lasts for ever",
        "store/access.py",
        "RETURNING purpose, browser_hash, sealed, expires_at > now() AS fresh",
        "RETURNING purpose, browser_hash, sealed, true AS fresh",
        "test_pages.py::test_a_state_works_once_in_its_own_browser_within_ten_minutes",
    ),
    _mutant(
        "a session outlives its twelve hours",
        "store/access.py",
        "WHERE s.token_hash = :hash AND s.expires_at > now()",
        "WHERE s.token_hash = :hash",
        "test_pages.py::test_a_session_is_new_with_every_sign_in_and_ends_when_it_is_signed_out",
    ),
    _mutant(
        "revoked keys go on working on every endpoint but the main read",
        "store/access.py",
        "WHERE key_hash = :hash AND revoked_at IS NULL AND scopes && CAST(:scopes AS text[])",
        "WHERE key_hash = :hash AND scopes && CAST(:scopes AS text[])",
        "test_walls.py::test_a_revoked_key_opens_no_endpoint",
    ),
    _mutant(
        "a form needs no token of ours",
        "web/browser.py",
        "if not isinstance(given, str) or not randomness.compare_digest(given.encode(), wanted.encode()):",
        "if not isinstance(given, str):",
        "test_pages.py::test_a_form_without_its_token_or_from_another_site_changes_nothing",
    ),
    _mutant(
        "cookies are within reach of scripts",
        "web/browser.py",
        'answer.set_cookie(_name(what), value, max_age=seconds, path="/", secure=_secure(), httponly=True',
        'answer.set_cookie(_name(what), value, max_age=seconds, path="/", secure=_secure(), httponly=False',
        "test_pages.py::test_cookies_are_signed_and_out_of_reach_of_scripts",
    ),
    _mutant(
        "pages may be framed by anybody",
        "web/security.py",
        "\"default-src 'none'; style-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'; \"",
        "\"default-src 'none'; style-src 'self'; img-src 'self' data:; base-uri 'none'; \"",
        "test_pages.py::test_every_page_carries_its_guard",
    ),
    _mutant(
        "the panel may be framed by anybody",
        "web/security.py",
        "frame-ancestors {frames}",
        "frame-ancestors *",
        "test_panel.py::test_the_page_may_be_framed_by_copper_and_runs_our_own_script_alone",
    ),
    _mutant(
        "a code of the panel's window works for another panel",
        "web/panel/pages.py",
        'challenge = base64.urlsafe_b64encode(hashlib.sha256(sent.secret.encode()).digest()).decode().rstrip("=")',
        'challenge = base64.urlsafe_b64encode(hashlib.sha256(b"").digest()).decode().rstrip("=")',
        "test_panel.py::test_the_code_of_the_window_works_once_and_for_its_own_panel_alone",
    ),
    _mutant(
        "policies let every account in (migration)",
        "alembic/versions/0004_row_level_security.py",
        'op.execute(f"CREATE POLICY own_account ON {table} TO {ROLE} USING (account_id = {ACCOUNT})")',
        'op.execute(f"CREATE POLICY own_account ON {table} TO {ROLE} USING (true)")',
        "test_walls.py::test_a_bound_transaction_sees_and_changes_its_own_account_alone",
    ),
    _mutant(
        "a table stands behind no policy (migration)",
        "alembic/versions/0004_row_level_security.py",
        'op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")',
        "pass",
        "test_walls.py::test_every_table_of_an_account_stands_behind_a_policy",
    ),
)

MUTANTS: tuple[Mutant, ...] = (*MIRROR, *PROJECTION, *INBOX, *RUNS, *BUDGET, *EVENTS, *SIGNATURES_AND_SECRETS)
