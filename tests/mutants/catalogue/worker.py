"""Mutants of the worker: budgets, events, connections."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

BUDGET = (
    mutant(
        "a call counts from its start, not from its response (Lua)",
        "worker/vendors/rate_limit/release.lua",
        "redis.call('ZADD', minute, 'XX', now + window, token)",
        "redis.call('ZREM', minute, token)",
        "integration/test_budget.py::test_no_window_exceeds_its_limit_whoever_makes_the_calls",
    ),
    mutant(
        "one call more than the limit is allowed per minute (Lua)",
        "worker/vendors/rate_limit/acquire.lua",
        "if used < allowed then return nil end",
        "if used <= allowed then return nil end",
        "integration/test_budget.py::test_no_window_exceeds_its_limit_whoever_makes_the_calls",
    ),
    mutant(
        "concurrent calls are not limited (Lua)",
        "worker/vendors/rate_limit/acquire.lua",
        "return {0, '0', 'concurrency'}",
        "redis.call('ZCARD', in_flight)",
        "integration/test_budget.py::test_concurrency_is_limited_and_the_last_slot_is_reserved_for_events",
    ),
    mutant(
        "reconciliation uses up the daily limit",
        "worker/vendors/rate_limit/budget.py",
        "Priority.RECONCILIATION: 0.25",
        "Priority.RECONCILIATION: 0.0",
        "integration/test_budget.py::test_reconciliation_leaves_a_quarter_of_the_day_to_events",
    ),
    mutant(
        "Xero's count is ignored (Lua)",
        "worker/vendors/rate_limit/release.lua",
        "if minute_remaining ~= '' then add_uncounted_calls(minute, minute_limit, minute_remaining) end",
        "",
        "integration/test_budget.py::test_calls_that_only_xero_has_counted_are_added_to_our_count",
    ),
    mutant(
        "Retry-After from Xero pauses only one caller (Lua)",
        "worker/vendors/rate_limit/acquire.lua",
        "if blocked_until > now then return",
        "if blocked_until < now then return",
        "integration/test_budget.py::test_a_retry_after_from_xero_pauses_all_callers",
    ),
    mutant(
        "after a loss of Redis data the minute starts unused (Lua)",
        "worker/vendors/rate_limit/seed.lua",
        "if window_left > 0 then",
        "if window_left > 1e9 then",
        "integration/test_budget.py::test_after_a_loss_of_redis_data_the_budget_starts_from_the_stored_usage_with_a_full_minute",
    ),
    mutant(
        "without Redis calls are allowed",
        "worker/vendors/rate_limit/budget.py",
        'raise BudgetExhaustedError("the shared call budget is unreachable", REDIS_DOWN_WAIT_SECONDS) from None',
        "return token",
        "integration/test_budget.py::test_without_redis_no_call_is_made",
    ),
)

EVENTS = (
    mutant(
        "a burst is fetched individually",
        "worker/sync/event_processor.py",
        "size, ids = batch_size(category), list(by_id)",
        "size, ids = 1, list(by_id)",
        "integration/test_jobs.py::test_a_burst_on_the_same_invoices_costs_one_call_per_forty_ids",
    ),
    mutant(
        "an outage quarantines events",
        "worker/sync/event_processor.py",
        "is_poison = isinstance(error, TransientError) and error.ambiguous and vendor_responds()",
        "is_poison = isinstance(error, TransientError) and error.ambiguous",
        "integration/test_jobs.py::test_an_outage_does_not_quarantine_events",
    ),
    mutant(
        "a batch that cannot be written stops the others",
        "worker/sync/event_processor.py",
        "return _apply_batches(lease, [batch.events for batch in fetched])",
        "raise",
        "integration/test_jobs.py::test_a_row_that_cannot_be_written_does_not_affect_the_rest_of_its_batch",
    ),
    mutant(
        "a flood of one account is processed to its end",
        "worker/sync/event_processor.py",
        "result = _drain_fetchable(source, seconds, ",
        "result = _drain_fetchable(source, math.inf, ",
        "system/test_fairness.py::test_a_job_that_ends_leaves_the_rest_of_a_flood_to_the_next",
    ),
)

CONNECTIONS = (
    mutant(
        "a missing permission counts as a lost connection",
        "worker/vendors/xero/client.py",
        "            if _lacks_scope(response):\n                raise self._mark_refused(endpoint)\n",
        "",
        "integration/test_permissions.py::test_events_without_permission_stay_pending_while_everything_else_continues",
    ),
    mutant(
        "a grant is revoked while another account uses its Xero user",
        "worker/sync/cleanup_tasks.py",
        "    if not is_shared:\n",
        "    if True:\n",
        "integration/test_connections.py::test_closing_an_account_keeps_the_connections_of_another_account_of_the_same_xero_user",
    ),
    mutant(
        "a shared connection is deleted when one account removes its organisation",
        "worker/sync/cleanup_tasks.py",
        "        if deprovisioning.is_connection_used(session, connection_id, tenant_id, grant.identity.user_id):\n"
        "            return\n",
        "        pass\n",
        "integration/test_connections.py::test_a_shared_organisation_removed_by_one_account_stays_connected_for_the_other",
    ),
    mutant(
        "an endpoint outside Copper's plan counts as a lost key",
        "worker/vendors/copper/client.py",
        'if path == "users/me" or self._send("GET", "users/me").status_code in {401, 403}:',
        "if True:",
        "integration/test_permissions.py::test_leads_that_are_not_in_the_plan_are_skipped_and_the_rest_continues",
    ),
    mutant(
        "organisations of the user's other authorisations are offered",
        "services/connect.py",
        "connections = xero.list_connections(grant.token, auth_event_id)",
        "connections = xero.list_connections(grant.token)",
        "integration/test_connections.py::test_only_organisations_of_this_authorisation_are_offered",
    ),
    mutant(
        "another account's organisation is selected",
        "services/connect.py",
        "tenant_id in own_tenants or (is_certain and tenant_id not in other_tenants)",
        "tenant_id in own_tenants or is_certain",
        "integration/test_connections.py::test_an_organisation_of_another_account_is_marked_and_not_selected",
    ),
    mutant(
        "events of a restored connection wait for the next sweep",
        "services/connect.py",
        "            inbox.resume(session, source)\n",
        "",
        "integration/test_reconnecting.py::test_pending_events_continue_after_reconnecting",
    ),
)
