"""Accounts closed at any moment, under every type of load, leave nothing behind, not even an hour later."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy import exc

from runtime.settings import override_settings
from services import access, connect, person_erasure
from store.accounts import (
    admins,
    audit,
    browser_sessions,
    copper_credentials,
    oauth_state,
    refused_endpoints,
    xero_grants,
    xero_organisations,
)
from store.accounts.browser_sessions import SessionOrigin
from store.accounts.copper_credentials import CopperCredentials
from store.db import tenancy
from store.db.database import transaction
from store.db.enums import RecordType, SignInMethod
from store.ingest import webhook_quotas
from store.ingest.inbox import SyncSource
from store.mirror import unreadable_fields
from store.sync import scheduled_tasks
from tests.integration.test_deprovisioning import clean_up, execute, rows_of
from tests.integration.test_webhook_endpoints import delivery, event, post_xero
from tests.support.databases import clear_budgets
from tests.support.serving import wait_until
from tests.support.world import World
from worker.jobs import actors, scheduler
from worker.sync import (
    created_dates,
    event_processor,
    projector,
    relations,
    renormalisation,
    requested_catch_ups,
    run_processor,
)
from worker.vendors.copper.subscriptions import SECRET_KEY
from worker.vendors.rate_limit.budget import Budget, Priority
from worker.vendors.sync_types import RunKind
from worker.vendors.xero import oauth

THREADS, WORKS_BEFORE = 8, 25
ORIGIN = SessionOrigin(SignInMethod.COPPER)
UNEXPECTED_ERRORS = (
    psycopg.errors.DeadlockDetected,
    psycopg.errors.ForeignKeyViolation,
    psycopg.errors.UniqueViolation,
)


class Work:
    """Every type of work for an account."""

    def __init__(self, world: World) -> None:
        self.world, self.account = world, world.account
        self.tenant, self.person = world.tenants[0], world.record_ids("person")[0]
        self.company, self.opportunity = world.record_ids("company")[0], world.record_ids("opportunity")[0]
        self.admin = {"Authorization": f"Bearer {access.create_key(self.account, 'admin', ['admin'])}"}
        with transaction() as session:
            self.access: CopperCredentials = copper_credentials.get(session, self.account)
            self.organisation = xero_organisations.list_connected(session, self.account)[0].id
            self.grant = xero_grants.list_grants(session, self.account)[0]

    def kinds(self) -> list[Callable[[], Any]]:
        """One function for each type of work."""
        return [
            self.receive_xero,
            self.receive_copper,
            lambda: event_processor.drain(SyncSource(self.account, 0), 0.5),
            lambda: event_processor.drain(SyncSource(self.account, self.organisation), 0.5),
            lambda: requested_catch_ups.start_requested(SyncSource(self.account, self.organisation)),
            lambda: self.run(RunKind.BACKFILL),
            lambda: self.run(RunKind.CATCH_UP),
            lambda: self.run(RunKind.RECONCILIATION),
            lambda: self.run(RunKind.DRY_RUN),
            lambda: relations.refresh_stale(self.account),
            lambda: relations.refresh_record(self.account, RecordType.COMPANY, self.company),
            lambda: relations.refresh_record(self.account, RecordType.OPPORTUNITY, self.opportunity),
            lambda: created_dates.backfill(self.account, self.organisation),
            lambda: projector.project(self.account),
            lambda: projector.rebuild(self.account),
            lambda: renormalisation.renormalise(self.account),
            lambda: self.world.web.get("/v1/invoices.csv", headers=self.admin),
            lambda: self.world.web.get(f"/v1/people/{self.person}/invoices", headers=self.admin),
            lambda: person_erasure.erase_by_email(self.account, "nobody@acme.test", actor="Ada Admin"),
            lambda: person_erasure.erase_by_record(self.account, RecordType.PERSON, self.person, actor="Ada Admin"),
            lambda: oauth.get_valid_grant(self.account, self.grant.id, rejected_token=self.grant.token["access_token"]),
            lambda: oauth.refresh_idle_grants(0, 10),
            lambda: Budget.for_copper(self.account).record_usage(
                Priority.BACKGROUND, failed=False, rate_limited=False, bytes_compressed=1, bytes_uncompressed=1
            ),
            lambda: access.create_key(self.account, "late"),
            lambda: self.world.link("person", self.person, next(iter(self.world.contacts.values()))),
            self.write_beside,
            scheduler.catch_up,
            scheduler.reconcile,
        ]

    def receive_xero(self) -> None:
        post_xero(self.world.web, delivery(event(self.tenant, resourceId=str(random.getrandbits(120)))))
        post_xero(self.world.web, delivery({"tenantId": self.tenant, "eventCategory": random.random()}))

    def receive_copper(self) -> None:
        body = {"ids": [self.person], "type": "person", "event": "update", SECRET_KEY: self.access.webhook_secret}
        self.world.web.post(f"/webhooks/copper/{self.access.webhook_token}", json=body)

    def run(self, run_kind: RunKind) -> None:
        for run in run_processor.start_account_runs(self.account, run_kind):
            while run_processor.step(run.account_id, run.id).has_more:
                pass

    def write_beside(self) -> None:
        """Writes in separate transactions, in parallel to all other work."""
        for write in (
            lambda session: audit.record(session, self.account, "Ada Admin", "rows.exported"),
            lambda session: refused_endpoints.record(session, self.account, self.organisation, "Invoices"),
            lambda session: unreadable_fields.record(session, self.account, 0, "people", [("name", 1, "7")]),
            lambda session: browser_sessions.create(session, self.account, "viewer", 1, "Vic Viewer", ORIGIN),
            lambda session: oauth_state.save(session, self.account, str(random.random()), "xero", "b", {}),
            lambda session: webhook_quotas.record_dropped(session, {(self.account, "copper", "task"): 1}),
            lambda session: admins.add(session, self.account, 7, "Ned Named"),
            lambda session: scheduled_tasks.claim_for_account(session, self.account, "requested_catch_up:1", 0.0),
        ):
            with suppress(LookupError, exc.NoResultFound), transaction() as session:
                write(session)


class Busy:
    """Threads that do all types of work until they are stopped; `errors` are unexpected errors."""

    def __init__(self, work: Work, rng: random.Random) -> None:
        self._work, self._stopping, self.done = work, threading.Event(), 0
        self.errors: list[BaseException] = []
        seeds = [rng.random() for _ in range(THREADS)]
        self._threads = [threading.Thread(target=self._go_on, args=(seed,), daemon=True) for seed in seeds]
        for thread in self._threads:
            thread.start()

    def _go_on(self, seed: float) -> None:
        rng, kinds = random.Random(seed), self._work.kinds()
        while not self._stopping.is_set():
            try:
                rng.choice(kinds)()
            except Exception as error:
                if isinstance(getattr(error, "orig", error), UNEXPECTED_ERRORS):
                    self.errors.append(error)
            self.done += 1

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive()


def an_hour_later(work: Work) -> None:
    """Run all scheduled tasks and their jobs, with everything due again."""
    execute(
        "UPDATE scheduled_task SET last_started_at = last_started_at - interval '25 hours' WHERE "
        "last_started_at > '-infinity'"
    )
    for task in scheduler.TASKS:
        task()
    for job in (actors.project, actors.refresh_stale_relations):
        job.fn(work.account)
    for organisation in (0, work.organisation):
        actors.drain.fn(work.account, organisation)
        actors.start_requested_catch_up.fn(work.account, organisation)
        actors.backfill_created_dates.fn(work.account, organisation)
    actors.refresh_record_relations.fn(work.account, "company", work.company)
    actors.refresh_idle_grants.fn()


def furnish(world: World) -> None:
    company = world.company()
    for number in range(3):
        world.person(f"p{number}@acme.test", company=company)
        world.invoice(f"p{number}@acme.test")
    world.opportunity(company=company, person=world.record_ids("person")[0])
    world.settle()
    execute("UPDATE copper_record SET relations_fetched_at = now() - interval '3 hours'")


@pytest.mark.parametrize("seed", range(4))
def test_an_account_closed_under_load_leaves_nothing_behind(unconnected: World, seed: int) -> None:
    clear_budgets("throttle")
    override_settings({"RELATIONS_MAX_AGE_SECONDS": "0"})
    world, rng = unconnected.open(), random.Random(seed)
    other_world = World(world.sandbox, world.web).open(name="Other Sales")
    kept_person = other_world.person("ann@other.test")
    invoice = other_world.invoice("ann@other.test")
    other_world.settle()
    furnish(world)
    work = Work(world)
    seconds = rng.uniform(0.0, 0.3)
    world.sandbox.faults(
        api=[{"vendor": vendor, "type": "latency", "seconds": seconds} for vendor in ("copper", "xero")]
    )
    busy = Busy(work, rng)
    try:
        closing_after = rng.randrange(WORKS_BEFORE)
        wait_until(lambda: busy.done >= closing_after, seconds=120, description="work going on")
        connect.disconnect(work.account, actor="Ada Admin")
        going_on = busy.done + rng.randrange(WORKS_BEFORE)
        while busy.done < going_on:
            clean_up()
    finally:
        busy.stop()
        world.sandbox.faults()
    assert busy.errors == []
    clean_up()
    assert rows_of(work.account) == {}
    an_hour_later(work)
    clean_up()
    assert rows_of(work.account) == {}
    with transaction() as session:
        assert not tenancy.is_open(session, work.account)
    assert other_world.invoice_numbers("people", kept_person) == [invoice.number], "another account does not notice"
    with suppress(httpx.HTTPError):
        assert world.web.get(f"/v1/people/{work.person}/invoices", headers=work.admin).status_code == 401
