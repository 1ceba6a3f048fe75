"""Xero's Accounting API, the read side: invoices, their history, contacts, the organisation."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, date, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import UUID, uuid4

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sandbox.limits import Meter
from sandbox.world import Contact, Invoice, Organisation, World
from sandbox.xero_oauth import XeroOAuth, unauthorised

DEFAULT_PAGE, LARGEST_PAGE = 100, 1_000
NO_ID = UUID(int=0)
Handler = Callable[[Organisation, Request], Response]
# The scopes of which one opens an endpoint (Xero docs: OAuth 2.0 scopes).
SCOPES = {
    "Invoices": {"accounting.invoices.read", "accounting.transactions.read"},
    "Contacts": {"accounting.contacts.read"},
    "Organisation": {"accounting.settings.read"},
}


class BadQueryError(Exception):
    """A parameter that Xero would refuse."""


def milliseconds(moment: datetime, *, zone: str = "+0000") -> str:
    """`/Date(1541176290160+0000)/`."""
    return f"/Date({round(moment.timestamp() * 1000)}{zone})/"


def exact(amount: Decimal) -> orjson.Fragment:
    """An amount as a JSON number with all its digits; a float would round large ones."""
    return orjson.Fragment(f"{amount:f}")


def day(value: date) -> datetime:
    """A calendar date as Xero's instant at midnight UTC."""
    return datetime(value.year, value.month, value.day, tzinfo=UTC)


def invoice_json(invoice: Invoice, organisation: Organisation, *, summary: bool) -> dict[str, Any]:
    """An invoice as a list shows it; the heavy fields are left out of a summary."""
    contact = organisation.contacts.get(invoice.contact_id)
    net = exact(invoice.total)
    # Xero has been seen to write dates in either form and to leave the zone out: so does the sandbox.
    separator = " " if invoice.id.int % 3 == 0 else "T"
    zone = "" if invoice.id.int % 5 == 0 else "+0000"
    shown: dict[str, Any] = {
        "Type": invoice.type,
        "InvoiceID": str(invoice.id),
        "InvoiceNumber": invoice.number,
        "Reference": "",
        "AmountDue": exact(invoice.due),
        "AmountPaid": exact(invoice.paid),
        "AmountCredited": exact(invoice.credited),
        "CurrencyRate": 1.0,
        "IsDiscounted": False,
        "HasAttachments": False,
        "HasErrors": False,
        "Contact": {
            "ContactID": str(invoice.contact_id),
            "Name": contact.name if contact else "",
        },
        "DateString": f"{invoice.issue_date.isoformat()}{separator}00:00:00",
        "Date": milliseconds(day(invoice.issue_date), zone=zone),
        "Status": invoice.status,
        "LineAmountTypes": "Exclusive",
        "SubTotal": net,
        "TotalTax": 0.0,
        "Total": net,
        "UpdatedDateUTC": milliseconds(invoice.updated, zone=zone),
        "CurrencyCode": invoice.currency,
        "SentToContact": invoice.status not in {"DRAFT", "SUBMITTED"},
    }
    if invoice.due_date:
        shown["DueDateString"] = f"{invoice.due_date.isoformat()}{separator}00:00:00"
        shown["DueDate"] = milliseconds(day(invoice.due_date))
    if invoice.paid_on:
        shown["FullyPaidOnDate"] = milliseconds(day(invoice.paid_on))
    if not summary:
        line = {
            "LineItemID": str(UUID(int=invoice.id.int ^ 1)),
            "Description": "Services",
            "Quantity": 1.0,
            "UnitAmount": net,
            "LineAmount": net,
            "TaxAmount": 0.0,
            "AccountCode": "200",
            "Tracking": [],
        }
        shown |= {
            "LineItems": [line],
            "Payments": [],
            "CreditNotes": [],
            "Prepayments": [],
            "Overpayments": [],
        }
    return shown


def contact_json(contact: Contact, *, merged: bool, summary: bool = False) -> dict[str, Any]:
    """A contact; `MergedToContactID` only where Xero shows it."""
    shown: dict[str, Any] = {
        "ContactID": str(contact.id),
        "ContactStatus": contact.status,
        "Name": contact.name,
        "EmailAddress": contact.email,
        "IsSupplier": False,
        "IsCustomer": True,
        "UpdatedDateUTC": milliseconds(contact.updated),
        "HasAttachments": False,
        "HasValidationErrors": False,
    }
    if not summary:
        shown |= {
            "ContactPersons": [
                {"FirstName": "", "LastName": "", "EmailAddress": email, "IncludeInEmails": False}
                for email in contact.people
            ],
            "Addresses": [{"AddressType": "POBOX"}],
            "Phones": [{"PhoneType": "DEFAULT", "PhoneNumber": ""}],
            "ContactGroups": [],
        }
    if merged and contact.merged_to:
        shown["MergedToContactID"] = str(contact.merged_to)
    return shown


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


