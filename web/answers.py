"""The API beside a record's invoices: why they are there, who owes, what matches nobody, and exports."""

from __future__ import annotations

import base64
import binascii
import re
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from runtime.numbers import whole_number
from store import balances
from store.balances import Place
from store.database import Role, bound
from store.matching import Reason
from store.models import RecordType
from web import exports, links
from web.callers import KEYED, Caller, keyed, problems
from web.concurrency import FairLimiter
from web.currencies import amount
from web.invoices import Plural, RecordId, RecordReference, kind_of
from web.problems import ProblemError
from worker.explain import Explanation, explain

router = APIRouter(prefix="/v1")
Reader = Annotated[Caller, Depends(keyed("read", "admin"))]
Admin = Annotated[Caller, Depends(keyed("admin"))]
Sort = Literal["open", "overdue"]
NO_SUCH_TYPE = "no such record type"
WRONG_SCOPE = "a key with another scope"
PLACE = re.compile(r"(?P<amount>-?[0-9]{1,40}(\.[0-9]{1,20})?) (?P<record>[0-9]{1,19})")


def _file(*media: str) -> dict[str, Any]:
    return {"description": "the rows", "content": {one: {"schema": {"type": "string"}} for one in media}}


# Exports


@router.get(
    "/unmatched.csv",
    tags=["unmatched"],
    response_class=Response,
    responses={200: _file("text/csv"), **problems(_403=WRONG_SCOPE)},
    summary="What matches nobody",
    openapi_extra=KEYED,
)
async def unmatched(
    request: Request,
    caller: Admin,
    of: Annotated[
        Literal["contacts", "records"],
        Query(description="Xero contacts with sales invoices on no record, or Copper records that no contact matches"),
    ] = "contacts",
) -> Response:
    """Xero contacts with sales invoices that no record matches, by open balance; or records with no contact."""
    who = f"API key {caller.prefix}"
    if of == "contacts":
        return await exports.unmatched_contacts(request, caller.account_id, who, "csv")
    return await exports.unmatched_records(request, caller.account_id, who, "csv")


@router.get(
    "/invoices.{form}",
    tags=["exports"],
    response_class=Response,
    responses={200: _file("text/csv", "application/x-ndjson"), **problems(_403=WRONG_SCOPE)},
    summary="All rows of the account",
    openapi_extra=KEYED,
)
async def all_invoices(request: Request, caller: Admin, form: exports.Form) -> Response:
    """Every record's invoices, as CSV or JSON Lines."""
    return await exports.invoices(request, caller.account_id, f"API key {caller.prefix}", form)


@router.get(
    "/{type}/{id}/invoices.{form}",
    tags=["exports"],
    response_class=Response,
    responses={200: _file("text/csv", "application/x-ndjson"), **problems(_404=NO_SUCH_TYPE)},
    summary="All rows of a record",
    openapi_extra=KEYED,
)
async def record_invoices(request: Request, caller: Reader, type: Plural, id: RecordId, form: exports.Form) -> Response:
    """A record's invoices, newest first, as CSV or JSON Lines."""
    kind = kind_of(type)
    return await exports.invoices(request, caller.account_id, f"API key {caller.prefix}", form, kind, id)


# Receivables


class OwingView(BaseModel):
    """A record that owes something, in one currency. Amounts are strings with the currency's own decimals."""

    record: RecordReference
    name: str
    currency: str = Field(description="'' where the invoices name none")
    open: str
    overdue: str
    invoices: int = Field(description="how many await payment")
    overdue_invoices: int


class ReceivablesView(BaseModel):
    """Records by what they owe in one currency, the most first."""

    currency: str | None = Field(description="the one that is ranked; null when nothing is owed")
    currencies: list[str] = Field(description="those there are, the most frequent first")
    records: list[OwingView]
    next: str | None = Field(description="pass as `after`, with the same currency; null on the last page")


