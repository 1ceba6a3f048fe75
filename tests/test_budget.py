"""Call budgets: never more than the vendor allows, whoever calls, whatever is lost."""

from __future__ import annotations

import threading
import time
from uuid import UUID

import pytest
from sqlalchemy import text

from runtime.settings import override
from store import meters
from store.accounts import Organisation
from store.database import transaction
from tests import databases
from tests.processes import Processes, patina
from tests.serving import wait_until
from tests.world import World
from worker import broker
from worker.budget import Budget, Purpose, Told
from worker.errors import BudgetSpentError
from worker.overview import month_start

TENANT = UUID(int=7)
EVERYTHING = Told(minute_left=1_000, day_left=1_000_000, app_left=10_000)


NAMES = ("XERO_MINUTE_LIMIT", "XERO_CONCURRENT_LIMIT", "XERO_DAY_LIMIT", "COPPER_MINUTE_LIMIT", "LIMIT_WINDOW_SECONDS")


@pytest.fixture
def limits(database: str) -> None:
    """Small limits in a short minute, so that a test sees several of them."""
    override(dict(zip(NAMES, ("20", "5", "100", "40", "0.5"), strict=True)))
    with transaction() as session:
        session.execute(text("INSERT INTO account (id, copper_account_id, name) VALUES (1, 1, 'Acme')"))


def xero(tenant: UUID = TENANT) -> Budget:
    return Budget.of_xero(Organisation(1, 1, 1, tenant, "Org", "working"))


def spend(budget: Budget, purpose: Purpose = Purpose.EVENTS, told: Told = Told()) -> None:
    budget.settle(budget.take(purpose), told)


def spend_all(budget: Budget, purpose: Purpose) -> int:
    """Calls that a purpose may make at once, one after the other."""
    for number in range(1_000):
        try:
            spend(budget, purpose)
        except BudgetSpentError:
            return number
    raise AssertionError("the budget never ends")


@pytest.mark.usefixtures("limits")
def test_no_window_ever_holds_more_calls_than_its_limit_whoever_makes_them() -> None:
    begun: list[float] = []
    until = time.monotonic() + 2.2

    def caller() -> None:
        budget = xero()
        while time.monotonic() < until:
            try:
                token = budget.take(Purpose.EVENTS)
            except BudgetSpentError as spent:
                time.sleep(min(spent.retry_after, 0.02))
                continue
            begun.append(time.monotonic())
            budget.settle(token, Told())

    threads = [threading.Thread(target=caller) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(20)

    begun.sort()
    assert len(begun) >= 60, "the budget is used, not only kept"
    gaps = [later - earlier for earlier, later in zip(begun, begun[20:], strict=False)]
    assert min(gaps) >= 0.49


@pytest.mark.usefixtures("limits")
def test_no_more_calls_run_at_once_than_allowed_and_the_last_place_is_for_events() -> None:
    held = [xero().take(Purpose.PERSON) for _ in range(4)]
    with pytest.raises(BudgetSpentError, match="at once"):
        xero().take(Purpose.PERSON)
    held.append(xero().take(Purpose.EVENTS))
    with pytest.raises(BudgetSpentError, match="at once") as spent:
        xero().take(Purpose.EVENTS)
    assert spent.value.retry_after < 1
    xero().settle(held.pop(), Told())
    xero().take(Purpose.EVENTS)


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize(
    ("purpose", "most"),
    [
        (Purpose.SPARE, 10),
        (Purpose.RECONCILIATION, 15),
        (Purpose.CATCH_UP, 17),
        (Purpose.PERSON, 18),
        (Purpose.EVENTS, 20),
    ],
)
def test_each_purpose_leaves_its_share_to_those_above_it(purpose: Purpose, most: int) -> None:
    assert spend_all(xero(), purpose) == most
    if most < 20:
        spend(xero(), Purpose.EVENTS)


@pytest.mark.usefixtures("limits")
def test_reconciliation_leaves_a_quarter_of_the_day_to_events() -> None:
    override({"XERO_MINUTE_LIMIT": "1000"})
    assert spend_all(xero(), Purpose.RECONCILIATION) == 75
    assert spend_all(xero(), Purpose.EVENTS) == 26, "the rest of the day, and one probe whether it is over"


@pytest.mark.usefixtures("limits")
def test_what_xero_says_of_the_day_corrects_what_we_think() -> None:
    override({"XERO_MINUTE_LIMIT": "1000"})
    spend(xero(), told=Told(day_left=30))
    assert spend_all(xero(), Purpose.RECONCILIATION) == 5
    spend(xero(), told=Told(day_left=100))
    assert spend_all(xero(), Purpose.RECONCILIATION) == 75, "the day began anew at Xero"


@pytest.mark.usefixtures("limits")
def test_calls_that_xero_has_counted_and_we_have_not_are_counted_too() -> None:
    spend(xero(), told=Told(minute_left=2))
    assert spend_all(xero(), Purpose.EVENTS) == 2


@pytest.mark.usefixtures("limits")
def test_a_wait_that_xero_asks_for_is_kept_by_everybody() -> None:
    spend(xero(), told=Told(wait=30))
    with pytest.raises(BudgetSpentError) as spent:
        xero().take(Purpose.EVENTS)
    assert 29 < spent.value.retry_after <= 30
    spend(xero(UUID(int=8)))
    spend(xero(UUID(int=8)), told=Told(wait=20, whole_app=True))
    with pytest.raises(BudgetSpentError):
        xero(UUID(int=9)).take(Purpose.EVENTS)
    spend(Budget.of_copper(1))


@pytest.mark.usefixtures("limits")
def test_events_are_paced_as_the_minute_runs_out() -> None:
    window = 5.0  # long enough that no busy machine lets it pass between two calls
    override({"LIMIT_WINDOW_SECONDS": str(window)})
    for _ in range(10):
        spend(xero())
        assert xero().pace() == 0
    gaps = []
    for _ in range(9):
        spend(xero())
        gaps.append(xero().pace())
    assert 0 < gaps[0] < gaps[-1] <= 2 * window / 20
    time.sleep(gaps[-1])
    assert xero().pace() == 0


@pytest.mark.timeout(90)
def test_a_steady_stream_of_events_never_waits_for_the_rest_of_a_minute(world: World, processes: Processes) -> None:
    override({"XERO_MINUTE_LIMIT": "30", "LIMIT_WINDOW_SECONDS": "10"})
    processes += [patina("worker"), patina("scheduler")]
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test", total="1000.00")
    world.workers = True
    world.settle()
    lags: list[float] = []
    until = time.monotonic() + 12
    paid = 0
    while time.monotonic() < until:
        world.sandbox.act("pay_invoice", invoice=invoice.id, amount="1.00")
        paid, began = paid + 1, time.monotonic()
        wanted = f"{1000 - paid}.00"
        wait_until(lambda wanted=wanted: world.rows("people", person)[0]["balance_due"] == wanted, what="a payment")
        lags.append(time.monotonic() - began)
    assert max(lags) < 4, "nobody waited for a minute (10 s here) to end"


@pytest.mark.usefixtures("limits")
def test_a_redis_that_lost_its_memory_starts_from_the_meters_with_a_full_minute() -> None:
    budget = Budget.of_copper(1)
    with transaction() as session:
        for _ in range(3):
            meters.record(session, 1, 0, "events", failed=False, refused=False, wire=1, plain=1)
    databases.forget_budgets()
    with pytest.raises(BudgetSpentError) as spent:
        budget.take(Purpose.EVENTS)
    assert spent.value.retry_after <= 0.5
    time.sleep(spent.value.retry_after + 0.05)
    spend(budget)


@pytest.mark.usefixtures("limits")
def test_the_days_calls_survive_the_loss_of_redis() -> None:
    override({"XERO_MINUTE_LIMIT": "1000"})
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
                "INSERT INTO call_meter (account_id, organisation_id, day, purpose, calls, last_at)"
                " VALUES (1, :organisation, now()::date, 'events', 60, now() - interval '1 hour')"
            ),
            {"organisation": organisation},
        )
    assert spend_all(xero(), Purpose.RECONCILIATION) == 15


