"""`POST /v1/{type}/{id}/invoices/{invoice_id}/customer-link`: the address at which the customer sees an invoice."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from web.api.record_paths import RecordId, RecordTypePath, parse_record_type
from web.auth.api_keys import BEARER_SECURITY, AdminCaller
from web.presentation.customer_links import get_customer_link
from web.presentation.problems import WRONG_SCOPE, problem_responses

router = APIRouter(prefix="/v1")


class CustomerLinkSchema(BaseModel):
    """The address at which the customer sees an invoice in Xero, without signing in."""

    url: str = Field(description="whoever has it can see the invoice and pay it: do not log it")


@router.post(
    "/{type}/{id}/invoices/{invoice_id}/customer-link",
    tags=["invoices"],
    response_model=CustomerLinkSchema,
    responses=problem_responses(
        _403=WRONG_SCOPE,
        _404="no such record type, or the invoice is not on this record or no longer in Xero",
        _409="the invoice is not a sales invoice, or is a draft",
        _502="Xero is disconnected, or gave no link for this invoice",
        _503="Patina is busy, or Xero is unavailable or allows no more calls; see Retry-After",
    ),
    summary="The link for the customer",
    openapi_extra=BEARER_SECURITY,
)
async def create_customer_link(
    request: Request, caller: AdminCaller, type: RecordTypePath, id: RecordId, invoice_id: UUID
) -> CustomerLinkSchema:
    """The link of a sales invoice of a record. The first request for an invoice takes one call from Xero's limits."""
    viewer = f"{caller.account_id} {caller.prefix}"
    url = await get_customer_link(request, caller.account_id, viewer, parse_record_type(type), id, invoice_id)
    return CustomerLinkSchema(url=url)
