"""Calls to Xero's Accounting API for one organisation, or one grant's connections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

import requests
import structlog
from pydantic import BaseModel

from runtime.settings import settings
from store import accounts, refusals
from store.accounts import Organisation
from store.database import transaction
from worker.budget import Budget, Purpose
from worker.errors import (
    EndpointRefusedError,
    NotThereError,
    PassingError,
    ReconnectNeededError,
    UnreadableError,
    VendorError,
)
from worker.parsing import ParseResult, parse
from worker.unreadable import AnswerSource, report, report_answer
from worker.vendor import NOT_MODIFIED, Spender, call, json_of, timeouts, vendor_time
from worker.xero import oauth, scopes
from worker.xero.wire import (
    WireConnection,
    WireContact,
    WireHistory,
    WireInvoice,
    WireOrganisation,
    WirePagination,
)

log = structlog.get_logger()
IDS_PER_CALL = 40
PAGE_SIZE = 1_000
MISSING_SCOPE = "authorizationunsuccessful"
Wire = TypeVar("Wire", bound=BaseModel)


@dataclass(frozen=True)
class Answer(Generic[Wire]):
    """What one or more calls brought: items, when the first call began, and what could not be read, by id.

    `vendor_now` is Xero's own clock at the first answer. `received` counts what Xero sent, `page_size` is how many
    rows a full page holds.
    """

    items: list[Wire]
    fetched_at: datetime
    vendor_now: datetime | None = None
    pages: int | None = None
    total: int | None = None
    unreadable: dict[str, str] = field(default_factory=dict)
    received: int = 0
    page_size: int = PAGE_SIZE

    def has_more(self, page: int) -> bool:
        """Whether another page follows page number `page`; by its fullness where Xero does not count pages."""
        if not self.received:
            return False
        return page < self.pages if self.pages is not None else self.received >= self.page_size


class XeroClient:
    """Xero, as one organisation of one account sees it, its calls taken from the budget for one purpose."""

    def __init__(self, organisation: Organisation, purpose: Purpose) -> None:
        self.organisation = organisation
        self._spender = Spender(Budget.of_xero(organisation), purpose)

    def _get(self, path: str, params: dict[str, str], headers: dict[str, str] | None = None) -> requests.Response:
        """One call; a token that Xero refuses is refreshed once.

        A lost connection marks the organisation, a missing scope the endpoint.
        """
        place, endpoint = self.organisation, _endpoint(path)
        if place.status == "reconnect":
            raise ReconnectNeededError(f"{place.name} was disconnected inside Xero: an admin must reconnect it")
        if endpoint in place.refused_lately:
            raise self._missing_permission(endpoint)
        refused: str | None = None
        for _ in range(2):
            held = oauth.fresh(place.account_id, place.grant_id, unlike=refused)
            answer = self._call(held.token, path, params, headers or {})
            if _lacks_scope(answer):
                raise self._mark_refused(endpoint)
            if answer.status_code != 401:
                self._check(answer)
                return answer
            refused = held.token["access_token"]
        raise VendorError("Xero refuses a token it has just given", 300)

    def _call(
        self, token: dict[str, Any], path: str, params: dict[str, str], headers: dict[str, str]
    ) -> requests.Response:
        session = oauth.session(token)
        session.headers["Xero-Tenant-Id"] = str(self.organisation.tenant_id)
        url = f"{settings().xero_api_url}/api.xro/2.0/{path}"
        spender = replace(self._spender, egress=path != "Organisation")
        return call(lambda: session.get(url, params=params, headers=headers, timeout=timeouts(), stream=True), spender)

    def _mark_refused(self, endpoint: str) -> EndpointRefusedError:
        place = self.organisation
        with transaction() as session:
            refusals.record(session, place.account_id, place.id, endpoint)
        log.warning("endpoint.refused", account=place.account_id, organisation=place.id, endpoint=endpoint)
        return self._missing_permission(endpoint)

    def _missing_permission(self, endpoint: str) -> EndpointRefusedError:
        said = f"Xero does not open {endpoint} of {self.organisation.name}: {scopes.permission(endpoint)} is missing"
        return EndpointRefusedError(said, endpoint)

    def _check(self, answer: requests.Response) -> None:
        if answer.status_code == 403:
            place = self.organisation
            with transaction() as session:
                accounts.mark_organisation(session, place.account_id, place.id, "reconnect", grant_id=place.grant_id)
            log.warning("organisation.lost", account=place.account_id, organisation=place.id)
            raise ReconnectNeededError(f"{place.name} was disconnected inside Xero: an admin must reconnect it")
        if answer.status_code >= 400:
            raise VendorError(f"Xero answered {answer.status_code}")

    def _body(self, path: str, params: dict[str, str]) -> Any:
        return json_of(self._get(path, params))

    def _source(self, what: str) -> AnswerSource:
        return AnswerSource("xero", self.organisation.account_id, self.organisation.id, what.lower())

    def _rows(self, raw: Any, what: str, *, may_be_null: bool = True) -> list[Any]:
        """The rows of an answer; raises `UnreadableError` where there is no list of them.

        Null is an empty list, but no proof that what was asked for by id is gone (`may_be_null`).
        """
        rows = raw.get(what, "") if isinstance(raw, dict) else ""
        rows = [rows] if isinstance(rows, dict) else rows
        if not isinstance(rows, list) and not (rows is None and may_be_null):
            report_answer(self._source(what))
            raise UnreadableError(f"Xero's answer holds no list of {what}")
        return rows or []

    def _parse(self, model: type[Wire], rows: list[Any], what: str, key: str, clock: datetime) -> ParseResult[Wire]:
        result = parse(model, rows, key, clock)
        report(result, self._source(what))
        return result

    def probe(self, endpoint: str) -> None:
        """Ask an endpoint for as little as it gives; raises the error that its answer means."""
        self._get(endpoint, {} if endpoint == "Organisation" else {"page": "1", "pageSize": "1", "summaryOnly": "true"})

    def organisation_details(self) -> WireOrganisation:
        """The organisation's name, short code and base currency; raises `UnreadableError` where there are none."""
        rows = self._rows(self._body("Organisation", {}), "Organisations")
        result = self._parse(WireOrganisation, rows[:1], "Organisations", "OrganisationID", datetime.now(UTC))
        if not result.items:
            raise UnreadableError("Xero's answer holds no organisation")
        return result.items[0]

    def invoices_by_id(self, ids: Sequence[UUID]) -> Answer[WireInvoice]:
        """The invoices among `ids` that exist, 40 a call, in any state."""
        return self._by_id("Invoices", WireInvoice, "InvoiceID", ids, {"summaryOnly": "true"})

    def contacts_by_id(self, ids: Sequence[UUID]) -> Answer[WireContact]:
        """The contacts among `ids` that exist, 40 a call, archived ones too."""
        return self._by_id("Contacts", WireContact, "ContactID", ids, {"includeArchived": "true"})

    def _by_id(
        self, what: str, model: type[Wire], key: str, ids: Sequence[UUID], params: dict[str, str]
    ) -> Answer[Wire]:
        answer: Answer[Wire] = Answer([], datetime.now(UTC))
        unique = sorted(set(ids))
        for start in range(0, len(unique), IDS_PER_CALL):
            self._add_by_id(answer, what, model, key, unique[start : start + IDS_PER_CALL], params)
        return answer

    def _add_by_id(
        self, answer: Answer[Wire], what: str, model: type[Wire], key: str, ids: Sequence[UUID], params: dict[str, str]
    ) -> None:
        """Add what one call says of at most 40 ids.

        A row without an id may be any of those that are missing, so they are asked for one by one: what comes back
        unreadable is there, and only what does not come back is gone.
        """
        chunk = ",".join(map(str, ids))
        try:
            got = self._get(what, {**params, "IDs": chunk, "page": "1", "pageSize": str(IDS_PER_CALL)})
        except NotThereError:
            return
        try:
            rows = self._rows(json_of(got), what, may_be_null=False)
        except UnreadableError as error:
            answer.unreadable.update({str(row_id): str(error) for row_id in ids})
            return
        result = self._parse(model, rows, what, key, vendor_time(got) or answer.fetched_at)
        answer.items.extend(result.items)
        answer.unreadable.update(result.unreadable)
        if not result.unreadable_rows:
            return
        there = _ids(result.items, model, key)
        missing = [row_id for row_id in ids if row_id not in there and str(row_id) not in result.unreadable]
        if len(ids) == 1:
            answer.unreadable.update({str(row_id): "could not be read: it has no id" for row_id in missing})
            return
        for row_id in missing:
            self._add_by_id(answer, what, model, key, [row_id], params)

    def invoices(
        self, page: int, *, contacts: Sequence[UUID] = (), since: datetime | None = None
    ) -> Answer[WireInvoice]:
        """A page of all invoices (those of at most 40 contacts, those changed `since`), in order of id.

        Ids do not change, and an invoice never leaves any of these sets, so nothing shifts out of the
        reader's way; what changes meanwhile is later than the cursor that is kept.
        """
        params = {"summaryOnly": "true", "order": "InvoiceID ASC"}
        if contacts:
            params["ContactIDs"] = ",".join(str(one) for one in contacts)
        return self._page("Invoices", WireInvoice, "InvoiceID", page, params, since)

    def contacts(self, page: int, *, since: datetime | None = None) -> Answer[WireContact]:
        """A page of all contacts (those changed `since`), archived ones too, in order of id."""
        params = {"includeArchived": "true", "order": "ContactID ASC"}
        return self._page("Contacts", WireContact, "ContactID", page, params, since)

    def history(self, invoice_id: UUID) -> datetime | None:
        """When the oldest line of an invoice's history was written; None when it has none."""
        try:
            raw = self._body(f"Invoices/{invoice_id}/History", {})
        except NotThereError:
            return None
        try:
            rows = self._rows(raw, "HistoryRecords")
        except UnreadableError:
            return None
        lines = self._parse(WireHistory, rows, "HistoryRecords", "", datetime.now(UTC))
        return min((line.at for line in lines.items if line.at), default=None)

    def _page(
        self,
        what: str,
        model: type[Wire],
        key: str,
        page: int,
        params: dict[str, str],
        since: datetime | None,
    ) -> Answer[Wire]:
        began = datetime.now(UTC)
        headers = {"If-Modified-Since": f"{since.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"} if since else {}
        answer = self._get(what, {**params, "page": str(page), "pageSize": str(PAGE_SIZE)}, headers)
        if answer.status_code == NOT_MODIFIED:
            return Answer([], began, vendor_time(answer))
        raw = json_of(answer)
        rows = self._rows(raw, what)
        shape = self._pagination(raw, what)
        if not rows and shape.total:
            report_answer(self._source(what))
            raise UnreadableError(f"Xero's answer holds none of {shape.total} {what}")
        now = vendor_time(answer)
        result = self._parse(model, rows, what, key, now or began)
        return Answer(
            result.items,
            began,
            now,
            shape.pages if shape.pages and shape.pages > 0 else None,
            shape.total,
            result.unreadable,
            received=len(rows),
            page_size=min(shape.page_size or PAGE_SIZE, PAGE_SIZE),
        )

    def _pagination(self, raw: dict[str, Any], what: str) -> WirePagination:
        given = [raw["pagination"]] if raw.get("pagination") is not None else []
        found = self._parse(WirePagination, given, f"pages of {what}", "", datetime.now(UTC)).items
        return found[0] if found else WirePagination()