def id_list(request: Request, name: str) -> set[UUID] | None:
    """A comma-separated parameter of ids, or None when it is not there."""
    value = request.query_params.get(name)
    if value is None:
        return None
    try:
        return {UUID(one.strip()) for one in value.split(",") if one.strip()}
    except ValueError:
        raise BadQueryError(f"{name} is not a list of GUIDs") from None


def flag(request: Request, name: str) -> bool:
    """A boolean parameter."""
    return request.query_params.get(name, "").lower() == "true"


INVOICE_ORDER: dict[str, Callable[[Invoice], Any]] = {
    "UpdatedDateUTC": lambda one: (one.updated, one.id),
    "InvoiceID": lambda one: one.id,
    "InvoiceNumber": lambda one: (one.number, one.id),
    "Date": lambda one: (one.issue_date, one.id),
    "DueDate": lambda one: (one.due_date or date.min, one.id),
    "Total": lambda one: (one.total, one.id),
    "Status": lambda one: (one.status, one.id),
}
CONTACT_ORDER: dict[str, Callable[[Contact], Any]] = {
    "UpdatedDateUTC": lambda one: (one.updated, one.id),
    "ContactID": lambda one: one.id,
    "Name": lambda one: (one.name, one.id),
    "EmailAddress": lambda one: (one.email, one.id),
}


def ordered(found: Iterable[Any], request: Request, orders: dict[str, Callable[[Any], Any]]) -> list[Any]:
    """`order=Field ASC|DESC`, by UpdatedDateUTC where nothing is said."""
    wanted = request.query_params.get("order", "UpdatedDateUTC ASC").split()
    if not wanted or wanted[0] not in orders or wanted[1:] not in ([], ["ASC"], ["DESC"]):
        raise BadQueryError(f"order is not understood; the sandbox knows {', '.join(orders)}")
    return sorted(found, key=orders[wanted[0]], reverse=wanted[1:] == ["DESC"])


def page_of(request: Request, found: list[Any]) -> tuple[list[Any], dict[str, int] | None]:
    """One page and its `pagination`; everything, without it, when no page was asked for."""
    if "page" not in request.query_params and "pageSize" not in request.query_params:
        return found[:DEFAULT_PAGE], None
    try:
        page = int(request.query_params.get("page", "1"))
        size = int(request.query_params.get("pageSize", str(DEFAULT_PAGE)))
    except ValueError:
        raise BadQueryError("page and pageSize are whole numbers") from None
    if page < 1 or not 1 <= size <= LARGEST_PAGE:
        raise BadQueryError(f"page starts at 1 and pageSize ends at {LARGEST_PAGE}")
    shape = {
        "page": page,
        "pageSize": size,
        "pageCount": math.ceil(len(found) / size),
        "itemCount": len(found),
    }
    return found[(page - 1) * size : page * size], shape


