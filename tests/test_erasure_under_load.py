"""Accounts that are closed at any moment, under every kind of work, leave nothing: not then, and not an hour later."""

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

from runtime.settings import override
from store import (
    access,
    accounts,
    audit,
    browser_sessions,
    chores,
    refusals,
    tenancy,
    unreadable_fields,
    webhook_quotas,
)
from store.accounts import CopperAccess
from store.browser_sessions import SessionOrigin
from store.database import transaction
from store.inbox import Source
from store.models import RecordType, SignInMethod
from tests.databases import forget_budgets
from tests.serving import wait_until
from tests.test_erasure import clean_up, execute, rows_of
from tests.test_receivers import delivery, event, post_xero
from tests.world import World
from worker import (
    connect,
    events,
    forgetting,
    history,
    jobs,
    projecting,
    relations,
    renormalisation,
    requested_catch_ups,
    schedule,
    sync,
)
from worker.budget import Budget, Purpose
from worker.copper.subscriptions import SECRET_KEY
from worker.steps import Kind
from worker.xero import oauth

THREADS, WORKS_BEFORE = 8, 25
ORIGIN = SessionOrigin(SignInMethod.COPPER)
NEVER = (psycopg.errors.DeadlockDetected, psycopg.errors.ForeignKeyViolation, psycopg.errors.UniqueViolation)


class Work:
    """Everything that is ever done for an account, as it is connected now."""

    def __init__(self, world: World) -> None:
        self.world, self.account = world, world.account
        self.tenant, self.person = world.tenants[0], world.rows_of("person")[0]
        self.company, self.opportunity = world.rows_of("company")[0], world.rows_of("opportunity")[0]
        self.admin = {"Authorization": f"Bearer {connect.make_key(self.account, 'admin', ['admin'])}"}
        with transaction() as session:
            self.access: CopperAccess = accounts.copper_access(session, self.account)
            self.organisation = accounts.organisations(session, self.account)[0].id
            self.grant = accounts.grants(session, self.account)[0]

    def kinds(self) -> list[Callable[[], Any]]:
        """One of each."""
        return [
            self.receive_xero,
            self.receive_copper,
            lambda: events.drain(Source(self.account, 0), 0.5),
            lambda: events.drain(Source(self.account, self.organisation), 0.5),
            lambda: requested_catch_ups.begin(Source(self.account, self.organisation)),
            lambda: self.run(Kind.BACKFILL),
            lambda: self.run(Kind.CATCH_UP),
            lambda: self.run(Kind.RECONCILIATION),
            lambda: self.run(Kind.DRY_RUN),
            lambda: relations.rotate(self.account),
            lambda: relations.refresh(self.account, RecordType.COMPANY, self.company),
            lambda: relations.refresh(self.account, RecordType.OPPORTUNITY, self.opportunity),
            lambda: history.look_up(self.account, self.organisation),
            lambda: projecting.project(self.account),
            lambda: projecting.rebuild(self.account),
            lambda: renormalisation.renormalise(self.account),
            lambda: self.world.web.get("/v1/invoices.csv", headers=self.admin),
            lambda: self.world.web.get(f"/v1/people/{self.person}/invoices", headers=self.admin),
            lambda: forgetting.forget_email(self.account, "nobody@acme.test", who="Ada Admin"),
            lambda: forgetting.forget_record(self.account, RecordType.PERSON, self.person, who="Ada Admin"),
            lambda: oauth.fresh(self.account, self.grant.id, unlike=self.grant.token["access_token"]),
            lambda: oauth.keep_alive(0, 10),
            lambda: Budget.of_copper(self.account).meter(Purpose.SPARE, failed=False, refused=False, wire=1, plain=1),
            lambda: connect.make_key(self.account, "late"),
            lambda: self.world.link("person", self.person, next(iter(self.world.contacts.values()))),
            self.write_beside,
            schedule.catch_up,
            schedule.reconcile,
        ]

    def receive_xero(self) -> None:
        post_xero(self.world.web, delivery(event(self.tenant, resourceId=str(random.getrandbits(120)))))
        post_xero(self.world.web, delivery({"tenantId": self.tenant, "eventCategory": random.random()}))

    def receive_copper(self) -> None:
        body = {"ids": [self.person], "type": "person", "event": "update", SECRET_KEY: self.access.webhook_secret}
        self.world.web.post(f"/webhooks/copper/{self.access.webhook_token}", json=body)

    def run(self, kind: Kind) -> None:
        for run in sync.begin(self.account, kind):
            while sync.step(run.account_id, run.id).more:
                pass

    def write_beside(self) -> None:
        """What is written in a transaction of its own, beside all other work."""
        for write in (
            lambda session: audit.note(session, self.account, "Ada Admin", "rows.exported"),
            lambda session: refusals.record(session, self.account, self.organisation, "Invoices"),
            lambda session: unreadable_fields.count(session, self.account, 0, "people", [("name", 1, "7")]),
            lambda session: browser_sessions.open_session(session, self.account, "viewer", 1, "Vic Viewer", ORIGIN),
            lambda session: access.save_state(session, self.account, str(random.random()), "xero", "b", {}),
            lambda session: webhook_quotas.count_dropped(session, {(self.account, "copper", "task"): 1}),
            lambda session: access.name_admin(session, self.account, 7, "Ned Named"),
            lambda session: chores.claim_one(session, self.account, "requested_catch_up:1", 0.0),
        ):
            with suppress(LookupError, exc.NoResultFound), transaction() as session:
                write(session)


