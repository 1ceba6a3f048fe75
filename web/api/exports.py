"""Exports by API key: a record's rows, all rows of the account, and what matches nothing."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from web.api.record_paths import RecordId, RecordTypePath, parse_record_type
from web.auth.api_keys import BEARER_SECURITY, AdminCaller, ReadCaller
from web.presentation import exports
from web.presentation.exports import ExportFormat
from web.presentation.problems import NO_SUCH_RECORD_TYPE, WRONG_SCOPE, problem_responses

router = APIRouter(prefix="/v1")


def _file_response(*media_types: str) -> dict[str, Any]:
    return {
        "description": "the rows",
        "content": {media_type: {"schema": {"type": "string"}} for media_type in media_types},
    }


@router.get(
    "/unmatched.csv",
    tags=["unmatched"],
    response_class=Response,
    responses={200: _file_response("text/csv"), **problem_responses(_403=WRONG_SCOPE)},
    summary="Unmatched contacts or records",
    openapi_extra=BEARER_SECURITY,
)
async def unmatched(
    request: Request,
    caller: AdminCaller,
    of: Annotated[
        Literal["contacts", "records"],
        Query(
            description="contacts: Xero contacts with sales invoices and no matching record;"
            " records: Copper records with no matching contact"
        ),
    ] = "contacts",
) -> Response:
    """Xero contacts with sales invoices that match no record, by open balance; or records that match no contact."""
    if of == "contacts":
        return await exports.export_unmatched_contacts(request, caller.account_id, caller.name, "csv")
    return await exports.export_unmatched_records(request, caller.account_id, caller.name, "csv")


@router.get(
    "/invoices.{format}",
    tags=["exports"],
    response_class=Response,
    responses={200: _file_response("text/csv", "application/x-ndjson"), **problem_responses(_403=WRONG_SCOPE)},
    summary="All rows of the account",
    openapi_extra=BEARER_SECURITY,
)
async def export_account(request: Request, caller: AdminCaller, format: ExportFormat) -> Response:
    """The invoices of every record, as CSV or JSON Lines."""
    return await exports.export_invoices(request, caller.account_id, caller.name, format)


@router.get(
    "/{type}/{id}/invoices.{format}",
    tags=["exports"],
    response_class=Response,
    responses={200: _file_response("text/csv", "application/x-ndjson"), **problem_responses(_404=NO_SUCH_RECORD_TYPE)},
    summary="All rows of a record",
    openapi_extra=BEARER_SECURITY,
)
async def export_record(
    request: Request, caller: ReadCaller, type: RecordTypePath, id: RecordId, format: ExportFormat
) -> Response:
    """A record's invoices, newest first, as CSV or JSON Lines."""
    record_type = parse_record_type(type)
    return await exports.export_invoices(request, caller.account_id, caller.name, format, record_type, id)
