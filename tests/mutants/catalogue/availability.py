"""Mutants of leases, of reads from a standby, and of lost connections."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

LEASES = "integration/test_leases.py"
REPLICA = "integration/test_read_replica.py"
JOBS = "integration/test_jobs.py"
WAKE_UPS = "integration/test_wake_ups.py"
BALANCES = "integration/test_links_and_balances.py"

AVAILABILITY = (
    mutant(
        "leases are never renewed",
        "worker/sync/lease_keeper.py",
        "if lease.is_abandoned or time.monotonic() - lease.renewed_at >= interval:",
        "if lease.is_abandoned:",
        f"{LEASES}::test_events_stay_leased_while_the_vendor_takes_longer_than_the_lease",
    ),
    mutant(
        "the lease of work that ended in an error is left to expire",
        "worker/sync/lease_keeper.py",
        "        lease.is_abandoned = True\n",
        "        _keeper().remove(lease)\n",
        f"{LEASES}::test_events_whose_database_went_away_are_returned_as_soon_as_it_is_back",
    ),
    mutant(
        "a lost connection to the database bisects the batch",
        "worker/sync/event_processor.py",
        "AccountClosedError, ConnectionLostError, AccountBusyError)\n",
        "AccountClosedError, AccountBusyError)\n",
        f"{LEASES}::test_a_lost_connection_concerns_the_whole_lease",
    ),
    mutant(
        "a job that lost the database is left to the sweep",
        "worker/jobs/broker.py",
        "            declared.send(*args, delay_ms=delay_ms)\n",
        "",
        f"{LEASES}::test_a_job_is_sent_once_more_when_its_leases_have_been_returned",
    ),
    mutant(
        "a job that came before the return of its lease is left to the sweep",
        "worker/jobs/broker.py",
        "            lease_keeper.after_returns(partial(declared.send, *args))\n",
        "",
        f"{LEASES}::test_a_job_is_sent_once_more_when_its_leases_have_been_returned",
    ),
    mutant(
        "a slot that is renewed expires all the same (Lua)",
        "worker/jobs/slot_renew.lua",
        "return redis.call('expire', KEYS[1], ARGV[2])",
        "return 1",
        f"{LEASES}::test_a_slot_stays_taken_while_its_work_takes_longer_than_the_lease",
    ),
    mutant(
        "the sweep waits for the key of a lost message to expire",
        "worker/jobs/enqueue.py",
        "    is_repeated = _is_queue_empty(job)\n",
        "    is_repeated = False\n",
        f"{JOBS}::test_the_sweep_replaces_a_lost_message_and_adds_none_while_messages_wait",
    ),
    mutant(
        "each sweep adds messages while others wait",
        "worker/jobs/enqueue.py",
        "    is_repeated = _is_queue_empty(job)\n",
        "    is_repeated = True\n",
        f"{JOBS}::test_the_sweep_replaces_a_lost_message_and_adds_none_while_messages_wait",
    ),
    mutant(
        "a consumer thread ends when Redis goes",
        "worker/jobs/wake_ups.py",
        "        raise ConnectionClosed(error) from error\n",
        "        raise\n",
        f"{WAKE_UPS}::test_a_consumer_thread_survives_when_redis_goes_while_a_delayed_message_is_due",
    ),
    mutant(
        "messages are not announced",
        "worker/jobs/wake_ups.py",
        "        self._announcements.announce(enqueued.queue_name)\n",
        "",
        f"{WAKE_UPS}::test_a_message_wakes_a_consumer_that_would_not_poll_again",
    ),
    mutant(
        "a job that ends makes no room for the next message",
        "worker/jobs/wake_ups.py",
        "        self._event.set()\n",
        "",
        f"{WAKE_UPS}::test_a_job_that_ends_makes_room_for_the_next_message",
    ),
    mutant(
        "a consumer whose announcement was lost never polls",
        "worker/jobs/wake_ups.py",
        "return not is_listening or time.monotonic() - self._fetched_at >= POLL_SECONDS",
        "return not is_listening",
        f"{WAKE_UPS}::test_a_consumer_polls_when_its_announcements_are_lost",
    ),
    mutant(
        "messages that came before the process listened wait for a poll",
        "worker/jobs/wake_ups.py",
        "                self._wake_all()\n",
        "",
        f"{WAKE_UPS}::test_a_process_that_begins_to_listen_fetches_messages_that_came_before",
    ),
    mutant(
        "one transaction starts the catch-ups of all accounts",
        "worker/jobs/scheduler.py",
        "interval_seconds, gap=gap, limit=MAX_ACCOUNTS_PER_CLAIM",
        "interval_seconds, gap=gap",
        "integration/test_schedule.py::test_a_round_of_catch_ups_starts_in_bounded_transactions",
    ),
    mutant(
        "a catch-up that fetches nothing leaves the rows as old as they were",
        "worker/sync/run_processor.py",
        "    projection.update_synced_at(session, account_id)\n",
        "",
        f"{BALANCES}::test_a_catch_up_that_fetches_nothing_brings_the_rows_up_to_date_unless_marks_are_pending",
    ),
    mutant(
        "rows count as current while marks are pending",
        "store/read_model/projection.py",
        " AND NOT EXISTS (SELECT FROM projection_queue WHERE account_id = :account)",
        "",
        f"{BALANCES}::test_a_catch_up_that_fetches_nothing_brings_the_rows_up_to_date_unless_marks_are_pending",
    ),
    mutant(
        "a connection that the server has closed is used again",
        "store/db/database.py",
        "        if not is_idle and not _has_input(connection):",
        "        if not is_idle:",
        "integration/test_recovery.py::test_a_database_restart_breaks_no_panel_and_no_export",
    ),
    mutant(
        "the standby serves reads however far it is behind",
        "store/db/read_replica.py",
        "return self.is_primary_away or self.seconds <= settings().read_max_lag_seconds",
        "return True",
        f"{REPLICA}::test_lag_is_the_time_since_the_newest_position_that_was_reached",
    ),
    mutant(
        "without a primary reads fail",
        "store/db/read_replica.py",
        "return self.is_primary_away or self.seconds <= settings().read_max_lag_seconds",
        "return not self.is_primary_away and self.seconds <= settings().read_max_lag_seconds",
        f"{REPLICA}::test_a_standby_that_is_far_behind_is_better_than_no_primary",
    ),
    mutant(
        "a key that the standby does not know is refused",
        "store/db/read_replica.py",
        "        if pool is order[0] and pool is self._replica and not replica_lag().is_primary_away:\n"
        "            await self._complete(work, requests, results)\n",
        "",
        f"{REPLICA}::test_a_key_that_the_standby_does_not_know_yet_works_at_once",
    ),
    mutant(
        "panels are told of a change before the standby shows it, and not again",
        "web/panel/change_listener.py",
        "                    del self._changed_at[account_id]\n                    self._notify(account_id)\n",
        "                    del self._changed_at[account_id]\n",
        f"{REPLICA}::test_a_panel_is_notified_again_once_the_standby_shows_the_change",
    ),
    mutant(
        "a service file's values replace those beside it",
        "runtime/database_address.py",
        "return {**_service_parameters(str(service)), **parameters} if service",
        "return {**parameters, **_service_parameters(str(service))} if service",
        "unit/test_database_address.py::test_parameters_beside_a_service_take_precedence",
    ),
    mutant(
        "only the first Sentinel is asked",
        "runtime/redis_address.py",
        'tuple(_parse_host(host) for host in hosts.split(","))',
        'tuple(_parse_host(host) for host in hosts.split(",")[:1])',
        "unit/test_redis_address.py::test_a_url_of_sentinels_names_them_all_and_the_primary",
    ),
    mutant(
        "a vendor's date is read by this host's clock",
        "worker/vendors/http.py",
        "(instant - (vendor_now or datetime.now(UTC)))",
        "(instant - datetime.now(UTC))",
        "unit/test_vendor_headers.py::test_a_date_goes_by_the_vendor_s_clock",
    ),
)
