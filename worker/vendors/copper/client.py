"""A client of Copper's Developer API with an account's API key or a user's token."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

import orjson
import requests
import structlog
from pydantic import BaseModel

from runtime.logs import scrub
from runtime.settings import settings
from store.accounts import copper_credentials, refused_endpoints
from store.accounts.copper_credentials import CopperCredentials
from store.accounts.refused_endpoints import Refusal
from store.db.database import current_time, transaction
from store.db.enums import GrantStatus, RecordType
from store.mirror.rows import RelationRow
from worker.vendors.copper.schemas import (
    RECORD_SCHEMAS,
    CopperAccount,
    CopperFieldDefinition,
    CopperRecord,
    CopperRelatedRecord,
    CopperSubscription,
    CopperUser,
)
from worker.vendors.errors import (
    AuthorizationLostError,
    EndpointRefusedError,
    InvalidRequestError,
    NotFoundError,
    UnexpectedResponseError,
    UnsupportedFilterError,
    VendorError,
)
from worker.vendors.http import CallContext, CallCounter, call, configure_session, parse_json, server_time, timeouts
from worker.vendors.parsing import ParseResult, parse_integer, parse_rows
from worker.vendors.rate_limit.budget import Budget, Priority
from worker.vendors.unreadable import ResponseSource, report_unreadable_response, report_unreadable_rows

log = structlog.get_logger()
PAGE_SIZE = 200
MAX_USER_PAGES = 20
Schema = TypeVar("Schema", bound=BaseModel)
KEY_REJECTED = "Copper rejects the API key: an admin must provide a new one"
MODIFIED_FILTER = "minimum_modified_date"
FIELD_DEFINITIONS = "custom_field_definitions"
FIELD_CHANGES = "custom_field_definitions (changes)"
FIELD_ENDPOINTS = "custom_field"
"""How the names of all endpoints of custom fields begin."""
BULK_TYPES = frozenset({RecordType.PERSON, RecordType.LEAD})
"""The types of records for which Copper documents `bulk_update`."""
BULK_SIZE = 10
# Copper allows three calls of bulk_update a second, and a few more hold the others up (Copper docs: bulk update).
BULK_INTERVAL_SECONDS = 0.34
MAX_MESSAGE_LENGTH = 200
CustomValues = Mapping[int, Decimal | str | None]
"""The values of custom fields by the ids of their definitions; None empties a field."""
# Endpoints that are always read completely, or store no rows, so nothing has to be read again after a refusal.
ENDPOINTS_WITHOUT_ROWS = ("account", "users", "webhooks", FIELD_ENDPOINTS)


def client_for_account(account_id: int, priority: Priority) -> CopperClient:
    """A client with the account's API key; raises `AuthorizationLostError` if Copper has rejected that key."""
    with transaction() as session:
        connection = copper_credentials.find_connection(session, account_id)
        credentials = copper_credentials.get(session, account_id)
        refusals = refused_endpoints.list_refusals(session, account_id, refused_endpoints.COPPER)
    if connection is not None and connection.needs_reauth:
        raise AuthorizationLostError(KEY_REJECTED)
    client = CopperClient.with_api_key(credentials, CallContext(Budget.for_copper(account_id), priority))
    synced_through = connection.records_synced_through if connection is not None else None
    client.owner = KeyOwner(account_id, credentials, tuple(refusals), synced_through)
    return client


@dataclass(frozen=True)
class KeyOwner:
    """The account whose key a client uses, the endpoints that Copper has refused to it, and its records' watermark."""

    account_id: int
    credentials: CopperCredentials
    refusals: tuple[Refusal, ...]
    records_synced_through: datetime | None = None

    def is_refused(self, endpoint: str, parameter: str = "") -> bool:
        """Whether Copper has refused the endpoint so recently that it is not called again."""
        return any(
            (refusal.endpoint, refusal.parameter) == (endpoint, parameter)
            and refusal.age < refused_endpoints.COPPER_TRUST_SECONDS
            for refusal in self.refusals
        )

    def was_refused(self, endpoint: str) -> bool:
        """Whether Copper refused the endpoint at the last attempt, however long ago: its rows are not up to date."""
        return any((refusal.endpoint, refusal.parameter) == (endpoint, "") for refusal in self.refusals)


