"""The account itself: the backfill as it goes, the trail of who did what, and the way out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.datastructures import FormData

from store import access, accounts, audit, mirror, projection, runs
from store.database import bound
from web import browser
from web.pages.render import KINDS, assets, go, page
from web.problems import ProblemError
from worker import connect
from worker.steps import Kind

router = APIRouter()
STAGES = ("people", "leads", "companies", "opportunities", "relations", "contacts", "invoices")
ENTRIES = 100


@router.get("/progress")
def progress(request: Request) -> Response:
    """How far the backfill is; the page comes again by itself until it is over."""
    session = browser.admin(request.state.browser)
    with bound(session.account_id) as database:
        names = {one.id: one.name for one in accounts.organisations(database, session.account_id)}
        latest = [one for one in runs.latest(database, session.account_id) if one.kind == Kind.BACKFILL]
        rows = projection.count(database, session.account_id)
    bars = [
        (names.get(run.organisation_id, "Copper"), stage, count["done"], max(count["of"] or 0, count["done"]))
        for run in latest
        for stage in STAGES
        if (count := run.counts.get(stage))
    ]
    errors = [run.error for run in latest if run.error and run.state != "done"]
    running = any(run.state == "running" for run in latest)
    return page(request, "progress.html", bars=bars, errors=errors, running=running, begun=bool(latest), rows=rows)


@router.get("/trail")
def trail(request: Request, before: int | None = None) -> Response:
    """Who connected, changed, revoked; newest first."""
    session = browser.admin(request.state.browser)
    with bound(session.account_id) as database:
        entries = audit.latest(database, session.account_id, before=before, limit=ENTRIES)
    older = entries[-1].id if len(entries) == ENTRIES else None
    return page(request, "trail.html", entries=entries, older=older)


@router.get("/disconnect")
def ask(request: Request) -> Response:
    """Say what will go, before it goes."""
    return _ask(request)


def _ask(request: Request, *, error: str | None = None, status: int = 200) -> Response:
    session = browser.admin(request.state.browser)
    with bound(session.account_id) as database:
        organisations = accounts.organisations(database, session.account_id)
        records, invoices = mirror.count(database, session.account_id)
        keys = access.keys(database, session.account_id)
    return page(
        request,
        "disconnect.html",
        status=status,
        organisations=organisations,
        records=records,
        invoices=invoices,
        keys=len(keys),
        error=error,
    )


@router.post("/disconnect")
def disconnect(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Close the account at once; vendors and data follow."""
    session = browser.admin(request.state.browser)
    if str(form.get("name", "")).strip() != session.account_name:
        said = f"Nothing was disconnected: write {session.account_name} to confirm."
        return _ask(request, error=said, status=422)
    connect.disconnect(session.account_id, who=session.user_name)
    answer = go(request, "/goodbye")
    browser.close_session(request.state.browser, answer)
    return answer


@router.get("/goodbye")
def goodbye(request: Request) -> Response:
    """It is done."""
    return page(
        request,
        "message.html",
        title="Disconnected",
        said="Nobody can read this account here any more. Its data is being erased, and Xero and Copper are told.",
        link=("/connect", "Connect again"),
    )


@router.get("/static/{name}")
def static(name: str) -> Response:
    """Style sheets and scripts; a file's name changes with its content."""
    path = assets().get(name)
    if path is None:
        raise ProblemError(404, "There is no such file; it may have changed. Load the page again.")
    headers = {"Cache-Control": "public, max-age=31536000, immutable"}
    return Response(path.read_bytes(), media_type=KINDS[path.suffix], headers=headers)
