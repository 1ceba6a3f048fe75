"""Xero's Accounting API, the read side: invoices, their history, contacts, the organisation."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import UUID, uuid4

import orjson
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from sandbox.limits import Meter
from sandbox.query import BadQueryError, Query, bad_query
from sandbox.world import Invoice, Organisation, World
from sandbox.xero_fields import CONTACT_FIELDS, INVOICE_FIELDS, Field, in_order, order_by
from sandbox.xero_json import Detail, contact_json, invoice_json, milliseconds, organisation_json
from sandbox.xero_oauth import XeroOAuth, not_connected, scope_missing, unauthorised
from sandbox.xero_where import compile_where

DEFAULT_PAGE, LARGEST_PAGE = 100, 1_000
# Longer addresses are answered with 404: 52 ids pass and 53 do not (XeroAPI/Xero-OpenAPI, issue 534).
LONGEST_URL = 2_090
HOST = "https://api.xero.com"
STATUSES = {"DRAFT", "SUBMITTED", "AUTHORISED", "PAID", "VOIDED", "DELETED"}
CACHED_LISTS = 50
SCOPES = {
    "invoices": {
        "accounting.invoices.read",
        "accounting.invoices",
        "accounting.transactions.read",
        "accounting.transactions",
    },
    "contacts": {"accounting.contacts.read", "accounting.contacts"},
    "settings": {"accounting.settings.read", "accounting.settings"},
}
Handler = Callable[[Organisation, Request], Response]
Keep = Callable[[Any, Organisation], bool]


def modified_since(request: Request) -> datetime | None:
    """If-Modified-Since, as an HTTP date or ISO 8601; without a zone it is UTC."""
    value = request.headers.get("if-modified-since")
    if not value:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            raise BadQueryError("If-Modified-Since is not a date") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def guid(text: str) -> UUID | None:
    """A GUID in a path, None where the text is none."""
    try:
        return UUID(text)
    except ValueError:
        return None


def _where(query: Query, fields: dict[str, Field]) -> Keep | None:
    text = query.text("where")
    return None if text is None else compile_where(text, fields)


def invoice_filter(query: Query, since: datetime | None) -> list[Keep]:
    """What the parameters of `GET /Invoices` ask for, as tests."""
    contacts, numbers = query.uuids("ContactIDs"), query.texts("InvoiceNumbers")
    statuses = query.texts("Statuses")
    wanted = {status.upper() for status in statuses or ()}
    if not wanted <= STATUSES:
        raise BadQueryError(f"Statuses: '{', '.join(sorted(wanted - STATUSES))}' is no status of an invoice")
    term, where = (query.text("searchTerm") or "").casefold(), _where(query, INVOICE_FIELDS)
    query.flag("includeArchived")  # An invoice is never archived.
    tests: dict[str, tuple[bool, Keep]] = {
        "since": (since is not None, lambda invoice, _: since is None or invoice.updated >= since),
        "ContactIDs": (contacts is not None, lambda invoice, _: invoice.contact_id in (contacts or ())),
        "InvoiceNumbers": (numbers is not None, lambda invoice, _: invoice.number in (numbers or ())),
        "Statuses": (statuses is not None, lambda invoice, _: invoice.status in wanted),
        "searchTerm": (bool(term), lambda invoice, _: term in invoice.number.casefold()),
        # Every invoice was made inside Xero: the sandbox plays no writes.
        "createdByMyApp": (query.flag("createdByMyApp"), lambda _, __: False),
    }
    return [test for given, test in tests.values() if given] + ([where] if where else [])


def contact_filter(query: Query, since: datetime | None, ids: set[UUID] | None) -> list[Keep]:
    """What the parameters of `GET /Contacts` ask for, as tests. Archived ones are left out unless asked for."""
    term, where = (query.text("searchTerm") or "").casefold(), _where(query, CONTACT_FIELDS)
    archived = query.flag("includeArchived") or ids is not None
    tests: dict[str, tuple[bool, Keep]] = {
        "since": (since is not None, lambda contact, _: since is None or contact.updated >= since),
        "includeArchived": (not archived, lambda contact, _: contact.status == "ACTIVE"),
        "searchTerm": (bool(term), lambda contact, _: term in f"{contact.name} {contact.email}".casefold()),
    }
    return [test for given, test in tests.values() if given] + ([where] if where else [])


class XeroApi:
    """The Accounting API of the sandbox's organisations."""

    def __init__(self, world: World, oauth: XeroOAuth, meter: Meter) -> None:
        self.world = world
        self.oauth = oauth
        self.meter = meter
        self._cache: dict[tuple[UUID, str], tuple[int, list[Any]]] = {}

    def endpoint(self, handler: Handler, resource: str) -> Callable[[Request], Awaitable[Response]]:
        """A route: who is calling, for which organisation, with which scope, within which limits."""

        async def serve(request: Request) -> Response:
            if too_long(request):
                return HTMLResponse("<h1>404 - File or directory not found.</h1>", 404)
            if "application/json" not in request.headers.get("accept", ""):
                return not_acceptable()
            authorisation = self.oauth.authorisation_of(request)
            if authorisation is None:
                return unauthorised()
            organisation = self.oauth.organisation_of(authorisation, request)
            if organisation is None:
                return not_connected()
            if SCOPES[resource].isdisjoint(authorisation.scope.split()):
                return scope_missing()
            return self._within_limits(handler, organisation, request)

        return serve

    def _within_limits(self, handler: Handler, organisation: Organisation, request: Request) -> Response:
        tenant = str(organisation.tenant_id)
        refusal = self.meter.xero(tenant)
        headers = self.meter.headers(tenant)
        if refusal:
            headers["X-Rate-Limit-Problem"] = refusal.problem
            if refusal.retry_after is not None:
                headers["Retry-After"] = str(math.ceil(refusal.retry_after))
            return Response(status_code=429, headers=headers)
        try:
            answer = handler(organisation, request)
        except BadQueryError as error:
            answer = bad_query(error)
        answer.headers.update(headers)
        return answer

    def _answer(self, values: dict[str, Any]) -> Response:
        frame = {
            "Id": str(uuid4()),
            "Status": "OK",
            "ProviderName": "Patina sandbox",
            "DateTimeUTC": milliseconds(self.world.clock.now()),
        }
        return Response(orjson.dumps({**frame, **values}), media_type="application/json")

    def _page(
        self,
        organisation: Organisation,
        request: Request,
        query: Query,
        rows: Iterable[Any],
        tests: list[Keep],
        fields: dict[str, Field],
    ) -> tuple[list[Any], dict[str, int] | None]:
        """One page and its `pagination`; the first hundred, without it, when no page was asked for."""
        asked = query.text("page") is not None or query.text("pageSize") is not None
        page = query.number("page", 1, 10**9)
        size = query.number("pageSize", DEFAULT_PAGE, LARGEST_PAGE)
        keys = order_by(query.text("order") or "UpdatedDateUTC ASC", fields)
        query.refuse_unknown()
        found = self._listed(organisation, request, query, rows, tests, keys)
        if not asked:
            return found[:DEFAULT_PAGE], None
        shape = {"page": page, "pageSize": size, "pageCount": math.ceil(len(found) / size), "itemCount": len(found)}
        return found[(page - 1) * size : page * size], shape

    def _listed(
        self,
        organisation: Organisation,
        request: Request,
        query: Query,
        rows: Iterable[Any],
        tests: list[Keep],
        keys: list[tuple[Field, bool]],
    ) -> list[Any]:
        """Filtered and sorted, kept until the organisation changes: pages come one after another."""
        key = f"{request.url.path} {request.headers.get('if-modified-since')} {query.without('page', 'pageSize')}"
        known = self._cache.get((organisation.tenant_id, key))
        if known and known[0] == organisation.revision:
            return known[1]
        if len(self._cache) > CACHED_LISTS:
            self._cache.clear()
        kept = (row for row in rows if all(test(row, organisation) for test in tests))
        found = in_order(kept, keys, organisation)
        self._cache[(organisation.tenant_id, key)] = (organisation.revision, found)
        return found

    def invoices(self, organisation: Organisation, request: Request) -> Response:
        """`GET /Invoices`."""
        query = Query(request)
        ids, summary, decimals = query.uuids("IDs"), query.flag("summaryOnly"), unit_decimals(query)
        tests = invoice_filter(query, modified_since(request))
        rows = _chosen(organisation.invoices, ids)
        page, shape = self._page(organisation, request, query, rows, tests, INVOICE_FIELDS)
        detail = Detail.SUMMARY if summary else Detail.PAGE if shape else Detail.LIST
        listed = [invoice_json(invoice, organisation, detail, decimals=decimals) for invoice in page]
        return self._answer({"pagination": shape, "Invoices": listed} if shape else {"Invoices": listed})

    def invoice(self, organisation: Organisation, request: Request) -> Response:
        """`GET /Invoices/{id}`: by id or by number."""
        query = Query(request)
        decimals = unit_decimals(query)
        query.refuse_unknown()
        invoice = self._one_invoice(organisation, request)
        if invoice is None:
            return not_found()
        return self._answer({"Invoices": [invoice_json(invoice, organisation, Detail.SINGLE, decimals=decimals)]})

    def _one_invoice(self, organisation: Organisation, request: Request) -> Invoice | None:
        name = request.path_params["id"]
        invoice_id = guid(name)
        if invoice_id is not None:
            return organisation.invoices.get(invoice_id)
        return next((invoice for invoice in organisation.invoices.values() if invoice.number == name), None)

    def history(self, organisation: Organisation, request: Request) -> Response:
        """`GET /Invoices/{id}/History`, newest first."""
        Query(request).refuse_unknown()
        invoice = self._one_invoice(organisation, request)
        if invoice is None:
            return not_found()
        lines = [
            {
                "Changes": line.changes,
                "DateUTCString": line.at.strftime("%Y-%m-%dT%H:%M:%S"),
                "DateUTC": milliseconds(line.at),
                "User": line.user,
                "Details": line.details,
            }
            for line in reversed(invoice.history)
        ]
        return self._answer({"HistoryRecords": lines})

    def contacts(self, organisation: Organisation, request: Request) -> Response:
        """`GET /Contacts`."""
        query = Query(request)
        ids, summary = query.uuids("IDs"), query.flag("summaryOnly")
        tests = contact_filter(query, modified_since(request), ids)
        rows = _chosen(organisation.contacts, ids)
        page, shape = self._page(organisation, request, query, rows, tests, CONTACT_FIELDS)
        paged = shape is not None or ids is not None
        detail = Detail.SUMMARY if summary else Detail.PAGE if paged else Detail.LIST
        shown = [contact_json(contact, detail) for contact in page]
        return self._answer({"pagination": shape, "Contacts": shown} if shape else {"Contacts": shown})

    def contact(self, organisation: Organisation, request: Request) -> Response:
        """`GET /Contacts/{id}`."""
        Query(request).refuse_unknown()
        contact_id = guid(request.path_params["id"])
        contact = organisation.contacts.get(contact_id) if contact_id else None
        return self._answer({"Contacts": [contact_json(contact, Detail.SINGLE)]}) if contact else not_found()

    def organisation(self, organisation: Organisation, request: Request) -> Response:
        """`GET /Organisation`."""
        Query(request).refuse_unknown()
        return self._answer({"Organisations": [organisation_json(organisation)]})