def test_a_redis_that_cannot_be_reached_lets_no_call_through(database: str) -> None:
    override({"REDIS_URL": "unix:///nonexistent/redis.sock"})
    broker.client.cache_clear()
    try:
        with pytest.raises(BudgetSpentError, match="cannot be reached") as spent:
            xero().take(Purpose.EVENTS)
        assert spent.value.retry_after > 0
        assert xero().left() is None
    finally:
        broker.client.cache_clear()


def test_every_call_is_metered_with_its_bytes_as_sent_and_uncompressed(world: World) -> None:
    for number in range(20):
        world.invoice(f"p{number}@acme.test")
    world.settle()
    with transaction() as session:
        counted = {one.purpose: one for one in meters.since(session, month_start()) if one.organisation_id}
    events = counted["events"]
    assert events.calls == world.sandbox.calls("/api.xro/2.0/") - counted["person"].calls
    assert events.failed == events.refused == 0
    assert 0 < events.bytes_wire < events.bytes_plain / 3, "answers come compressed"


@pytest.mark.timeout(200)
def test_a_storm_of_refusals_exceeds_no_budget_and_ends_well(unconnected: World, processes: Processes) -> None:
    sandbox = unconnected.sandbox
    override(dict(zip(NAMES, ("20", "2", "2000", "40", "2"), strict=True)))
    sandbox.control("PUT", "clock", json={"speed": 30})
    sandbox.control("PUT", "limits", json={"minute": 20, "concurrent": 2, "day": 1_000_000, "copper_minute": 40})
    world = unconnected.open()
    world.workers = True
    processes += [patina("worker", environment={"WORKER_PROCESSES": "4", "WORKER_THREADS": "3"}), patina("scheduler")]
    storm = [
        {"vendor": vendor, "kind": "status", "status": status, "share": 0.15, **more}
        for vendor in ("xero", "copper")
        for status, more in ((429, {"retry_after": 1}), (503, {}))
    ]
    sandbox.faults(api=[*storm, {"vendor": "xero", "kind": "latency", "seconds": 0.05}])
    people = [world.person(f"p{number}@acme.test") for number in range(60)]
    for number in range(60):
        world.invoice(f"p{number}@acme.test")
    deals = [world.opportunity(person=one) for one in people[:30]]
    wait_until(world.quiet, seconds=120, what="the end of the storm")
    sandbox.faults()

    state = sandbox.state()
    assert state["refused"] == 0, "the sandbox's own limits were never hit"
    tenant = world.tenants[0]
    assert state["busiest_minute"][tenant] <= 20
    assert state["most_running"][tenant] <= 2
    key = state["accounts"][0]["api_key"]
    assert state["busiest_minute"][key] <= 40
    world.check_rows()
    assert len(world.shown("opportunities", deals[0])) == 1
