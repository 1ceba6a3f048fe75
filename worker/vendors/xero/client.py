"""A client of Xero's Accounting API for one organisation, and of its list of connections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

import requests
import structlog
from pydantic import BaseModel
from requests_oauthlib import OAuth2Session

from runtime.settings import settings
from store.accounts import refused_endpoints, xero_organisations
from store.accounts.xero_grants import Grant
from store.accounts.xero_organisations import Organisation
from store.db.database import current_time, transaction
from store.db.enums import CreditResource, OrganisationStatus
from worker.vendors.errors import (
    AuthorizationLostError,
    EndpointRefusedError,
    NotFoundError,
    TransientError,
    UnexpectedResponseError,
    VendorError,
)
from worker.vendors.http import NOT_MODIFIED, CallContext, call, parse_json, server_time, timeouts
from worker.vendors.parsing import ParseResult, parse_rows
from worker.vendors.rate_limit.budget import Budget, Priority
from worker.vendors.unreadable import ResponseSource, report_unreadable_response, report_unreadable_rows
from worker.vendors.xero import oauth, scopes
from worker.vendors.xero.schemas import (
    XeroConnection,
    XeroContact,
    XeroCredit,
    XeroCreditNote,
    XeroHistoryRecord,
    XeroInvoice,
    XeroOnlineInvoice,
    XeroOrganisation,
    XeroOverpayment,
    XeroPagination,
    XeroPrepayment,
)

log = structlog.get_logger()
IDS_PER_CALL = 40
PAGE_SIZE = 1_000
MISSING_SCOPE = "authorizationunsuccessful"
Schema = TypeVar("Schema", bound=BaseModel)


@dataclass(frozen=True)
class Page(Generic[Schema]):
    """The rows of one page, or of some ids, and when the first call for them began.

    `vendor_time` is Xero's own clock at the first response. `unreadable` has an error message by id for each row that
    could not be read. `received_count` counts the rows that Xero sent; `page_size` is how many a full page has.
    """

    items: list[Schema]
    fetched_at: datetime
    vendor_time: datetime | None = None
    page_count: int | None = None
    total: int | None = None
    unreadable: dict[str, str] = field(default_factory=dict)
    received_count: int = 0
    page_size: int = PAGE_SIZE

    def has_more(self, number: int) -> bool:
        """Whether a page follows page `number`; judged by the number of rows if Xero does not send a page count."""
        if not self.received_count:
            return False
        return number < self.page_count if self.page_count is not None else self.received_count >= self.page_size


@dataclass(frozen=True)
class CreditListing:
    """How Xero lists credits: the endpoint, the schema of a row, and the name of its id."""

    endpoint: str
    schema: type[XeroCredit]
    id_field: str


CREDIT_LISTINGS = {
    schema.resource: CreditListing(scopes.CREDIT_ENDPOINTS[schema.resource], schema, id_field)
    for schema, id_field in (
        (XeroCreditNote, "CreditNoteID"),
        (XeroPrepayment, "PrepaymentID"),
        (XeroOverpayment, "OverpaymentID"),
    )
}


class XeroClient:
    """Xero's API for one organisation of one account. Its calls are taken from the budget at one priority.

    A client is for one thread and one piece of work, of seconds: it reads the grant once, unless it is given, and keeps
    its token.
    """

    def __init__(self, organisation: Organisation, priority: Priority, grant: Grant | None = None) -> None:
        self.organisation = organisation
        self._grant = grant
        self._context = CallContext(Budget.for_xero(organisation), priority)
        self._http: OAuth2Session | None = None

    def _get(self, path: str, params: dict[str, str], headers: dict[str, str] | None = None) -> requests.Response:
        """Send one GET request; a token that Xero rejects is refreshed once.

        Marks the organisation if its connection is lost, and the endpoint if its scope is missing.
        """
        organisation, endpoint = self.organisation, _endpoint(path)
        if organisation.status == OrganisationStatus.NEEDS_REAUTH:
            raise _authorization_lost(organisation)
        if endpoint in organisation.refused_lately:
            raise self._missing_permission(endpoint)
        rejected_token: str | None = None
        for _ in range(2):
            http = self._authorised_session(rejected_token)
            response = self._send(http, path, params, headers or {})
            if _lacks_scope(response):
                raise self._mark_refused(endpoint)
            if response.status_code != 401:
                self._check_status(response)
                return response
            rejected_token = http.token["access_token"]
        raise VendorError("Xero rejects a token that it has just issued", 300)

    def _authorised_session(self, rejected_token: str | None) -> OAuth2Session:
        """The session with a valid token, which is not `rejected_token`."""
        organisation = self.organisation
        if self._http is None or rejected_token is not None or not oauth.is_token_valid(self._http.token):
            known_grant, self._grant = self._grant, None
            grant = oauth.get_valid_grant(
                organisation.account_id, organisation.grant_id, rejected_token=rejected_token, known_grant=known_grant
            )
            self._http = oauth.create_session(grant.token)
            self._http.headers["Xero-Tenant-Id"] = str(organisation.tenant_id)
        return self._http

    def _send(
        self, http: OAuth2Session, path: str, params: dict[str, str], headers: dict[str, str]
    ) -> requests.Response:
        url = f"{settings().xero_api_url}/api.xro/2.0/{path}"
        context = replace(self._context, counts_bytes=path != "Organisation")
        return call(lambda: http.get(url, params=params, headers=headers, timeout=timeouts(), stream=True), context)

    def _mark_refused(self, endpoint: str) -> EndpointRefusedError:
        organisation = self.organisation
        with transaction() as session:
            refused_endpoints.record(session, organisation.account_id, organisation.id, endpoint)
        log.warning(
            "endpoint.refused", account=organisation.account_id, organisation=organisation.id, endpoint=endpoint
        )
        return self._missing_permission(endpoint)

    def _missing_permission(self, endpoint: str) -> EndpointRefusedError:
        scope = scopes.required_scope(endpoint)
        message = f"Xero does not allow access to {endpoint} of {self.organisation.name}: {scope} is missing"
        return EndpointRefusedError(message, endpoint)

    def _check_status(self, response: requests.Response) -> None:
        if response.status_code == 403:
            organisation = self.organisation
            with transaction() as session:
                xero_organisations.set_status(
                    session,
                    organisation.account_id,
                    organisation.id,
                    OrganisationStatus.NEEDS_REAUTH,
                    grant_id=organisation.grant_id,
                )
            log.warning(
                "organisation.authorization_lost", account=organisation.account_id, organisation=organisation.id
            )
            raise _authorization_lost(organisation)
        if response.status_code >= 400:
            raise VendorError(f"Xero returned {response.status_code}")

    def _get_json(self, path: str, params: dict[str, str]) -> Any:
        return parse_json(self._get(path, params))

    def _source(self, resource: str) -> ResponseSource:
        return ResponseSource("xero", self.organisation.account_id, self.organisation.id, resource.lower())

    def _rows(self, payload: Any, resource: str, *, may_be_null: bool = True) -> list[Any]:
        """The rows of a response; raises `UnexpectedResponseError` if it has no list of them.

        Null is an empty list. But it does not prove that rows that were requested by id are deleted (`may_be_null`).
        """
        rows = payload.get(resource, "") if isinstance(payload, dict) else ""
        rows = [rows] if isinstance(rows, dict) else rows
        if not isinstance(rows, list) and not (rows is None and may_be_null):
            report_unreadable_response(self._source(resource))
            raise UnexpectedResponseError(f"Xero's response has no list of {resource}")
        return rows or []

    def _parse(
        self, schema: type[Schema], rows: list[Any], resource: str, id_field: str, vendor_time: datetime
    ) -> ParseResult[Schema]:
        result = parse_rows(schema, rows, id_field, vendor_time)
        report_unreadable_rows(result, self._source(resource))
        return result

    def probe(self, endpoint: str) -> None:
        """Make the smallest possible request to an endpoint; raises the error that the response stands for."""
        params = {} if endpoint == "Organisation" else {"page": "1", "pageSize": "1"}
        if endpoint in {"Invoices", "Contacts"}:
            params["summaryOnly"] = "true"
        self._get(endpoint, params)

    def get_organisation(self) -> XeroOrganisation:
        """The organisation's details; raises `UnexpectedResponseError` if there are none."""
        rows = self._rows(self._get_json("Organisation", {}), "Organisations")
        result = self._parse(XeroOrganisation, rows[:1], "Organisations", "OrganisationID", datetime.now(UTC))
        if not result.items:
            raise UnexpectedResponseError("Xero's response has no organisation")
        return result.items[0]

    def invoices_by_id(self, ids: Sequence[UUID]) -> Page[XeroInvoice]:
        """Those invoices of `ids` that exist, in any status, 40 per call."""
        return self._fetch_by_id("Invoices", XeroInvoice, "InvoiceID", ids, {"summaryOnly": "true"})

    def contacts_by_id(self, ids: Sequence[UUID]) -> Page[XeroContact]:
        """Those contacts of `ids` that exist, archived ones too, 40 per call."""
        return self._fetch_by_id("Contacts", XeroContact, "ContactID", ids, {"includeArchived": "true"})

    def _fetch_by_id(
        self, resource: str, schema: type[Schema], id_field: str, ids: Sequence[UUID], params: dict[str, str]
    ) -> Page[Schema]:
        page: Page[Schema] = Page([], current_time())
        unique_ids = sorted(set(ids))
        for start in range(0, len(unique_ids), IDS_PER_CALL):
            self._add_by_id(page, resource, schema, id_field, unique_ids[start : start + IDS_PER_CALL], params)
        return page

    def _add_by_id(
        self,
        page: Page[Schema],
        resource: str,
        schema: type[Schema],
        id_field: str,
        ids: Sequence[UUID],
        params: dict[str, str] | None,
    ) -> None:
        """Fetch at most 40 ids with one call, and add the rows to `page`.

        Without `params` there must be one id, which is fetched by its own path.

        A row without an id may be any of the missing ones, so these are then fetched individually: a row that comes
        back unreadable exists, and only an id without any row is deleted.
        """
        try:
            if params is None:
                response = self._get(f"{resource}/{ids[0]}", {})
            else:
                id_list = ",".join(map(str, ids))
                response = self._get(resource, {**params, "IDs": id_list, "page": "1", "pageSize": str(IDS_PER_CALL)})
        except NotFoundError:
            return
        try:
            rows = self._rows(parse_json(response), resource, may_be_null=False)
        except UnexpectedResponseError as error:
            page.unreadable.update({str(row_id): str(error) for row_id in ids})
            return
        result = self._parse(schema, rows, resource, id_field, server_time(response) or page.fetched_at)
        page.items.extend(result.items)
        page.unreadable.update(result.unreadable)
        if not result.unreadable_rows:
            return
        known_ids = _ids_of(result.items, schema, id_field)
        missing_ids = [row_id for row_id in ids if row_id not in known_ids and str(row_id) not in result.unreadable]
        if len(ids) == 1:
            page.unreadable.update({str(row_id): "could not be read: it has no id" for row_id in missing_ids})
            return
        for row_id in missing_ids:
            self._add_by_id(page, resource, schema, id_field, [row_id], params)

    def list_invoices(
        self, page_number: int, *, contact_ids: Sequence[UUID] = (), since: datetime | None = None
    ) -> Page[XeroInvoice]:
        """A page of all invoices, or of those of at most 40 contacts, or changed `since`, ordered by id.

        Ids do not change and invoices are never removed from any of these sets, so no row moves to a page that was
        already read. Invoices that change meanwhile are later than the cursor that is stored.
        """
        params = {"summaryOnly": "true", "order": "InvoiceID ASC"}
        if contact_ids:
            params["ContactIDs"] = ",".join(str(contact_id) for contact_id in contact_ids)
        return self._fetch_page("Invoices", XeroInvoice, "InvoiceID", page_number, params, since)

    def list_contacts(self, page_number: int, *, since: datetime | None = None) -> Page[XeroContact]:
        """A page of all contacts, or of those changed `since`, archived ones too, ordered by id."""
        params = {"includeArchived": "true", "order": "ContactID ASC"}
        return self._fetch_page("Contacts", XeroContact, "ContactID", page_number, params, since)

    def list_credits(
        self,
        resource: CreditResource,
        page_number: int,
        *,
        contact_id: UUID | None = None,
        since: datetime | None = None,
    ) -> Page[XeroCredit]:
        """A page of credits, of all contacts or of one, or of those changed `since`, ordered by id."""
        listing = CREDIT_LISTINGS[resource]
        params = {"order": f"{listing.id_field} ASC"}
        if contact_id:
            params["where"] = f'Contact.ContactID==Guid("{contact_id}")'
        return self._fetch_page(listing.endpoint, listing.schema, listing.id_field, page_number, params, since)

    def credits_by_id(self, resource: CreditResource, ids: Sequence[UUID]) -> Page[XeroCredit]:
        """Those credits of `ids` that exist, in any status. Each takes a call: Xero has no list of ids for credits."""
        listing = CREDIT_LISTINGS[resource]
        page: Page[XeroCredit] = Page([], current_time())
        for credit_id in sorted(set(ids)):
            self._add_by_id(page, listing.endpoint, listing.schema, listing.id_field, [credit_id], None)
        return page

    def oldest_history_time(self, invoice_id: UUID) -> datetime | None:
        """The time of the oldest entry in an invoice's history; None without entries."""
        try:
            payload = self._get_json(f"Invoices/{invoice_id}/History", {})
        except NotFoundError:
            return None
        try:
            rows = self._rows(payload, "HistoryRecords")
        except UnexpectedResponseError:
            return None
        entries = self._parse(XeroHistoryRecord, rows, "HistoryRecords", "", datetime.now(UTC)).items
        return min((entry.recorded_at for entry in entries if entry.recorded_at), default=None)

    def online_invoice_url(self, invoice_id: UUID) -> str:
        """The https address, on a host of Xero's, of the page where the customer sees a sales invoice and can pay it.

        It is a secret: do not log it. Raises `NotFoundError` if Xero does not have the invoice, `VendorError` for one
        without such a page (a draft, a bill), `UnexpectedResponseError` if Xero sends no such address.
        """
        rows = self._rows(self._get_json(f"Invoices/{invoice_id}/OnlineInvoice", {}), "OnlineInvoices")
        result = self._parse(XeroOnlineInvoice, rows[:1], "OnlineInvoices", "", datetime.now(UTC))
        if not result.items or not result.items[0].url:
            raise UnexpectedResponseError("Xero's response has no valid address of an online invoice")
        return result.items[0].url

    def _fetch_page(
        self,
        resource: str,
        schema: type[Schema],
        id_field: str,
        page_number: int,
        params: dict[str, str],
        since: datetime | None,
    ) -> Page[Schema]:
        began = current_time()
        headers = {"If-Modified-Since": f"{since.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"} if since else {}
        response = self._get(resource, {**params, "page": str(page_number), "pageSize": str(PAGE_SIZE)}, headers)
        vendor_time = server_time(response)
        if response.status_code == NOT_MODIFIED:
            return Page([], began, vendor_time)
        payload = parse_json(response)
        rows = self._rows(payload, resource)
        pagination = self._parse_pagination(payload, resource)
        if not rows and pagination.item_count:
            report_unreadable_response(self._source(resource))
            raise UnexpectedResponseError(f"Xero's response has none of {pagination.item_count} {resource}")
        result = self._parse(schema, rows, resource, id_field, vendor_time or began)
        return Page(
            result.items,
            began,
            vendor_time,
            pagination.page_count if pagination.page_count and pagination.page_count > 0 else None,
            pagination.item_count,
            result.unreadable,
            received_count=len(rows),
            page_size=min(pagination.page_size or PAGE_SIZE, PAGE_SIZE),
        )

    def _parse_pagination(self, payload: dict[str, Any], resource: str) -> XeroPagination:
        rows = [payload["pagination"]] if payload.get("pagination") is not None else []
        parsed = self._parse(XeroPagination, rows, f"pages of {resource}", "", datetime.now(UTC)).items
        return parsed[0] if parsed else XeroPagination()