@dataclass(frozen=True)
class RecordPage:
    """Records of one page, or of some ids, ids of deleted records, and an error message by id for unreadable records.

    `received_count` counts the records that Copper sent; `vendor_time` is Copper's own clock at the first response.
    """

    items: list[CopperRecord]
    fetched_at: datetime
    deleted_ids: list[int] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    total: int | None = None
    received_count: int = 0
    vendor_time: datetime | None = None


class CopperClient:
    """Copper's API for the holder of one API key or token.

    Every call is counted: by a budget, or by a counter while it is unknown whose key it is. Refusals are stored for the
    `owner`.
    """

    def __init__(self, headers: dict[str, str], context: CallContext | CallCounter) -> None:
        self._context = context
        self.owner: KeyOwner | None = None
        self._http = configure_session(requests.Session())
        self._http.headers.update({**headers, "Content-Type": "application/json"})

    @classmethod
    def with_api_key(cls, credentials: CopperCredentials, context: CallContext | CallCounter) -> CopperClient:
        """A client with an account's API key."""
        headers = {
            "X-PW-AccessToken": credentials.api_key,
            "X-PW-Application": "developer_api",
            "X-PW-UserEmail": credentials.email,
        }
        return cls(headers, context)

    @classmethod
    def with_token(cls, token: str, context: CallContext | CallCounter) -> CopperClient:
        """A client with a user's OAuth token, to identify the user."""
        return cls({"Authorization": f"Bearer {token}"}, context)

    def use_budget(self, context: CallContext) -> None:
        """Take further calls from an account's budget, once it is known whose key this is."""
        self._context = context

    def _request(self, method: str, path: str, body: Any = None, *, endpoint: str) -> requests.Response:
        """Send one request; raises `EndpointRefusedError` if the key is valid but may not use `endpoint`.

        Copper returns 401 (and 403) for an invalid key as well as for what the plan or the role does not include. So
        the key is only invalid if `GET /users/me` is refused too.
        """
        if self.owner is not None and self.owner.is_refused(endpoint):
            raise _endpoint_refused(endpoint)
        response = self._send(method, path, body)
        if response.status_code in {401, 403}:
            if path == "users/me" or self._send("GET", "users/me").status_code in {401, 403}:
                self._mark_authorization_lost()
                raise AuthorizationLostError(KEY_REJECTED)
            raise self._mark_refused(endpoint, _message(response))
        if response.status_code in {400, 422}:
            message = f"Copper returned {response.status_code} for {method} {path.split('/')[0]}"
            raise InvalidRequestError(message, _message(response))
        if response.status_code >= 400:
            raise VendorError(f"Copper returned {response.status_code} for {method} {path.split('/')[0]}")
        if self.owner is not None and self.owner.was_refused(endpoint) and endpoint.startswith(ENDPOINTS_WITHOUT_ROWS):
            with transaction() as session:
                refused_endpoints.clear(session, self.owner.account_id, refused_endpoints.COPPER, endpoint)
        return response

    def _send(self, method: str, path: str, body: Any = None) -> requests.Response:
        url = f"{settings().copper_api_url}/{path}"
        data = orjson.dumps(body, default=_exact_number) if body is not None else None
        return call(lambda: self._http.request(method, url, data=data, timeout=timeouts(), stream=True), self._context)

    def _mark_authorization_lost(self) -> None:
        if self.owner is not None:
            with transaction() as session:
                copper_credentials.set_status(
                    session, self.owner.account_id, GrantStatus.NEEDS_REAUTH, self.owner.credentials
                )
            log.warning("copper.authorization_lost", account=self.owner.account_id)

    def _mark_refused(self, endpoint: str, detail: str = "") -> EndpointRefusedError:
        # The refusal of a single record does not apply to its endpoint.
        if self.owner is not None and not endpoint.endswith("{id}"):
            with transaction() as session:
                refused_endpoints.record(session, self.owner.account_id, refused_endpoints.COPPER, endpoint)
            log.warning("endpoint.refused", account=self.owner.account_id, endpoint=endpoint)
        return _endpoint_refused(endpoint, detail)

    def _source(self, resource: str) -> ResponseSource:
        return ResponseSource("copper", self.owner.account_id if self.owner is not None else 0, 0, resource)

    def _rows(self, response: requests.Response, resource: str) -> list[Any]:
        """The rows of a response; raises `UnexpectedResponseError` if it is not a list of them."""
        payload = parse_json(response)
        if isinstance(payload, dict) and "id" in payload:
            return [payload]
        if not isinstance(payload, list):
            report_unreadable_response(self._source(resource))
            raise UnexpectedResponseError(f"Copper's response has no list of {resource}")
        return payload

    def _parse(
        self, schema: type[Schema], rows: list[Any], resource: str, vendor_time: datetime | None = None
    ) -> ParseResult[Schema]:
        result = parse_rows(schema, rows, "id", vendor_time)
        report_unreadable_rows(result, self._source(resource))
        return result

    def _get_object(self, schema: type[Schema], path: str, resource: str, *, endpoint: str) -> Schema:
        payload = parse_json(self._request("GET", path, endpoint=endpoint))
        items = self._parse(schema, [payload], resource).items
        if not items:
            raise UnexpectedResponseError(f"Copper's {resource} could not be read")
        return items[0]

    def get_account(self) -> CopperAccount:
        """The account that the key belongs to."""
        return self._get_object(CopperAccount, "account", "account", endpoint="account")

    def get_current_user(self) -> CopperUser:
        """The user that the key or token belongs to; raises `AuthorizationLostError` if it is invalid."""
        return self._get_object(CopperUser, "users/me", "user", endpoint="users/me")

    def get_user(self, user_id: int) -> CopperUser:
        """A user of the account, with their teams; raises `NotFoundError` if there is no such user."""
        return self._get_object(CopperUser, f"users/{user_id}", "user", endpoint="users/{id}")

    def list_users(self) -> list[CopperUser]:
        """The account's users with their teams, at most 4,000."""
        users: list[CopperUser] = []
        for page_number in range(1, MAX_USER_PAGES + 1):
            body = {"page_number": page_number, "page_size": PAGE_SIZE}
            rows = self._rows(self._request("POST", "users/search", body, endpoint="users/search"), "users")
            users += self._parse(CopperUser, rows, "users").items
            if len(rows) < PAGE_SIZE:
                break
        return users

    def list_records(
        self,
        record_type: RecordType,
        page_number: int = 1,
        *,
        created_from: int | None = None,
        modified_from: datetime | None = None,
        company_ids: Sequence[int] = (),
    ) -> RecordPage:
        """A page of 200 records, oldest first, of those created from `created_from` and modified from `modified_from`.

        The caller advances `created_from` instead of counting pages (`page_number` counts within one second). So a
        deleted record moves no other to a page that was already read, and a search never has more than 100,000 results.
        """
        body: dict[str, Any] = {
            "page_number": page_number,
            "page_size": PAGE_SIZE,
            "sort_by": "date_created",
            "sort_direction": "asc",
        }
        if created_from is not None:
            body["minimum_created_date"] = created_from
        if modified_from is not None:
            body[MODIFIED_FILTER] = int(modified_from.timestamp())
        if company_ids:
            body["company_ids"] = list(company_ids)
        try:
            page = self._search(record_type, body)
        except InvalidRequestError as error:
            if modified_from is None:
                raise
            raise UnsupportedFilterError(str(error)) from None
        if modified_from is not None and _has_older(page.items, modified_from):
            raise UnsupportedFilterError(f"Copper ignores {MODIFIED_FILTER}")
        return page

    def list_recently_modified(self, record_type: RecordType, page_number: int) -> RecordPage:
        """A page of 200 records, the last modified first."""
        body = {
            "page_number": page_number,
            "page_size": PAGE_SIZE,
            "sort_by": "date_modified",
            "sort_direction": "desc",
        }
        return self._search(record_type, body)

    def refuses_modified_filter(self, record_type: RecordType) -> bool:
        """Whether Copper has recently refused a search by modification date."""
        return self.owner is not None and self.owner.is_refused(record_type.plural, MODIFIED_FILTER)

    def _search(self, record_type: RecordType, body: dict[str, Any]) -> RecordPage:
        """Search once. A 404 means that the account does not have the feature (leads)."""
        resource, began = record_type.plural, current_time()
        try:
            response = self._request("POST", f"{resource}/search", body, endpoint=resource)
        except NotFoundError:
            raise self._mark_refused(resource) from None
        rows, vendor_time = self._rows(response, resource), server_time(response)
        result = self._parse(RECORD_SCHEMAS[record_type], rows, resource, vendor_time or began)
        return RecordPage(
            result.items,
            began,
            unreadable=result.unreadable,
            total=_total(response),
            received_count=len(rows),
            vendor_time=vendor_time,
        )

    def records_by_id(self, record_type: RecordType, ids: Sequence[int]) -> RecordPage:
        """The current state of `ids`, 200 per call; an id that the search leaves out is fetched individually.

        A search may not contain a record that was just created yet: only a 404 means that a record is deleted.
        """
        page = RecordPage([], current_time())
        unique_ids = sorted(set(ids))
        for start in range(0, len(unique_ids), PAGE_SIZE):
            chunk = unique_ids[start : start + PAGE_SIZE]
            try:
                search_result = self._search(record_type, {"ids": chunk, "page_size": PAGE_SIZE})
            except UnexpectedResponseError as error:
                page.unreadable.update({str(record_id): str(error) for record_id in chunk})
                continue
            page.items.extend(search_result.items)
            page.unreadable.update(search_result.unreadable)
        known_ids = {record.id for record in page.items}
        for record_id in unique_ids:
            if record_id not in known_ids and str(record_id) not in page.unreadable:
                self._add_record(page, record_type, record_id)
        return page

    def _add_record(self, page: RecordPage, record_type: RecordType, record_id: int) -> None:
        resource = record_type.plural
        try:
            response = self._request("GET", f"{resource}/{record_id}", endpoint=f"{resource}/{{id}}")
        except NotFoundError:
            page.deleted_ids.append(record_id)
            return
        except EndpointRefusedError as error:
            # The key's owner may not see this record, which does not mean that it is deleted.
            page.unreadable[str(record_id)] = str(error)
            return
        vendor_time = server_time(response) or page.fetched_at
        result = self._parse(RECORD_SCHEMAS[record_type], [parse_json(response)], resource, vendor_time)
        page.items.extend(result.items)
        if result.unreadable_rows:
            page.unreadable[str(record_id)] = "could not be read: it has no id"

    def list_relations(self, opportunity_id: int) -> list[RelationRow] | None:
        """The people and companies related to an opportunity; None if it is deleted.

        Raises `UnexpectedResponseError` if Copper's response is not a list.
        """
        try:
            path = f"opportunities/{opportunity_id}/related"
            response = self._request("GET", path, endpoint="opportunities/related")
        except NotFoundError:
            return None
        related = self._parse(CopperRelatedRecord, self._rows(response, "relations"), "relations").items
        return [row for record in related if (row := record.to_row())]

    def list_field_definitions(self) -> list[CopperFieldDefinition]:
        """The definitions of all custom fields of the account."""
        rows = self._rows(self._request("GET", FIELD_DEFINITIONS, endpoint=FIELD_DEFINITIONS), "custom fields")
        return self._parse(CopperFieldDefinition, rows, "custom fields").items

    def create_field_definition(self, definition: Mapping[str, Any]) -> CopperFieldDefinition:
        """Create a custom field. A refusal has Copper's reason as its detail, a limit of the plan for instance."""
        response = self._request("POST", FIELD_DEFINITIONS, definition, endpoint=FIELD_CHANGES)
        items = self._parse(CopperFieldDefinition, [parse_json(response)], "custom fields").items
        if not items:
            raise UnexpectedResponseError("Copper's new custom field could not be read")
        return items[0]

    def extend_field_definition(self, definition_id: int, record_types: Sequence[str]) -> None:
        """Make a custom field available on these types of records."""
        path = f"{FIELD_DEFINITIONS}/{definition_id}"
        self._request("PUT", path, {"available_on": list(record_types)}, endpoint=FIELD_CHANGES)

    def write_fields(self, record_type: RecordType, record_id: int, values: CustomValues) -> None:
        """Change some custom fields of a record; raises `NotFoundError` if there is no such record."""
        path, endpoint = f"{record_type.plural}/{record_id}", _field_endpoint(record_type)
        self._request("PUT", path, {"custom_fields": _custom_fields(values)}, endpoint=endpoint)

    def write_fields_in_bulk(
        self, record_type: RecordType, values_by_record: Mapping[int, CustomValues]
    ) -> dict[int, str | None]:
        """Change custom fields of some records with one call: Copper's reason by record id, None where it succeeded.

        Raises `NotFoundError` if Copper has no such call for this type of records.
        """
        plural = record_type.plural
        rows = [
            {"id": record_id, "custom_fields": _custom_fields(values)} for record_id, values in values_by_record.items()
        ]
        response = self._request("POST", f"{plural}/bulk_update", {plural: rows}, endpoint=_field_endpoint(record_type))
        answers = {
            answer["id"]: error_text(answer) or "Copper gave no reason" if answer.get("success") is False else None
            for answer in self._rows(response, plural)
            if isinstance(answer, dict) and isinstance(answer.get("id"), int)
        }
        return {
            record_id: answers.get(record_id, "Copper did not mention this record") for record_id in values_by_record
        }

    def list_subscriptions(self) -> list[CopperSubscription]:
        """All webhook subscriptions of this key, including those of other applications."""
        rows = self._rows(self._request("GET", "webhooks", endpoint="webhooks"), "webhooks")
        return self._parse(CopperSubscription, rows, "webhooks").items

    def subscribe(self, target: str, category: str, event_type: str, secret: dict[str, str]) -> None:
        """Create one webhook subscription."""
        body = {"target": target, "type": category, "event": event_type, "secret": secret}
        self._request("POST", "webhooks", body, endpoint=f"webhooks/{category}")

    def unsubscribe(self, subscription_id: int) -> None:
        """Delete one webhook subscription; does nothing if it does not exist."""
        try:
            self._request("DELETE", f"webhooks/{subscription_id}", endpoint="webhooks")
        except NotFoundError:
            return