def _ids(items: Sequence[BaseModel], model: type[BaseModel], key: str) -> set[UUID]:
    name = next(name for name, about in model.model_fields.items() if about.alias == key)
    return {getattr(item, name) for item in items}


def _endpoint(path: str) -> str:
    """The endpoint that a scope opens, by a path: `Invoices`, `Invoices/History`."""
    parts = path.split("/")
    return parts[0] if len(parts) < 3 else f"{parts[0]}/{parts[2]}"


def _lacks_scope(answer: requests.Response) -> bool:
    """Whether Xero says that the token is fine, but lacks a scope: 401, its Detail `AuthorizationUnsuccessful`."""
    if answer.status_code not in {401, 403}:
        return False
    try:
        detail = json_of(answer).get("Detail")
    except (PassingError, AttributeError):
        return False
    return isinstance(detail, str) and MISSING_SCOPE in detail.lower()


def connections(token: dict[str, Any], auth_event_id: str | None = None) -> list[WireConnection]:
    """The organisations that a token's user has connected; those of one authorisation only, where that is known.

    Practices are left out. The parameter may be ignored, so that its answer is held against it here, too.
    """
    session = oauth.session(token)
    params = {"authEventId": auth_event_id} if auth_event_id else {}
    url = f"{settings().xero_api_url}/connections"
    answer = call(lambda: session.get(url, params=params, timeout=timeouts(), stream=True))
    if answer.status_code != 200:
        raise VendorError(f"Xero answered {answer.status_code} to the list of connections")
    raw = json_of(answer)
    if not isinstance(raw, list):
        raise UnreadableError("Xero's list of connections could not be read")
    result = parse(WireConnection, raw, "id")
    report(result, AnswerSource("xero", 0, 0, "connections"))
    return [
        connection
        for connection in result.items
        if connection.is_organisation
        and (auth_event_id is None or (connection.auth_event_id or auth_event_id).lower() == auth_event_id)
    ]


def disconnect(token: dict[str, Any], connection_id: UUID) -> None:
    """End one organisation's connection; one that is gone already is fine."""
    session = oauth.session(token)
    url = f"{settings().xero_api_url}/connections/{connection_id}"
    try:
        answer = call(lambda: session.delete(url, timeout=timeouts(), stream=True))
    except NotThereError:
        return
    if answer.status_code >= 400:
        raise VendorError(f"Xero answered {answer.status_code} to the disconnection")
