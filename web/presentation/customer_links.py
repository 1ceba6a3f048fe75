"""Customer links for the panel and the API: one call to Xero, within the limits of the process and of the viewer."""

from __future__ import annotations

import math
from uuid import UUID

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from services import customer_links
from services.customer_links import CustomerLinkError, LinkFailure
from store.db.enums import RecordType
from store.read_model.online_invoices import OnlineInvoice
from web.auth import rate_limits
from web.presentation.problems import ProblemError
from web.state import web_state
from worker.vendors import http

STATUSES = {
    LinkFailure.NOT_ON_RECORD: 404,
    LinkFailure.NOT_IN_XERO: 404,
    LinkFailure.NOT_A_SALE: 409,
    LinkFailure.DRAFT: 409,
    LinkFailure.DISCONNECTED: 502,
    LinkFailure.NOT_PERMITTED: 502,
    LinkFailure.REFUSED: 502,
    LinkFailure.OUT_OF_CALLS: 503,
    LinkFailure.XERO_UNAVAILABLE: 503,
}


async def get_customer_link(
    request: Request, account_id: int, viewer: str, record_type: RecordType, record_id: int, invoice_id: UUID
) -> str:
    """The customer link of an invoice on a record; only an invoice whose link is not known yet costs a call.

    `viewer` tells apart those whose calls are limited. Raises `ProblemError` if there is no link.
    """
    capacity = web_state(request).capacity
    try:
        invoice = await capacity.panel.run(
            account_id, customer_links.find_invoice, account_id, record_type, record_id, invoice_id
        )
        if invoice.url:
            return invoice.url
        await run_in_threadpool(rate_limits.limit_customer_links, viewer)
        return await capacity.vendors.run(account_id, _fetch_interactively, account_id, invoice)
    except CustomerLinkError as error:
        raise link_problem(error) from None


def _fetch_interactively(account_id: int, invoice: OnlineInvoice) -> str:
    with http.interactive():
        return customer_links.fetch_link(account_id, invoice)


def link_problem(error: CustomerLinkError) -> ProblemError:
    """The error response for an invoice without a customer link."""
    retry_after = None if error.retry_after is None else max(1, math.ceil(error.retry_after))
    return ProblemError(STATUSES[error.failure], str(error), retry_after=retry_after)
