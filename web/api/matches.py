"""`GET /v1/{type}/{id}/match`: why a record has the invoices that it has."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from services.match_report import MatchReport, build_match_report
from store.db.enums import RecordType
from store.read_model.match_reports import Reason
from web.api.record_paths import RecordId, RecordReference, RecordTypePath, parse_record_type
from web.auth.api_keys import BEARER_SECURITY, AdminCaller
from web.presentation import links
from web.presentation.currencies import format_optional_amount
from web.presentation.problems import NO_SUCH_RECORD_TYPE, WRONG_SCOPE, problem_responses
from web.state import web_state

router = APIRouter(prefix="/v1")


class MatchPath(BaseModel):
    """The record that has the address, and the company through which it counts."""

    record: RecordReference
    name: str
    company: RecordReference | None
    company_name: str | None


class MatchAddress(MatchPath):
    """An email address that counts for the record."""

    email: str = Field(description="the normalised address, which is compared")
    as_typed: str | None = Field(description="the address in Copper, if it differs")
    matched: bool = Field(description="whether a Xero contact has it")


class MatchReason(MatchPath):
    """One reason why a contact matches: an email address, a company's email domain, or a manual link."""

    email: str | None = Field(description="null for a manual link, and for an email domain")
    email_domain: str | None = Field(description="the company's email domain, at which the contact has an address")
    as_typed: str | None = Field(description="the address in Copper, if it differs")
    contact_as_typed: str | None = Field(description="the address in Xero, if it differs")
    linked_by: str | None = Field(description="who made the manual link")


class MatchedInvoice(BaseModel):
    """An invoice or a credit of a matched contact."""

    id: UUID
    number: str | None
    type: str
    status: str
    total_due: str | None
    balance_due: str | None
    currency: str | None
    url: str


class MatchedContact(BaseModel):
    """A matched Xero contact."""

    id: UUID
    name: str
    organisation: str
    url: str
    reasons: list[MatchReason]
    invoices: list[MatchedInvoice]


class PinnedInvoice(BaseModel):
    """An invoice that is pinned to the opportunity."""

    id: UUID
    number: str | None
    type: str
    pinned_by: str
    pinned_at: datetime


class NearMatch(BaseModel):
    """A contact that almost matches; only a suggestion."""

    id: UUID
    name: str
    organisation: str
    email: str
    as_typed: str | None = Field(description="the address in Xero, if it differs")
    reason: Literal["one character off", "same domain"]
    invoices: int
    url: str


class MatchSchema(BaseModel):
    """The match details of a record."""

    record: RecordReference
    name: str | None = Field(description="null if the record has not been synced")
    addresses: list[MatchAddress]
    contacts: list[MatchedContact]
    near_misses: list[NearMatch]
    pinned: list[PinnedInvoice] = Field(description="of an opportunity: the invoices that are pinned to it")
    pinned_only: bool = Field(description="whether it has pinned invoices only, by the account's settings")
    complete: bool = Field(description="false if the lists are truncated")


@router.get(
    "/{type}/{id}/match",
    tags=["match"],
    response_model=MatchSchema,
    responses=problem_responses(_403=WRONG_SCOPE, _404=NO_SUCH_RECORD_TYPE),
    summary="Why a record has the invoices that it has",
    openapi_extra=BEARER_SECURITY,
)
async def get_match(request: Request, caller: AdminCaller, type: RecordTypePath, id: RecordId) -> MatchSchema:
    """The record's email addresses and their origin, the contacts that they match, their invoices, and near misses."""
    pages = web_state(request).capacity.pages
    report = await pages.run(caller.account_id, build_match_report, caller.account_id, parse_record_type(type), id)
    return match_schema(report)


def match_schema(report: MatchReport) -> MatchSchema:
    """A match report as the API returns it."""
    return MatchSchema(
        record=RecordReference(type=report.record_type.value, id=report.record_id),
        name=report.record.name if report.record else None,
        addresses=[
            MatchAddress(
                email=address.email,
                as_typed=address.as_typed,
                matched=address.is_matched,
                **_match_path(address.record_type, address.record_id, address),
            )
            for address in report.addresses
        ],
        contacts=[
            MatchedContact(
                id=contact.contact_id,
                name=contact.name,
                organisation=contact.organisation_name,
                url=links.contact(contact.contact_id, contact.short_code),
                reasons=[match_reason(reason) for reason in contact.reasons],
                invoices=[
                    MatchedInvoice(
                        id=invoice.invoice_id,
                        number=invoice.number,
                        type=invoice.type,
                        status=invoice.status,
                        total_due=format_optional_amount(invoice.total, invoice.currency),
                        balance_due=format_optional_amount(invoice.balance, invoice.currency),
                        currency=invoice.currency,
                        url=links.invoice(invoice.type, invoice.invoice_id, contact.short_code),
                    )
                    for invoice in contact.invoices
                ],
            )
            for contact in report.contacts
        ],
        near_misses=[
            NearMatch(
                id=contact.contact_id,
                name=contact.contact_name,
                organisation=contact.organisation_name,
                email=contact.email,
                as_typed=contact.as_typed,
                reason="one character off" if contact.is_one_edit_away else "same domain",
                invoices=contact.invoices,
                url=links.contact(contact.contact_id, contact.short_code),
            )
            for contact in report.near_matches
        ],
        pinned=[
            PinnedInvoice(
                id=pin.invoice_id,
                number=pin.number,
                type=pin.type,
                pinned_by=pin.pinned_by,
                pinned_at=pin.pinned_at,
            )
            for pin in report.pins
        ],
        pinned_only=report.shows_pinned_only,
        complete=report.is_complete,
    )


def match_reason(reason: Reason) -> MatchReason:
    """A reason as the API returns it."""
    return MatchReason(
        email=reason.email,
        email_domain=reason.email_domain,
        as_typed=reason.as_typed,
        contact_as_typed=reason.contact_as_typed,
        linked_by=reason.linked_by,
        **_match_path(reason.record_type, reason.record_id, reason),
    )


def _match_path(record_type: str, record_id: int, origin: Any) -> dict[str, Any]:
    company = RecordReference(type="company", id=origin.company_id) if origin.company_id is not None else None
    return {
        "record": RecordReference(type=RecordType(record_type).value, id=record_id),
        "name": origin.record_name,
        "company": company,
        "company_name": origin.company_name,
    }