def _chosen(rows: dict[UUID, Any], ids: set[UUID] | None) -> Iterable[Any]:
    """All rows, or those of some ids."""
    return rows.values() if ids is None else [rows[key] for key in ids if key in rows]


def unit_decimals(query: Query) -> int:
    """`unitdp`: two or four decimals in unit amounts."""
    value = query.text("unitdp") or "2"
    if value not in {"2", "4"}:
        raise BadQueryError("unitdp must be 2 or 4")
    return int(value)


def too_long(request: Request) -> bool:
    """Whether the address would be too long for Xero's servers, under Xero's own name."""
    path = request.scope.get("raw_path", b"").decode("latin-1").removeprefix("/xero")
    return len(f"{HOST}{path}?{request.url.query}") > LONGEST_URL


def not_acceptable() -> Response:
    """406: where JSON is not asked for, Xero answers XML, which the sandbox does not play."""
    detail = "Xero answers XML unless the header Accept names application/json; the sandbox plays JSON only"
    return JSONResponse({"Title": "Not Acceptable", "Status": 406, "Detail": detail}, 406)


def not_found() -> Response:
    """404 as Xero writes it for an id that the organisation does not have."""
    body = {"ErrorNumber": 0, "Type": None, "Title": "NotFound", "Status": 404}
    return JSONResponse({**body, "Detail": "The resource you're looking for cannot be found"}, 404)


async def not_played(request: Request) -> Response:
    """What the sandbox's Xero does not play: 404 for a path, 405 for a write."""
    detail = f"The sandbox does not play {request.method} {request.url.path}"
    status, title = (404, "NotFound") if request.method in {"GET", "HEAD"} else (405, "MethodNotAllowed")
    return JSONResponse({"Type": None, "Title": title, "Status": status, "Detail": detail}, status)