def _field_endpoint(record_type: RecordType) -> str:
    # That one record may not be changed says nothing about others.
    return f"custom_fields of {record_type.plural}/{{id}}"


def _custom_fields(values: CustomValues) -> list[dict[str, Any]]:
    return [{"custom_field_definition_id": key, "value": value} for key, value in values.items()]


def _exact_number(value: object) -> orjson.Fragment:
    """A decimal number with all its digits."""
    if isinstance(value, Decimal):
        return orjson.Fragment(f"{value:f}")
    raise TypeError(type(value).__name__)


def teams_of(users: Collection[CopperUser]) -> dict[int, str]:
    """The names of the users' teams by id. Copper has no endpoint that lists teams."""
    return {team.id: team.name for user in users for team in user.teams}


def _endpoint_refused(endpoint: str, detail: str = "") -> EndpointRefusedError:
    return EndpointRefusedError(f"Copper accepts the API key, but refuses {endpoint} to it", endpoint, detail)


def _message(response: requests.Response) -> str:
    """Copper's own words in an error response, '' if it gives none."""
    try:
        payload = parse_json(response)
    except VendorError:
        return ""
    return error_text(payload)


def error_text(payload: object) -> str:
    """What an error object says, in a line without personal data, at most 200 characters."""
    message = (payload.get("message") or payload.get("error")) if isinstance(payload, dict) else None
    text = message if isinstance(message, str) else json.dumps(message, default=str) if message else ""
    return scrub(" ".join("".join(c if c.isprintable() else " " for c in text).split()))[:MAX_MESSAGE_LENGTH]


def _has_older(records: Sequence[CopperRecord], since: datetime) -> bool:
    """Whether a search returned records that were modified before the requested time, in whole seconds."""
    second = int(since.timestamp())
    return any(record.updated_at and int(record.updated_at.timestamp()) < second for record in records)


def _total(response: requests.Response) -> int | None:
    try:
        return parse_integer(response.headers.get("X-PW-TOTAL"))
    except ValueError:
        return None
