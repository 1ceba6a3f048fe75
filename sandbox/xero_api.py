"""Xero's Accounting API, read only: invoices, their history and online addresses, credits, contacts, organisations."""

from __future__ import annotations

import math
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

import orjson
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from sandbox.limits import RateLimiter
from sandbox.query import BadQueryError, Query, bad_query
from sandbox.world import CreditResource, Invoice, Organisation, World
from sandbox.xero_fields import CONTACT_FIELDS, CREDIT_FIELDS, INVOICE_FIELDS, Field, order_by, sort_rows
from sandbox.xero_json import Detail, contact_json, credit_json, invoice_json, json_date, organisation_json
from sandbox.xero_oauth import XeroOAuth, not_connected, scope_missing, unauthorised
from sandbox.xero_where import compile_where

DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 100, 1_000
# Xero answers longer URLs with 404: 52 ids pass, 53 do not (XeroAPI/Xero-OpenAPI, issue 534).
MAX_URL_LENGTH = 2_090
HOST = "https://api.xero.com"
STATUSES = {"DRAFT", "SUBMITTED", "AUTHORISED", "PAID", "VOIDED", "DELETED"}
MAX_CACHED_LISTS = 50
SCOPES = {
    "invoices": {
        "accounting.invoices.read",
        "accounting.invoices",
        "accounting.transactions.read",
        "accounting.transactions",
    },
    "payments": {
        "accounting.payments.read",
        "accounting.payments",
        "accounting.transactions.read",
        "accounting.transactions",
    },
    "contacts": {"accounting.contacts.read", "accounting.contacts"},
    "settings": {"accounting.settings.read", "accounting.settings"},
}
Handler = Callable[[Organisation, Request], Response]
Predicate = Callable[[Any, Organisation], bool]


def modified_since(request: Request) -> datetime | None:
    """The header If-Modified-Since, as an HTTP date or in ISO 8601; UTC if it has no time zone."""
    value = request.headers.get("if-modified-since")
    if not value:
        return None
    try:
        since = datetime.fromisoformat(value)
    except ValueError:
        try:
            since = parsedate_to_datetime(value)
        except ValueError:
            raise BadQueryError("If-Modified-Since is not a date") from None
    return since if since.tzinfo else since.replace(tzinfo=UTC)


def parse_guid(text: str) -> UUID | None:
    """A GUID in a path; None if the text is not a GUID."""
    try:
        return UUID(text)
    except ValueError:
        return None


def _where(query: Query, fields: dict[str, Field]) -> Predicate | None:
    text = query.text("where")
    return None if text is None else compile_where(text, fields)


def invoice_filter(query: Query, since: datetime | None) -> list[Predicate]:
    """The parameters of `GET /Invoices` as predicates."""
    contacts, numbers = query.uuids("ContactIDs"), query.texts("InvoiceNumbers")
    statuses = query.texts("Statuses")
    status_set = {status.upper() for status in statuses or ()}
    if not status_set <= STATUSES:
        raise BadQueryError(f"Statuses: '{', '.join(sorted(status_set - STATUSES))}' is not an invoice status")
    term, where = (query.text("searchTerm") or "").casefold(), _where(query, INVOICE_FIELDS)
    query.flag("includeArchived")  # Invoices are never archived.
    predicates: dict[str, tuple[bool, Predicate]] = {
        "since": (since is not None, lambda invoice, _: since is None or invoice.updated >= since),
        "ContactIDs": (contacts is not None, lambda invoice, _: invoice.contact_id in (contacts or ())),
        "InvoiceNumbers": (numbers is not None, lambda invoice, _: invoice.number in (numbers or ())),
        "Statuses": (statuses is not None, lambda invoice, _: invoice.status in status_set),
        "searchTerm": (bool(term), lambda invoice, _: term in invoice.number.casefold()),
        # Every invoice was created in Xero itself: the sandbox does not support writes.
        "createdByMyApp": (query.flag("createdByMyApp"), lambda _, __: False),
    }
    return [predicate for is_set, predicate in predicates.values() if is_set] + ([where] if where else [])


