"""Breaks of what keeps one account from using up what all need."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

CAPACITY = (
    mutant(
        "calls of a vendor are made in the threads of pages",
        "web/vendor_calls.py",
        "answer: Response = await vendors.run(_account(request), _interactive, endpoint, request, arguments)",
        "answer: Response = await run_in_threadpool(_interactive, endpoint, request, arguments)",
        "test_resources.py::test_sign_ins_while_copper_is_slow_hold_up_no_other_page",
    ),
    mutant(
        "whoever waits for a vendor waits for four tries",
        "worker/vendor.py",
        "stop=tenacity.stop_after_attempt(TRIES if _seconds_left() is None else 1),",
        "stop=tenacity.stop_after_attempt(TRIES),",
        "test_resources.py::test_a_slow_copper_is_told_to_whoever_signs_in_after_one_try",
    ),
    mutant(
        "a panel that was closed keeps its place",
        "web/panel/pages.py",
        "        await asyncio.wait({following, leaving}, return_when=asyncio.FIRST_COMPLETED)",
        "        await asyncio.wait({following})",
        "test_resources.py::test_a_viewer_holds_a_few_requests_open_and_gives_their_places_back",
    ),
    mutant(
        "each held request looks for itself",
        "web/panel/record_views.py",
        "        task = self._pending.get(key)",
        "        task = None",
        "test_resources.py::test_one_look_serves_all_who_wait_for_a_record",
    ),
    mutant(
        "all viewers of a panel are counted as one",
        "web/panel/viewers.py",
        'key = digest(f"{token} {viewer_name(request)}")',
        "key = digest(token)",
        "test_resources.py::test_viewers_of_one_panel_are_counted_each_by_themselves",
    ),
    mutant(
        "an account's pages take all places",
        "web/concurrency.py",
        "return self._running < self._total and self._taken.get(key, 0) < self._per_key",
        "return self._running < self._total",
        "test_resources.py::test_a_key_beyond_its_share_is_refused_and_others_are_not",
    ),
    mutant(
        "a place that was given to somebody who left is lost",
        "web/concurrency.py",
        "            if not turn.cancel():\n",
        "            if False:\n",
        "test_resources.py::test_a_place_that_is_given_to_somebody_who_leaves_is_not_lost",
    ),
    mutant(
        "another process exports for the same account",
        "store/exports.py",
        "                await _lock(connection, account_id)\n",
        "",
        "test_resources.py::test_an_account_exports_one_file_at_a_time_in_all_processes_and_no_other_account_waits",
    ),
    mutant(
        "an export waits for its reader for ever",
        "web/exports.py",
        "            async with asyncio.timeout(STALLED_SECONDS):",
        "            async with asyncio.timeout(None):",
        "test_resources.py::test_a_reader_who_stalls_has_the_export_ended",
    ),
    mutant(
        "a full pool is told as a database that is away",
        "web/problems.py",
        "    _handle(app, POOL_FULL, full)",
        "    _handle(app, POOL_FULL, away)",
        "test_resources.py::test_a_full_pool_is_told_apart_from_a_database_that_is_away",
    ),
)
