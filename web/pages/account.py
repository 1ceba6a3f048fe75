"""The account itself: the import as it goes, the audit log, and disconnecting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from starlette.datastructures import FormData

from runtime.numbers import MAX_ID
from store import access, accounts, audit, mirror, projection, runs
from store import links as by_hand
from store.audit import Entry
from store.database import Session, bound
from store.models import SetupStep
from web import browser, forms, words
from web.forms import FormState
from web.pages import confirm, notices
from web.pages.render import KINDS, assets, go, page
from web.problems import ProblemError
from worker import connect
from worker.steps import Kind

router = APIRouter()
STAGES = ("people", "leads", "companies", "opportunities", "relations", "contacts", "invoices")
ENTRIES = 100


@router.get("/progress")
def progress(request: Request) -> Response:
    """How far the import is; the page refreshes until it is complete."""
    session = browser.admin(request.state.browser)
    with bound(session.account_id) as database:
        names = {one.id: one.name for one in accounts.organisations(database, session.account_id)}
        latest = [one for one in runs.latest(database, session.account_id) if one.kind == Kind.BACKFILL]
        rows = projection.count(database, session.account_id)
        missing = notices.connection(database, session.account_id)
        step = accounts.setup_step(database, session.account_id)
    bars = [
        (names.get(run.organisation_id, "Copper"), stage, count["done"], max(count["of"] or 0, count["done"]))
        for run in latest
        if run.organisation_id in names or not run.organisation_id
        for stage in STAGES
        if (count := run.counts.get(stage)) and (count["done"] or count["of"])
    ]
    return page(
        request,
        "progress.html",
        bars=bars,
        errors=[run.error for run in latest if run.error and run.state != "done"],
        running=any(run.state == "running" for run in latest),
        begun=bool(latest),
        rows=rows,
        trouble=missing or (None if latest else notices.START_IMPORT),
        step=step,
        in_setup=step is not SetupStep.DONE,
    )


@router.post("/progress")
def start_import(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Import what was never read in full."""
    connect.backfill(browser.admin(request.state.browser).account_id)
    return go(request, "/progress")


@router.get("/trail")
def trail(request: Request, before: Annotated[int | None, Query(ge=1, le=MAX_ID)] = None) -> Response:
    """The audit log: who connected, changed, revoked; newest first."""
    session = browser.admin(request.state.browser)
    with bound(session.account_id) as database:
        entries = audit.latest(database, session.account_id, before=before, limit=ENTRIES)
        details = _details(database, session.account_id, entries)
    older = entries[-1].id if len(entries) == ENTRIES else None
    callers = {connect.COMMAND: "Command line"}
    return page(
        request, "trail.html", entries=entries, details=details, older=older, action=words.action, callers=callers
    )


def _details(database: Session, account_id: int, entries: Sequence[Entry]) -> dict[int, str]:
    """What each entry says, by its id; what it refers to has the name that it has now."""
    links = {entry.id: link for entry in entries if (link := by_hand.Link.of_reference(entry.detail))}
    said = by_hand.in_words(database, account_id, list(links.values()))
    return {entry.id: entry.detail for entry in entries} | dict(zip(links, said, strict=True))


@router.get("/disconnect")
def ask(request: Request) -> Response:
    """Say what will go, before it goes."""
    return _ask(request)


def _ask(request: Request, form: FormState = forms.EMPTY) -> Response:
    session = browser.admin(request.state.browser)
    with bound(session.account_id) as database:
        organisations = accounts.organisations(database, session.account_id)
        records, invoices = mirror.count(database, session.account_id)
        keys = access.keys(database, session.account_id)
    return page(
        request,
        "disconnect.html",
        status=422 if form.is_refused else 200,
        organisations=organisations,
        records=records,
        invoices=invoices,
        keys=len(keys),
        form=form,
    )


@router.post("/disconnect")
@confirm.first("disconnect this account", back="/disconnect")
def disconnect(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Close the account at once; vendors and data follow."""
    session = browser.admin(request.state.browser)
    if forms.line(str(form.get("name", ""))) != session.account_name:
        said = f"Type {session.account_name} to confirm. Nothing was disconnected."
        return _ask(request, forms.refused(form, {"name": said}))
    connect.disconnect(session.account_id, who=session.user_name)
    answer = go(request, "/goodbye")
    browser.mark_goodbye(answer)
    browser.forget_session(answer)
    return answer


@router.get("/goodbye")
def goodbye(request: Request) -> Response:
    """Confirm to whoever has just disconnected an account; anybody else is sent on."""
    farewell = page(
        request,
        "message.html",
        title="Disconnected",
        said="Your account is disconnected. Its data is being deleted.",
        link=("/connect", "Connect again"),
    )
    if browser.take_goodbye(request, farewell):
        return farewell
    return go(request, "/")


# Addresses that only take forms: whoever reloads one, or follows it from the history, lands on the form's own page.
PAGES_OF_FORMS = {
    "/admins": "/settings#admins",
    "/confirm/copper": "/",
    "/copper/key": "/settings#copper-key",
    "/events/dismiss": "/status#quarantine",
    "/events/replay": "/status#quarantine",
    "/links": "/unmatched",
    "/links/undo": "/unmatched",
    "/sessions/end-others": "/sessions",
    "/setup/panel/finish": "/setup/panel",
    "/signin/copper": "/connect",
    "/signin/copper/confirm": "/connect",
    "/signout": "/",
}


def _to_page_of_form(request: Request) -> Response:
    return go(request, PAGES_OF_FORMS[request.url.path])


for _path in PAGES_OF_FORMS:
    router.add_api_route(_path, _to_page_of_form, methods=["GET"])


@router.get("/static/{name}")
def static(name: str) -> Response:
    """Style sheets and scripts; a file's name changes with its content."""
    path = assets().get(name)
    if path is None:
        raise ProblemError(404, "There is no such file; it may have changed. Reload the page.")
    headers = {"Cache-Control": "public, max-age=31536000, immutable"}
    return Response(path.read_bytes(), media_type=KINDS[path.suffix], headers=headers)