class XeroApi:
    """The Accounting API of the sandbox's organisations."""

    def __init__(self, world: World, oauth: XeroOAuth, meter: Meter) -> None:
        self.world = world
        self.oauth = oauth
        self.meter = meter
        self._cache: dict[tuple[UUID, str], tuple[int, list[Any]]] = {}

    def endpoint(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """A route: who is calling, for which organisation, within which limits."""

        async def serve(request: Request) -> Response:
            held = self.oauth.holder(request)
            if held is None:
                return unauthorised()
            organisation = self.oauth.tenant(held, request)
            if organisation is None:
                body = {"Title": "Forbidden", "Status": 403, "Detail": "AuthenticationUnsuccessful"}
                return JSONResponse({"Type": None, **body, "Instance": str(uuid4()), "Extensions": {}}, 403)
            wanted = SCOPES[request.url.path.split("/api.xro/2.0/")[1].split("/")[0]]
            granted = {scope for one in held.scope.split() for scope in (one, f"{one}.read")}
            if not wanted & granted:
                return unauthorised("AuthorizationUnsuccessful")
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
                body = {"ErrorNumber": 10, "Type": "ValidationException", "Message": str(error)}
                answer = JSONResponse({**body, "Elements": []}, 400)
            answer.headers.update(headers)
            return answer

        return serve

    def _answer(self, values: dict[str, Any]) -> Response:
        frame = {
            "Id": str(uuid4()),
            "Status": "OK",
            "ProviderName": "Patina sandbox",
            "DateTimeUTC": milliseconds(self.world.clock.now()),
        }
        return Response(orjson.dumps({**frame, **values}), media_type="application/json")

    def _sorted(
        self,
        organisation: Organisation,
        request: Request,
        everything: Iterable[Any],
        keep: Callable[[Any], bool],
        orders: dict[str, Callable[[Any], Any]],
    ) -> list[Any]:
        """Filtered and sorted, remembered until the organisation changes: pages come one after another."""
        names = ("order", "IDs", "ContactIDs", "Statuses", "InvoiceNumbers", "includeArchived", "searchTerm")
        since = request.headers.get("if-modified-since", "")
        key = str([request.url.path, since, *[request.query_params.get(name) for name in names]])
        known = self._cache.get((organisation.tenant_id, key))
        if known and known[0] == organisation.revision:
            return known[1]
        if len(self._cache) > 50:
            self._cache.clear()
        found = ordered((one for one in everything if keep(one)), request, orders)
        self._cache[(organisation.tenant_id, key)] = (organisation.revision, found)
        return found

    def invoices(self, organisation: Organisation, request: Request) -> Response:
        """`GET /Invoices`."""
        since, ids = modified_since(request), id_list(request, "IDs")
        contacts = id_list(request, "ContactIDs")
        query = request.query_params
        statuses = set(query["Statuses"].split(",")) if "Statuses" in query else None
        numbers = set(query["InvoiceNumbers"].split(",")) if "InvoiceNumbers" in query else None
        term = query.get("searchTerm", "").casefold()

        def keep(one: Invoice) -> bool:
            return (
                (since is None or one.updated >= since)
                and (ids is None or one.id in ids)
                and (contacts is None or one.contact_id in contacts)
                and (statuses is None or one.status in statuses)
                and (numbers is None or one.number in numbers)
                and (not term or term in one.number.casefold())
            )

        everything: Iterable[Invoice] = organisation.invoices.values()
        if ids is not None:
            everything = [one for key in ids if (one := organisation.invoices.get(key))]
        found = self._sorted(organisation, request, everything, keep, INVOICE_ORDER)
        page, shape = page_of(request, found)
        summary = flag(request, "summaryOnly")
        listed = [invoice_json(one, organisation, summary=summary) for one in page]
        return self._answer({"pagination": shape, "Invoices": listed} if shape else {"Invoices": listed})

    def invoice(self, organisation: Organisation, request: Request) -> Response:
        """`GET /Invoices/{id}`: by id or by number."""
        found = self._one_invoice(organisation, request)
        if found is None:
            return not_found()
        return self._answer({"Invoices": [invoice_json(found, organisation, summary=False)]})

    def _one_invoice(self, organisation: Organisation, request: Request) -> Invoice | None:
        name = request.path_params["id"]
        if re.fullmatch(r"[0-9a-fA-F-]{36}", name):
            return organisation.invoices.get(UUID(name))
        return next((one for one in organisation.invoices.values() if one.number == name), None)

    def history(self, organisation: Organisation, request: Request) -> Response:
        """`GET /Invoices/{id}/History`, newest first."""
        found = self._one_invoice(organisation, request)
        if found is None:
            return not_found()
        lines = [
            {
                "Changes": line.changes,
                "DateUTCString": line.at.strftime("%Y-%m-%dT%H:%M:%S"),
                "DateUTC": milliseconds(line.at),
                "User": line.user,
                "Details": line.details,
            }
            for line in reversed(found.history)
        ]
        return self._answer({"HistoryRecords": lines})

    def contacts(self, organisation: Organisation, request: Request) -> Response:
        """`GET /Contacts`."""
        since, ids = modified_since(request), id_list(request, "IDs")
        archived = flag(request, "includeArchived") or ids is not None
        term = request.query_params.get("searchTerm", "").casefold()

        def keep(one: Contact) -> bool:
            return (
                (since is None or one.updated >= since)
                and (ids is None or one.id in ids)
                and (archived or one.status == "ACTIVE")
                and (not term or term in one.name.casefold() or term in one.email.casefold())
            )

        found = self._sorted(organisation, request, organisation.contacts.values(), keep, CONTACT_ORDER)
        page, shape = page_of(request, found)
        summary = flag(request, "summaryOnly")
        shown = [contact_json(one, merged=shape is not None or ids is not None, summary=summary) for one in page]
        return self._answer({"pagination": shape, "Contacts": shown} if shape else {"Contacts": shown})

    def contact(self, organisation: Organisation, request: Request) -> Response:
        """`GET /Contacts/{id}`."""
        try:
            found = organisation.contacts.get(UUID(request.path_params["id"]))
        except ValueError:
            found = None
        if found is None:
            return not_found()
        return self._answer({"Contacts": [contact_json(found, merged=True)]})

    def organisation(self, organisation: Organisation, request: Request) -> Response:
        """`GET /Organisation`."""
        shown = {
            "OrganisationID": str(organisation.tenant_id),
            "Name": organisation.name,
            "LegalName": organisation.name,
            "PaysTax": True,
            "Version": "NZ",
            "OrganisationType": "COMPANY",
            "BaseCurrency": organisation.currency,
            "CountryCode": organisation.country,
            "IsDemoCompany": False,
            "OrganisationStatus": "ACTIVE",
            "Timezone": "NEWZEALANDSTANDARDTIME",
            "ShortCode": organisation.short_code,
            "Class": "PREMIUM",
            "Edition": "BUSINESS",
        }
        return self._answer({"Organisations": [shown]})


def not_found() -> Response:
    """404 as Xero writes it for an id that the organisation does not have."""
    body = {"ErrorNumber": 0, "Type": None, "Title": "NotFound", "Status": 404}
    return JSONResponse({**body, "Detail": "The resource you're looking for cannot be found"}, 404)
