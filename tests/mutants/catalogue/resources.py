"""Mutants of the limits on shared resources."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

CAPACITY = (
    mutant(
        "clients that were refused together come back together",
        "web/middleware/concurrency.py",
        "self._last_release = max(now + seconds * random.uniform(0.5, 1), earliest)",
        "self._last_release = now + seconds * random.uniform(0.5, 1) + 0 * earliest",
        "unit/test_tarpit.py::test_delays_that_begin_together_end_one_after_the_other",
    ),
    mutant(
        "vendor calls run in the threads of pages",
        "web/admin/vendor_calls.py",
        "response: Response = await vendors.run(_account(request), _interactive, endpoint, request, arguments)",
        "response: Response = await run_in_threadpool(_interactive, endpoint, request, arguments)",
        "unit/test_vendor_calls.py::test_requests_that_wait_for_a_vendor_leave_the_threads_of_pages_free",
    ),
    mutant(
        "an interactive vendor call has four attempts",
        "worker/vendors/http.py",
        "stop=tenacity.stop_after_attempt(MAX_ATTEMPTS if _seconds_left() is None else 1),",
        "stop=tenacity.stop_after_attempt(MAX_ATTEMPTS),",
        "integration/test_resource_limits.py::test_a_slow_copper_is_reported_after_one_attempt_to_sign_in",
    ),
    mutant(
        "a closed panel keeps its slot",
        "web/panel/pages.py",
        "        await asyncio.wait({waiting, disconnect}, return_when=asyncio.FIRST_COMPLETED)",
        "        await asyncio.wait({waiting})",
        "integration/test_resource_limits.py::test_a_viewer_has_a_few_long_polls_and_releases_their_slots",
    ),
    mutant(
        "each long poll has its own query",
        "web/panel/record_views.py",
        "        record = account.records.get(key)",
        "        record = None",
        "integration/test_resource_limits.py::test_one_query_serves_all_long_polls_of_a_record",
    ),
    mutant(
        "all viewers of a panel share one limit",
        "web/panel/authorization.py",
        'rate_key = digest(f"{key} {viewer_identifier(request)}")',
        "rate_key = digest(key)",
        "integration/test_resource_limits.py::test_viewers_of_a_panel_are_limited_separately",
    ),
    mutant(
        "an account's pages use all slots",
        "web/middleware/concurrency.py",
        "return self._running < self._total and self._in_use.get(key, 0) < self._per_key",
        "return self._running < self._total",
        "integration/test_resource_limits.py::test_a_key_beyond_its_share_is_refused_while_others_are_not",
    ),
    mutant(
        "a slot granted to a cancelled waiter is lost",
        "web/middleware/concurrency.py",
        "            if not waiter.cancel():\n",
        "            if False:\n",
        "integration/test_resource_limits.py::test_a_slot_granted_to_a_cancelled_waiter_is_not_lost",
    ),
    mutant(
        "another process exports for the same account",
        "store/read_model/exports.py",
        "                await _lock(connection, account_id)\n",
        "",
        "integration/test_resource_limits.py::test_an_account_has_one_export_at_a_time_over_all_processes_and_does_not_block_others",
    ),
    mutant(
        "an export waits for its reader forever",
        "web/presentation/exports.py",
        "            async with asyncio.timeout(STALLED_SECONDS):",
        "            async with asyncio.timeout(None):",
        "integration/test_resource_limits.py::test_a_stalled_reader_ends_the_export",
    ),
    mutant(
        "a full pool is reported as an unavailable database",
        "web/presentation/problems.py",
        "    _add_handlers(app, POOL_FULL_ERRORS, handle_pool_full)",
        "    _add_handlers(app, POOL_FULL_ERRORS, handle_unavailable)",
        "integration/test_resource_limits.py::test_a_full_pool_is_distinguished_from_an_unavailable_database",
    ),
)
