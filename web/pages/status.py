"""How the account does: one sentence first, then figures, then tables; and what to do with events that always fail."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.datastructures import FormData

from runtime.numbers import whole_number
from runtime.settings import settings
from store import accounts, audit, inbox
from store.browser_sessions import BrowserSession
from store.database import Session, bound
from web import browser, plots, words
from web.pages import notices
from web.pages.render import go, page
from web.problems import ProblemError
from worker import jobs, overview
from worker.overview import GIGABYTE, AccountOverview
from worker.steps import Kind

router = APIRouter()
MOST_LISTED = 50
RUNS = ((Kind.CATCH_UP, "Catch-up"), (Kind.RECONCILIATION, "Reconciliation"), (Kind.BACKFILL, "Import"))
RUN_NAMES = {kind.value: name for kind, name in RUNS}


def overview_of(account_id: int) -> AccountOverview:
    """The account's overview."""
    with bound(account_id) as database:
        known = next(one for one in accounts.accounts(database) if one.id == account_id)
    return overview.of(known)


@router.get("/status")
def show(request: Request) -> Response:
    """The page."""
    session = browser.admin(request.state.browser)
    found = overview_of(session.account_id)
    with bound(session.account_id) as database:
        quarantined = inbox.quarantined(database, session.account_id, MOST_LISTED)
        last_sign_in = audit.last_sign_in(database, session.account_id, besides=session.created_at)
    finished = {word: [run for run in found.runs if run.kind == kind and run.finished_at] for kind, word in RUNS}
    return page(
        request,
        "status.html",
        found=found,
        trouble=notices.health(found),
        quarantined=quarantined,
        last_sign_in=last_sign_in,
        running=found.running,
        finished=finished,
        run_names=RUN_NAMES,
        names={source.organisation_id: source.name for source in found.sources},
        plot=plots.freshness(found.hours),
        allowance=settings().egress_allowance_gb,
        egress=found.egress_plain / GIGABYTE,
        calls={
            source.organisation_id: sum(
                one.calls for one in found.metered if one.organisation_id == source.organisation_id
            )
            for source in found.sources
        },
    )


def _chosen(form: FormData) -> list[int] | None:
    """The events that a form names; None for all of them."""
    wanted = str(form.get("event", ""))
    if wanted == "all":
        return None
    event_id = whole_number(wanted)
    if event_id is None:
        raise ProblemError(422, "Choose an event of your account.")
    return [event_id]


def _note(database: Session, session: BrowserSession, action: str, count: int) -> str:
    """Note what was done to events, in its own transaction; returns how many they were, in words."""
    said = words.counted(count, "event")
    if count:
        audit.note(database, session.account_id, session.user_name, action, said)
    return said


@router.post("/events/replay")
def replay(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Try quarantined events again."""
    session, wanted = browser.admin(request.state.browser), _chosen(form)
    with bound(session.account_id) as database:
        count, sources = inbox.replay(database, session.account_id, wanted)
        said = _note(database, session, "events.replayed", count)
    for source in sources:
        jobs.wake_source(source)
    return go(request, "/status#quarantine", notice=f"Retrying {said}." if count else "")


@router.post("/events/dismiss")
def dismiss(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Let quarantined events be."""
    session, wanted = browser.admin(request.state.browser), _chosen(form)
    with bound(session.account_id) as database:
        count = inbox.dismiss(database, session.account_id, wanted)
        said = _note(database, session, "events.dismissed", count)
    return go(request, "/status#quarantine", notice=f"Dismissed {said}." if count else "")
