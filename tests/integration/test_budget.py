"""Call budgets: never more calls than the vendor allows, even after lost state."""

from __future__ import annotations

import threading
import time
from uuid import UUID

import pytest
from sqlalchemy import text

from runtime import redis_client
from runtime.settings import override_settings
from services.account_status import month_start
from store.accounts.xero_organisations import Organisation
from store.db.database import transaction
from store.db.enums import OrganisationStatus
from store.sync import api_usage
from store.sync.api_usage import ApiUsage
from tests.support import databases
from tests.support.processes import Processes, patina
from tests.support.serving import wait_until
from tests.support.world import World
from worker.vendors.errors import BudgetExhaustedError
from worker.vendors.rate_limit.budget import Budget, Priority, RateLimitHeaders

TENANT = UUID(int=7)
EVERYTHING = RateLimitHeaders(minute_remaining=1_000, day_remaining=1_000_000, app_minute_remaining=10_000)


NAMES = (
    "XERO_CALLS_PER_MINUTE",
    "XERO_MAX_CONCURRENT_CALLS",
    "XERO_CALLS_PER_DAY",
    "COPPER_CALLS_PER_MINUTE",
    "RATE_LIMIT_WINDOW_SECONDS",
)


@pytest.fixture
def limits(database: str) -> None:
    """Small limits in a short window, so that a test covers several windows."""
    override_settings(dict(zip(NAMES, ("20", "5", "100", "40", "0.5"), strict=True)))
    with transaction() as session:
        session.execute(text("INSERT INTO account (id, copper_account_id, name) VALUES (1, 1, 'Acme')"))


def xero(tenant: UUID = TENANT) -> Budget:
    return Budget.for_xero(Organisation(1, 1, 1, tenant, "Org", OrganisationStatus.ACTIVE))


def spend(budget: Budget, priority: Priority = Priority.EVENTS, headers: RateLimitHeaders = RateLimitHeaders()) -> None:
    budget.release(budget.acquire(priority), headers)


def spend_all(budget: Budget, priority: Priority) -> int:
    """The number of calls that a priority can make in sequence."""
    for number in range(1_000):
        try:
            spend(budget, priority)
        except BudgetExhaustedError:
            return number
    raise AssertionError("the budget never ends")