def contact_filter(query: Query, since: datetime | None, ids: set[UUID] | None) -> list[Predicate]:
    """The parameters of `GET /Contacts` as predicates. Archived contacts are left out unless they are requested."""
    term, where = (query.text("searchTerm") or "").casefold(), _where(query, CONTACT_FIELDS)
    include_archived = query.flag("includeArchived") or ids is not None
    predicates: dict[str, tuple[bool, Predicate]] = {
        "since": (since is not None, lambda contact, _: since is None or contact.updated >= since),
        "includeArchived": (not include_archived, lambda contact, _: contact.status == "ACTIVE"),
        "searchTerm": (bool(term), lambda contact, _: term in f"{contact.name} {contact.email}".casefold()),
    }
    return [predicate for is_set, predicate in predicates.values() if is_set] + ([where] if where else [])


def credit_filter(query: Query, since: datetime | None, resource: CreditResource) -> list[Predicate]:
    """The parameters of `GET /CreditNotes`, `/Prepayments` and `/Overpayments` as predicates."""
    where = _where(query, CREDIT_FIELDS[resource])

    def is_changed(credit: Any, _: Organisation) -> bool:
        return since is None or credit.updated >= since

    return [is_changed, where] if where else [is_changed]


class XeroApi:
    """The Accounting API of the sandbox's organisations."""

    def __init__(self, world: World, oauth: XeroOAuth, limiter: RateLimiter) -> None:
        self.world = world
        self.oauth = oauth
        self.limiter = limiter
        self._cache: dict[tuple[UUID, str], tuple[int, list[Any]]] = {}

    def endpoint(self, handler: Handler, resource: str) -> Callable[[Request], Awaitable[Response]]:
        """Wrap a handler: check the token, the organisation, the scope and the rate limits."""

        async def serve(request: Request) -> Response:
            if is_url_too_long(request):
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
        problem = self.limiter.check_xero(tenant)
        headers = self.limiter.xero_headers(tenant)
        if problem:
            headers["X-Rate-Limit-Problem"] = problem.name
            if problem.retry_after is not None:
                headers["Retry-After"] = str(math.ceil(problem.retry_after))
            return Response(status_code=429, headers=headers)
        try:
            response = handler(organisation, request)
        except BadQueryError as error:
            response = bad_query(error)
        response.headers.update(headers)
        return response

    def _response(self, values: dict[str, Any]) -> Response:
        envelope = {
            "Id": str(uuid4()),
            "Status": "OK",
            "ProviderName": "Patina sandbox",
            "DateTimeUTC": json_date(self.world.clock.now()),
        }
        return Response(orjson.dumps({**envelope, **values}), media_type="application/json")

    def _page(
        self,
        organisation: Organisation,
        request: Request,
        query: Query,
        rows: Iterable[Any],
        predicates: list[Predicate],
        fields: dict[str, Field],
    ) -> tuple[list[Any], dict[str, int] | None]:
        """A page and its `pagination`; without a requested page, the first hundred rows and None."""
        is_paged = query.text("page") is not None or query.text("pageSize") is not None
        page = query.number("page", 1, 10**9)
        size = query.number("pageSize", DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        keys = order_by(query.text("order") or "UpdatedDateUTC ASC", fields)
        query.refuse_unknown()
        matches = self._matching_rows(organisation, request, query, rows, predicates, keys)
        if not is_paged:
            return matches[:DEFAULT_PAGE_SIZE], None
        pagination = {
            "page": page,
            "pageSize": size,
            "pageCount": math.ceil(len(matches) / size),
            "itemCount": len(matches),
        }
        return matches[(page - 1) * size : page * size], pagination

    def _matching_rows(
        self,
        organisation: Organisation,
        request: Request,
        query: Query,
        rows: Iterable[Any],
        predicates: list[Predicate],
        keys: list[tuple[Field, bool]],
    ) -> list[Any]:
        """The filtered, sorted rows; cached until the organisation changes, because clients fetch page after page."""
        key = f"{request.url.path} {request.headers.get('if-modified-since')} {query.without('page', 'pageSize')}"
        cached = self._cache.get((organisation.tenant_id, key))
        if cached and cached[0] == organisation.revision:
            return cached[1]
        if len(self._cache) > MAX_CACHED_LISTS:
            self._cache.clear()
        filtered = (row for row in rows if all(matches(row, organisation) for matches in predicates))
        ordered = sort_rows(filtered, keys, organisation)
        self._cache[(organisation.tenant_id, key)] = (organisation.revision, ordered)
        return ordered

    def invoices(self, organisation: Organisation, request: Request) -> Response:
        """`GET /Invoices`."""
        query = Query(request)
        ids, summary, decimals = query.uuids("IDs"), query.flag("summaryOnly"), unit_decimals(query)
        predicates = invoice_filter(query, modified_since(request))
        rows = _select(organisation.invoices, ids)
        page, pagination = self._page(organisation, request, query, rows, predicates, INVOICE_FIELDS)
        detail = Detail.SUMMARY if summary else Detail.PAGE if pagination else Detail.LIST
        payload = [invoice_json(invoice, organisation, detail, decimals=decimals) for invoice in page]
        return self._response({"pagination": pagination, "Invoices": payload} if pagination else {"Invoices": payload})

    def invoice(self, organisation: Organisation, request: Request) -> Response:
        """`GET /Invoices/{id}`, by id or by number."""
        query = Query(request)
        decimals = unit_decimals(query)
        query.refuse_unknown()
        invoice = self._requested_invoice(organisation, request)
        if invoice is None:
            return not_found()
        return self._response({"Invoices": [invoice_json(invoice, organisation, Detail.SINGLE, decimals=decimals)]})

    def _requested_invoice(self, organisation: Organisation, request: Request) -> Invoice | None:
        name = request.path_params["id"]
        invoice_id = parse_guid(name)
        if invoice_id is not None:
            return organisation.invoices.get(invoice_id)
        return next((invoice for invoice in organisation.invoices.values() if invoice.number == name), None)

    def history(self, organisation: Organisation, request: Request) -> Response:
        """`GET /Invoices/{id}/History`, newest first."""
        Query(request).refuse_unknown()
        invoice = self._requested_invoice(organisation, request)
        if invoice is None:
            return not_found()
        lines = [
            {
                "Changes": line.changes,
                "DateUTCString": line.at.strftime("%Y-%m-%dT%H:%M:%S"),
                "DateUTC": json_date(line.at),
                "User": line.user,
                "Details": line.details,
            }
            for line in reversed(invoice.history)
        ]
        return self._response({"HistoryRecords": lines})

    def online_invoice(self, organisation: Organisation, request: Request) -> Response:
        """`GET /Invoices/{id}/OnlineInvoice`: an address for the customer; 400 for bills and drafts."""
        Query(request).refuse_unknown()
        invoice = self._requested_invoice(organisation, request)
        if invoice is None:
            return not_found()
        if not invoice.is_sale or invoice.status in {"DRAFT", "DELETED"}:
            raise BadQueryError("Online invoices are only available for sales invoices that are not drafts")
        return self._response({"OnlineInvoices": [{"OnlineInvoiceUrl": online_invoice_url(invoice)}]})

    def credits(self, resource: CreditResource) -> Handler:
        """`GET /CreditNotes`, `/Prepayments` or `/Overpayments`."""

        def serve(organisation: Organisation, request: Request) -> Response:
            query = Query(request)
            decimals = unit_decimals(query)
            predicates = credit_filter(query, modified_since(request), resource)
            rows = (credit for credit in organisation.credits.values() if credit.resource is resource)
            page, pagination = self._page(organisation, request, query, rows, predicates, CREDIT_FIELDS[resource])
            detail = Detail.PAGE if pagination else Detail.LIST
            payload = [credit_json(credit, organisation, detail, decimals=decimals) for credit in page]
            rows_json = {resource.value: payload}
            return self._response({"pagination": pagination, **rows_json} if pagination else rows_json)

        return serve

    def credit(self, resource: CreditResource) -> Handler:
        """`GET /CreditNotes/{id}`, `/Prepayments/{id}` or `/Overpayments/{id}`; only the first has `unitdp`."""

        def serve(organisation: Organisation, request: Request) -> Response:
            query = Query(request)
            decimals = unit_decimals(query) if resource is CreditResource.CREDIT_NOTES else 2
            query.refuse_unknown()
            credit_id = parse_guid(request.path_params["id"])
            credit = organisation.credits.get(credit_id) if credit_id else None
            if credit is None or credit.resource is not resource:
                return not_found()
            payload = [credit_json(credit, organisation, Detail.SINGLE, decimals=decimals)]
            return self._response({resource.value: payload})

        return serve

    def contacts(self, organisation: Organisation, request: Request) -> Response:
        """`GET /Contacts`."""
        query = Query(request)
        ids, summary = query.uuids("IDs"), query.flag("summaryOnly")
        predicates = contact_filter(query, modified_since(request), ids)
        rows = _select(organisation.contacts, ids)
        page, pagination = self._page(organisation, request, query, rows, predicates, CONTACT_FIELDS)
        paged = pagination is not None or ids is not None
        detail = Detail.SUMMARY if summary else Detail.PAGE if paged else Detail.LIST
        payload = [contact_json(contact, detail) for contact in page]
        return self._response({"pagination": pagination, "Contacts": payload} if pagination else {"Contacts": payload})

    def contact(self, organisation: Organisation, request: Request) -> Response:
        """`GET /Contacts/{id}`."""
        Query(request).refuse_unknown()
        contact_id = parse_guid(request.path_params["id"])
        contact = organisation.contacts.get(contact_id) if contact_id else None
        return self._response({"Contacts": [contact_json(contact, Detail.SINGLE)]}) if contact else not_found()

    def organisation(self, organisation: Organisation, request: Request) -> Response:
        """`GET /Organisation`."""
        Query(request).refuse_unknown()
        return self._response({"Organisations": [organisation_json(organisation)]})


def _select(rows: dict[UUID, Any], ids: set[UUID] | None) -> Iterable[Any]:
    """All rows, or those with the given ids."""
    return rows.values() if ids is None else [rows[key] for key in ids if key in rows]


def online_invoice_url(invoice: Invoice) -> str:
    """An invoice's address at Xero, always the same; in reality there is no page behind it."""
    token = urlsafe_b64encode(sha256(invoice.id.bytes).digest()).decode().rstrip("=")
    return f"https://in.xero.com/{token}"


def unit_decimals(query: Query) -> int:
    """`unitdp`: the number of decimals in unit amounts, two or four."""
    value = query.text("unitdp") or "2"
    if value not in {"2", "4"}:
        raise BadQueryError("unitdp must be 2 or 4")
    return int(value)


def is_url_too_long(request: Request) -> bool:
    """Whether the URL, under Xero's own host name, would be too long for Xero's servers."""
    path = request.scope.get("raw_path", b"").decode("latin-1").removeprefix("/xero")
    return len(f"{HOST}{path}?{request.url.query}") > MAX_URL_LENGTH


def not_acceptable() -> Response:
    """406: Xero answers with XML unless JSON is requested, and the sandbox does not support XML."""
    detail = "Xero returns XML unless the Accept header names application/json; the sandbox only supports JSON"
    return JSONResponse({"Title": "Not Acceptable", "Status": 406, "Detail": detail}, 406)


def not_found() -> Response:
    """Xero's 404 for an id that does not exist in the organisation."""
    body = {"ErrorNumber": 0, "Type": None, "Title": "NotFound", "Status": 404}
    return JSONResponse({**body, "Detail": "The resource you're looking for cannot be found"}, 404)


async def not_supported(request: Request) -> Response:
    """The response for everything that the sandbox does not support: 404 for a path, 405 for a write."""
    detail = f"The sandbox does not support {request.method} {request.url.path}"
    status, title = (404, "NotFound") if request.method in {"GET", "HEAD"} else (405, "MethodNotAllowed")
    return JSONResponse({"Type": None, "Title": title, "Status": status, "Detail": detail}, status)
