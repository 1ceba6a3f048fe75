"""Breaks of what the worker does: calls within their budget, events, connections."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

BUDGET = (
    mutant(
        "a call counts from its sending, not from its answer (Lua)",
        "worker/budget.py",
        "redis.call('ZADD', KEYS[2], 'XX', now + window, token)",
        "redis.call('ZREM', KEYS[2], token)",
        "test_budget.py::test_no_window_ever_holds_more_calls_than_its_limit_whoever_makes_them",
    ),
    mutant(
        "one call more than the limit fits a minute (Lua)",
        "worker/budget.py",
        "if used < allowed then return nil end",
        "if used <= allowed then return nil end",
        "test_budget.py::test_no_window_ever_holds_more_calls_than_its_limit_whoever_makes_them",
    ),
    mutant(
        "calls at once are not bounded (Lua)",
        "worker/budget.py",
        "return {0, '0', 'at once'}",
        "redis.call('ZCARD', KEYS[3])",
        "test_budget.py::test_no_more_calls_run_at_once_than_allowed_and_the_last_place_is_for_events",
    ),
    mutant(
        "reconciliation leaves nothing of the day to events",
        "worker/budget.py",
        "Purpose.RECONCILIATION: 0.25",
        "Purpose.RECONCILIATION: 0.0",
        "test_budget.py::test_reconciliation_leaves_a_quarter_of_the_day_to_events",
    ),
    mutant(
        "what Xero counted is not believed (Lua)",
        "worker/budget.py",
        "if ARGV[4] ~= '' then correct(KEYS[2], tonumber(ARGV[3]), ARGV[4]) end",
        "",
        "test_budget.py::test_calls_that_xero_has_counted_and_we_have_not_are_counted_too",
    ),
    mutant(
        "a wait that Xero asked for is kept by its caller alone (Lua)",
        "worker/budget.py",
        "if blocked > now then return",
        "if blocked < now then return",
        "test_budget.py::test_a_wait_that_xero_asks_for_is_kept_by_everybody",
    ),
    mutant(
        "a Redis that forgot starts with an empty minute (Lua)",
        "worker/budget.py",
        "if left > 0 then",
        "if left > 1e9 then",
        "test_budget.py::test_a_redis_that_lost_its_memory_starts_from_the_meters_with_a_full_minute",
    ),
    mutant(
        "a Redis that is away lets calls through",
        "worker/budget.py",
        'raise BudgetSpentError("the shared call budget cannot be reached", UNREACHABLE_SECONDS) from None',
        "return token",
        "test_budget.py::test_a_redis_that_cannot_be_reached_lets_no_call_through",
    ),
)

EVENTS = (
    mutant(
        "a burst is fetched one by one",
        "worker/events.py",
        "size = IDS_PER_CALL if not source.is_copper else PAGE_SIZE",
        "size = 1",
        "test_jobs.py::test_a_burst_on_the_same_invoices_costs_one_fetch_for_forty_ids",
    ),
    mutant(
        "an outage is blamed on the events",
        "worker/events.py",
        "if isinstance(error, PassingError) and not (error.suspect and (alive or _answers(held.source))):",
        "if isinstance(error, PassingError) and not error.suspect:",
        "test_jobs.py::test_an_outage_is_not_blamed_on_the_events",
    ),
    mutant(
        "one portion that cannot be written stops its siblings",
        "worker/events.py",
        "return sum(_apply(held, events, alive=True) for events, _ in some)",
        "raise",
        "test_jobs.py::test_a_row_that_cannot_be_written_stops_none_of_those_written_with_it",
    ),
    mutant(
        "a flood of one account goes on until it is over",
        "worker/events.py",
        "drained = _drain_fetchable(source, seconds)",
        "drained = _drain_fetchable(source, math.inf)",
        "test_fairness.py::test_a_turn_that_is_over_leaves_the_rest_of_a_flood_for_the_next",
    ),
)

CONNECTIONS = (
    mutant(
        "a missing permission is taken for a lost connection",
        "worker/xero/client.py",
        "            if _lacks_scope(answer):\n                raise self._mark_refused(endpoint)\n",
        "",
        "test_permissions.py::test_events_of_what_is_not_permitted_wait_while_everything_else_goes_on",
    ),
    mutant(
        "a grant is revoked while another account uses its Xero user",
        "worker/leftovers.py",
        "    if not is_shared:\n",
        "    if True:\n",
        "test_connections.py::test_a_closed_account_leaves_another_of_the_same_xero_user_its_connections",
    ),
    mutant(
        "a shared connection ends when one account drops its organisation",
        "worker/leftovers.py",
        "        if closing.is_connection_used(session, connection_id, UUID(tenant) if tenant else None, user):\n"
        "            return\n",
        "        pass\n",
        "test_connections.py::test_a_shared_organisation_that_one_account_drops_goes_on_for_the_other",
    ),
    mutant(
        "what Copper's plan leaves out is taken for a dead key",
        "worker/copper/client.py",
        'if path == "users/me" or self._send("GET", "users/me").status_code in {401, 403}:',
        "if True:",
        "test_permissions.py::test_leads_that_are_not_in_the_plan_are_left_out_and_the_rest_goes_on",
    ),
    mutant(
        "organisations of the user's other authorisations are offered",
        "worker/connect.py",
        "found = xero.connections(grant.token, event)",
        "found = xero.connections(grant.token)",
        "test_connections.py::test_only_the_organisations_of_this_authorisation_are_offered",
    ),
    mutant(
        "another account's organisation is selected",
        "worker/connect.py",
        "tenant in own or (is_certain and tenant not in elsewhere)",
        "tenant in own or is_certain",
        "test_connections.py::test_an_organisation_of_another_account_is_marked_and_not_selected",
    ),
    mutant(
        "what a lost connection held up waits for its next turn",
        "worker/connect.py",
        "            inbox.resume(session, source)\n",
        "",
        "test_grants.py::test_what_waited_goes_on_by_itself_after_reconnecting",
    ),
)