@pytest.mark.usefixtures("limits")
def test_no_window_exceeds_its_limit_whoever_makes_the_calls() -> None:
    call_times: list[float] = []
    until = time.monotonic() + 2.2

    def caller() -> None:
        budget = xero()
        while time.monotonic() < until:
            try:
                token = budget.acquire(Priority.EVENTS)
            except BudgetExhaustedError as spent:
                time.sleep(min(spent.retry_after, 0.02))
                continue
            call_times.append(time.monotonic())
            budget.release(token, RateLimitHeaders())

    threads = [threading.Thread(target=caller) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    call_times.sort()
    assert len(call_times) >= 60, "the budget is used, not only kept"
    gaps = [later - earlier for earlier, later in zip(call_times, call_times[20:], strict=False)]
    assert min(gaps) >= 0.49


@pytest.mark.usefixtures("limits")
def test_concurrency_is_limited_and_the_last_slot_is_reserved_for_events() -> None:
    permits = [xero().acquire(Priority.INTERACTIVE) for _ in range(4)]
    with pytest.raises(BudgetExhaustedError, match="concurrency"):
        xero().acquire(Priority.INTERACTIVE)
    permits.append(xero().acquire(Priority.EVENTS))
    with pytest.raises(BudgetExhaustedError, match="concurrency") as spent:
        xero().acquire(Priority.EVENTS)
    assert spent.value.retry_after < 1
    xero().release(permits.pop(), RateLimitHeaders())
    xero().acquire(Priority.EVENTS)


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize(
    ("priority", "max_calls"),
    [
        (Priority.BACKGROUND, 10),
        (Priority.RECONCILIATION, 15),
        (Priority.CATCH_UP, 17),
        (Priority.INTERACTIVE, 18),
        (Priority.EVENTS, 20),
    ],
)
def test_each_priority_leaves_a_share_to_higher_priorities(priority: Priority, max_calls: int) -> None:
    assert spend_all(xero(), priority) == max_calls
    if max_calls < 20:
        spend(xero(), Priority.EVENTS)


@pytest.mark.usefixtures("limits")
def test_reconciliation_leaves_a_quarter_of_the_day_to_events() -> None:
    override_settings({"XERO_CALLS_PER_MINUTE": "1000"})
    assert spend_all(xero(), Priority.RECONCILIATION) == 75
    assert spend_all(xero(), Priority.EVENTS) == 26, "the rest of the day, and one probe whether it is over"


@pytest.mark.usefixtures("limits")
def test_the_daily_limit_header_of_xero_corrects_our_count() -> None:
    override_settings({"XERO_CALLS_PER_MINUTE": "1000"})
    spend(xero(), headers=RateLimitHeaders(day_remaining=30))
    assert spend_all(xero(), Priority.RECONCILIATION) == 5
    spend(xero(), headers=RateLimitHeaders(day_remaining=100))
    assert spend_all(xero(), Priority.RECONCILIATION) == 75, "the day began anew at Xero"


@pytest.mark.usefixtures("limits")
def test_calls_that_only_xero_has_counted_are_added_to_our_count() -> None:
    spend(xero(), headers=RateLimitHeaders(minute_remaining=2))
    assert spend_all(xero(), Priority.EVENTS) == 2


@pytest.mark.usefixtures("limits")
def test_a_retry_after_from_xero_pauses_all_callers() -> None:
    spend(xero(), headers=RateLimitHeaders(retry_after=30))
    with pytest.raises(BudgetExhaustedError) as spent:
        xero().acquire(Priority.EVENTS)
    assert 29 < spent.value.retry_after <= 30
    spend(xero(UUID(int=8)))
    spend(xero(UUID(int=8)), headers=RateLimitHeaders(retry_after=20, blocks_app=True))
    with pytest.raises(BudgetExhaustedError):
        xero(UUID(int=9)).acquire(Priority.EVENTS)
    spend(Budget.for_copper(1))


@pytest.mark.usefixtures("limits")
def test_events_are_paced_as_the_minute_runs_out() -> None:
    window = 5.0  # long enough for two calls on a busy machine
    override_settings({"RATE_LIMIT_WINDOW_SECONDS": str(window)})
    for _ in range(10):
        spend(xero())
        assert xero().pacing_delay() == 0
    gaps = []
    for _ in range(9):
        spend(xero())
        gaps.append(xero().pacing_delay())
    assert 0 < gaps[0] < gaps[-1] <= 2 * window / 20
    time.sleep(gaps[-1])
    assert xero().pacing_delay() == 0


def test_a_steady_stream_of_events_never_waits_for_the_rest_of_a_minute(world: World, processes: Processes) -> None:
    override_settings({"XERO_CALLS_PER_MINUTE": "30", "RATE_LIMIT_WINDOW_SECONDS": "10"})
    processes += [patina("worker"), patina("scheduler")]
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test", total="1000.00")
    world.workers = True
    world.settle()
    lags: list[float] = []
    until = time.monotonic() + 12
    paid = 0
    while time.monotonic() < until:
        world.sandbox.simulate("pay_invoice", invoice=invoice.id, amount="1.00")
        paid, started = paid + 1, time.monotonic()
        expected = f"{1000 - paid}.00"
        wait_until(
            lambda balance=expected: world.rows("people", person)[0]["balance_due"] == balance, description="a payment"
        )
        lags.append(time.monotonic() - started)
    assert max(lags) < 4, "nobody waited for a minute (10 s here) to end"


@pytest.mark.usefixtures("limits")
def test_after_a_loss_of_redis_data_the_budget_starts_from_the_stored_usage_with_a_full_minute() -> None:
    budget = Budget.for_copper(1)
    with transaction() as session:
        for _ in range(3):
            api_usage.record(session, ApiUsage(1, 0, "events", 1, 0, 0, 1, 1))
    databases.clear_budgets()
    with pytest.raises(BudgetExhaustedError) as spent:
        budget.acquire(Priority.EVENTS)
    assert spent.value.retry_after <= 0.5
    time.sleep(spent.value.retry_after + 0.05)
    spend(budget)


@pytest.mark.usefixtures("limits")
def test_the_days_calls_survive_the_loss_of_redis() -> None:
    override_settings({"XERO_CALLS_PER_MINUTE": "1000"})
    with transaction() as session:
        session.execute(
            text(
                "INSERT INTO xero_organisation (account_id, grant_id, tenant_id, connection_id, name)"
                " VALUES (1, 1, :tenant, :tenant, 'Org')"
            ),
            {"tenant": TENANT},
        )
        organisation = session.execute(text("SELECT id FROM xero_organisation")).scalar_one()
        session.execute(
            text(
                "INSERT INTO api_usage (account_id, organisation_id, day, priority, calls, last_call_at)"
                " VALUES (1, :organisation, now()::date, 'events', 60, now() - interval '1 hour')"
            ),
            {"organisation": organisation},
        )
    assert spend_all(xero(), Priority.RECONCILIATION) == 15


def test_without_redis_no_call_is_made(database: str) -> None:
    override_settings({"REDIS_URL": "unix:///nonexistent/redis.sock"})
    redis_client.shared_client.clear()
    try:
        with pytest.raises(BudgetExhaustedError, match="unreachable") as spent:
            xero().acquire(Priority.EVENTS)
        assert spent.value.retry_after > 0
        assert xero().remaining() is None
    finally:
        redis_client.shared_client.clear()


@pytest.mark.new_database
def test_every_call_is_recorded_with_its_compressed_and_uncompressed_bytes(world: World) -> None:
    for number in range(20):
        world.invoice(f"p{number}@acme.test")
    world.settle()
    with transaction() as session:
        counted = {
            usage.priority: usage for usage in api_usage.usage_since(session, month_start()) if usage.organisation_id
        }
    events = counted["events"]
    assert events.calls == world.sandbox.calls("/api.xro/2.0/") - counted["interactive"].calls
    assert events.failed == events.rate_limited == 0
    assert 0 < events.bytes_compressed < events.bytes_uncompressed / 3, "answers come compressed"


@pytest.mark.timeout(200)
def test_a_storm_of_rate_limit_responses_exceeds_no_budget_and_recovers(
    unconnected: World, processes: Processes
) -> None:
    sandbox = unconnected.sandbox
    override_settings(dict(zip(NAMES, ("20", "2", "2000", "40", "2"), strict=True)))
    sandbox.control("PUT", "clock", json={"speed": 30})
    sandbox.control(
        "PUT",
        "limits",
        json={"calls_per_minute": 20, "concurrent_calls": 2, "calls_per_day": 1_000_000, "copper_calls_per_minute": 40},
    )
    world = unconnected.open()
    world.workers = True
    processes += [patina("worker", environment={"WORKER_PROCESSES": "4", "WORKER_THREADS": "3"}), patina("scheduler")]
    storm = [
        {"vendor": vendor, "type": "status", "status": status, "probability": 0.15, **values}
        for vendor in ("xero", "copper")
        for status, values in ((429, {"retry_after": 1}), (503, {}))
    ]
    sandbox.faults(api=[*storm, {"vendor": "xero", "type": "latency", "seconds": 0.05}])
    people = [world.person(f"p{number}@acme.test") for number in range(60)]
    for number in range(60):
        world.invoice(f"p{number}@acme.test")
    deals = [world.opportunity(person=person) for person in people[:30]]
    wait_until(world.is_idle, seconds=120, description="the end of the storm")
    sandbox.faults()

    state = sandbox.state()
    assert state["rate_limited"] == 0, "the sandbox's own limits were never hit"
    tenant = world.tenants[0]
    assert state["max_calls_per_minute"][tenant] <= 20
    assert state["max_concurrent_calls"][tenant] <= 2
    key = state["accounts"][0]["api_key"]
    assert state["max_calls_per_minute"][key] <= 40
    world.check_rows()
    assert len(world.invoice_numbers("opportunities", deals[0])) == 1