class Busy:
    """Threads that do work of every kind until they are told to stop; `errors` are those that must never come."""

    def __init__(self, work: Work, dice: random.Random) -> None:
        self._work, self._stopping, self.done = work, threading.Event(), 0
        self.errors: list[BaseException] = []
        seeds = [dice.random() for _ in range(THREADS)]
        self._threads = [threading.Thread(target=self._go_on, args=(seed,), daemon=True) for seed in seeds]
        for thread in self._threads:
            thread.start()

    def _go_on(self, seed: float) -> None:
        dice, kinds = random.Random(seed), self._work.kinds()
        while not self._stopping.is_set():
            try:
                dice.choice(kinds)()
            except Exception as error:
                if isinstance(getattr(error, "orig", error), NEVER):
                    self.errors.append(error)
            self.done += 1

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive()


def an_hour_later(work: Work) -> None:
    """All that the schedule begins, and all that its jobs do, with everything due again."""
    execute("UPDATE chore SET begun_at = begun_at - interval '25 hours' WHERE begun_at > '-infinity'")
    for task in schedule.TASKS:
        task()
    for job in (jobs.project, jobs.rotate_relations):
        job.fn(work.account)
    for organisation in (0, work.organisation):
        jobs.drain.fn(work.account, organisation)
        jobs.begin_requested_catch_up.fn(work.account, organisation)
        jobs.look_up_history.fn(work.account, organisation)
    jobs.refresh_relations.fn(work.account, "company", work.company)
    jobs.keep_grants_alive.fn()


def furnish(world: World) -> None:
    company = world.company()
    for number in range(3):
        world.person(f"p{number}@acme.test", company=company)
        world.invoice(f"p{number}@acme.test")
    world.opportunity(company=company, person=world.rows_of("person")[0])
    world.settle()
    execute("UPDATE crm_record SET related_at = now() - interval '3 hours'")


@pytest.mark.parametrize("seed", range(4))
def test_an_account_that_is_closed_under_every_kind_of_work_leaves_nothing(unconnected: World, seed: int) -> None:
    forget_budgets("throttle")
    override({"RELATIONS_AGE_SECONDS": "0"})
    world, dice = unconnected.open(), random.Random(seed)
    other = World(world.sandbox, world.web).open(name="Other Sales")
    kept = other.person("ann@other.test")
    invoice = other.invoice("ann@other.test")
    other.settle()
    furnish(world)
    work = Work(world)
    seconds = dice.uniform(0.0, 0.3)
    world.sandbox.faults(api=[{"vendor": one, "kind": "latency", "seconds": seconds} for one in ("copper", "xero")])
    busy = Busy(work, dice)
    try:
        closing_after = dice.randrange(WORKS_BEFORE)
        wait_until(lambda: busy.done >= closing_after, seconds=120, what="work going on")
        connect.disconnect(work.account, who="Ada Admin")
        going_on = busy.done + dice.randrange(WORKS_BEFORE)
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
    assert other.shown("people", kept) == [invoice.number], "another account does not notice"
    with suppress(httpx.HTTPError):
        assert world.web.get(f"/v1/people/{work.person}/invoices", headers=work.admin).status_code == 401