def _authorization_lost(organisation: Organisation) -> AuthorizationLostError:
    return AuthorizationLostError(f"{organisation.name} was disconnected inside Xero: an admin must reconnect it")


def _ids_of(items: Sequence[BaseModel], schema: type[BaseModel], id_field: str) -> set[UUID]:
    name = next(name for name, info in schema.model_fields.items() if info.alias == id_field)
    return {getattr(item, name) for item in items}


def _endpoint(path: str) -> str:
    """The endpoint of a path, which a scope gives access to: `Invoices`, `Invoices/History`."""
    parts = path.split("/")
    return parts[0] if len(parts) < 3 else f"{parts[0]}/{parts[2]}"


def _lacks_scope(response: requests.Response) -> bool:
    """Whether the token is valid, but lacks a scope: 401 or 403 with the Detail `AuthorizationUnsuccessful`."""
    if response.status_code not in {401, 403}:
        return False
    try:
        detail = parse_json(response).get("Detail")
    except (TransientError, AttributeError):
        return False
    return isinstance(detail, str) and MISSING_SCOPE in detail.lower()


def list_connections(token: dict[str, Any], auth_event_id: str | None = None) -> list[XeroConnection]:
    """The organisations that a token's user has connected; only those of one authorisation if it is given.

    Accountants' practices are left out. Xero may ignore the parameter, so the response is filtered here too.
    """
    http = oauth.create_session(token)
    params = {"authEventId": auth_event_id} if auth_event_id else {}
    url = f"{settings().xero_api_url}/connections"
    response = call(lambda: http.get(url, params=params, timeout=timeouts(), stream=True))
    if response.status_code != 200:
        raise VendorError(f"Xero returned {response.status_code} for the list of connections")
    payload = parse_json(response)
    if not isinstance(payload, list):
        raise UnexpectedResponseError("Xero's list of connections could not be read")
    result = parse_rows(XeroConnection, payload, "id")
    report_unreadable_rows(result, ResponseSource("xero", 0, 0, "connections"))
    return [
        connection
        for connection in result.items
        if connection.is_organisation
        and (auth_event_id is None or (connection.auth_event_id or auth_event_id).lower() == auth_event_id)
    ]


def disconnect(token: dict[str, Any], connection_id: UUID) -> None:
    """Delete one organisation's connection; does nothing if it does not exist."""
    http = oauth.create_session(token)
    url = f"{settings().xero_api_url}/connections/{connection_id}"
    try:
        response = call(lambda: http.delete(url, timeout=timeouts(), stream=True))
    except NotFoundError:
        return
    if response.status_code >= 400:
        raise VendorError(f"Xero returned {response.status_code} for the disconnection")