@router.get(
    "/{type}",
    tags=["receivables"],
    response_model=ReceivablesView,
    responses=problems(_404=NO_SUCH_TYPE),
    summary="Records by what they owe",
    openapi_extra=KEYED,
)
async def receivables(
    request: Request,
    caller: Reader,
    type: Plural,
    sort: Annotated[Sort, Query(description="by all that is open, or by what is overdue")] = ("overdue"),
    currency: Annotated[str | None, Query(max_length=3, description="sums never mix currencies")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    after: Annotated[str | None, Query(max_length=100, description="`next` of the page before")] = None,
) -> ReceivablesView:
    """Leads, people, companies or opportunities by what is open or overdue on them, from sales invoices."""
    kind, place = kind_of(type), read_place(after) if after else None
    pages: FairLimiter = request.app.state.capacity.pages
    return await pages.run(caller.account_id, _receivables, caller.account_id, kind, sort, currency, limit, place)


def _receivables(
    account_id: int, kind: RecordType, sort: Sort, currency: str | None, limit: int, place: Place | None
) -> ReceivablesView:
    with bound(account_id, Role.READS) as session:
        known = balances.currencies(session, account_id, kind)
        chosen = currency if currency is not None else (known[0] if known else None)
        ranked = balances.ranked(
            session, account_id, kind, currency=chosen or "", sort=sort, after=place, limit=limit + 1
        )
    shown = ranked[:limit]
    last = shown[-1] if len(ranked) > limit else None
    return ReceivablesView(
        currency=chosen,
        currencies=known,
        records=[
            OwingView(
                record=RecordReference(type=kind.value, id=one.record_id),
                name=one.name,
                currency=one.currency,
                open=amount(one.open, one.currency),
                overdue=amount(one.overdue, one.currency),
                invoices=one.invoices,
                overdue_invoices=one.overdue_invoices,
            )
            for one in shown
        ],
        next=write_place(Place(getattr(last, sort), last.record_id)) if last else None,
    )


def write_place(place: Place) -> str:
    """A cursor of the ranking, opaque to clients."""
    return base64.urlsafe_b64encode(f"{place.amount:f} {place.record_id}".encode()).decode()


def read_place(cursor: str) -> Place:
    """The place that a cursor names; raises a 400 problem for anything that `write_place` did not make."""
    try:
        given = PLACE.fullmatch(base64.b64decode(cursor, altchars=b"-_", validate=True).decode("ascii"))
        record = whole_number(given["record"]) if given else None
        if given is None or record is None:
            raise ValueError
        place = Place(Decimal(given["amount"]), record)
        if write_place(place) != cursor:
            raise ValueError
    except (ValueError, binascii.Error):
        raise ProblemError(400, "after: this is not a cursor that `next` gave") from None
    return place


# Why


class WayView(BaseModel):
    """Whose address it is, and through which company it counts."""

    record: RecordReference
    name: str
    company: RecordReference | None
    company_name: str | None


class AddressView(WayView):
    """An address that counts for the record."""

    email: str = Field(description="as it is compared")
    as_typed: str | None = Field(description="what stands in Copper, where that differs")
    matched: bool = Field(description="whether a Xero contact has it")


class BecauseView(WayView):
    """One way to a contact: by an address, or by a link that somebody made by hand."""

    email: str | None
    as_typed: str | None = Field(description="what stands in Copper, where that differs")
    contact_as_typed: str | None = Field(description="what stands in Xero, where that differs")
    linked_by: str | None


class BroughtView(BaseModel):
    """An invoice that a contact brings."""

    id: UUID
    number: str | None
    type: str
    status: str
    total_due: str
    balance_due: str
    currency: str | None
    url: str


class ContactView(BaseModel):
    """A matched Xero contact."""

    id: UUID
    name: str
    organisation: str
    url: str
    because: list[BecauseView]
    invoices: list[BroughtView]


class NearMissView(BaseModel):
    """A contact that is not matched, though it nearly is: a suggestion, nothing more."""

    id: UUID
    name: str
    organisation: str
    email: str
    as_typed: str | None = Field(description="what stands in Xero, where that differs")
    why: Literal["one character off", "same domain"]
    invoices: int
    url: str


class MatchView(BaseModel):
    """Why a record shows what it shows."""

    record: RecordReference
    name: str | None = Field(description="null when Copper never told of the record")
    addresses: list[AddressView]
    contacts: list[ContactView]
    near_misses: list[NearMissView]
    complete: bool = Field(description="false when there is more than is listed")


@router.get(
    "/{type}/{id}/match",
    tags=["match"],
    response_model=MatchView,
    responses=problems(_403=WRONG_SCOPE, _404=NO_SUCH_TYPE),
    summary="Why a record shows what it shows",
    openapi_extra=KEYED,
)
async def match(request: Request, caller: Admin, type: Plural, id: RecordId) -> MatchView:
    """The record's addresses and whence they come, the contacts they match, what those bring, and near misses."""
    pages: FairLimiter = request.app.state.capacity.pages
    return match_view(await pages.run(caller.account_id, explain, caller.account_id, kind_of(type), id))


def match_view(found: Explanation) -> MatchView:
    """An explanation as data."""
    return MatchView(
        record=RecordReference(type=found.kind.value, id=found.record_id),
        name=found.record.name if found.record else None,
        addresses=[
            AddressView(
                email=one.email,
                as_typed=one.as_typed,
                matched=one.matched,
                **_way(one.record_type, one.record_id, one),
            )
            for one in found.addresses
        ],
        contacts=[
            ContactView(
                id=one.contact_id,
                name=one.name,
                organisation=one.organisation_name,
                url=links.contact(one.contact_id, one.short_code),
                because=[_because(way) for way in one.ways],
                invoices=[
                    BroughtView(
                        id=invoice.invoice_id,
                        number=invoice.number,
                        type=invoice.type,
                        status=invoice.status,
                        total_due=amount(invoice.total, invoice.currency),
                        balance_due=amount(invoice.balance, invoice.currency),
                        currency=invoice.currency,
                        url=links.invoice(invoice.type, invoice.invoice_id, one.short_code),
                    )
                    for invoice in one.invoices
                ],
            )
            for one in found.contacts
        ],
        near_misses=[
            NearMissView(
                id=one.contact_id,
                name=one.contact_name,
                organisation=one.organisation_name,
                email=one.email,
                as_typed=one.as_typed,
                why="one character off" if one.one_off else "same domain",
                invoices=one.invoices,
                url=links.contact(one.contact_id, one.short_code),
            )
            for one in found.near_misses
        ],
        complete=found.complete,
    )


def _because(way: Reason) -> BecauseView:
    return BecauseView(
        email=way.email,
        as_typed=way.as_typed,
        contact_as_typed=way.contact_as_typed,
        linked_by=way.linked_by,
        **_way(way.record_type, way.record_id, way),
    )


def _way(kind: str, record_id: int, one: Any) -> dict[str, Any]:
    company = RecordReference(type="company", id=one.company_id) if one.company_id is not None else None
    return {
        "record": RecordReference(type=RecordType(kind).value, id=record_id),
        "name": one.record_name,
        "company": company,
        "company_name": one.company_name,
    }
