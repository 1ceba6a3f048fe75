"""The writes of Copper's developer API: definitions of custom fields, single records, and bulk updates."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sandbox.copper_api import parse_object, problem, records_response
from sandbox.copper_changes import RecordChanges, set_custom_values
from sandbox.copper_records import record_json
from sandbox.custom_fields import (
    CustomFieldError,
    DefinitionChange,
    DefinitionLimitError,
    FieldValue,
    NewDefinition,
    change_definition,
    checked_values,
    create_definition,
    definition_json,
)
from sandbox.limits import RateLimiter
from sandbox.world import PLURALS, CopperAccount, Record, User

BULK_PLURALS = ("people", "leads")
# orjson writes no larger integers.
MAX_ID = 2**63 - 1


class RecordChange(BaseModel):
    """The body of `PUT /{type}/{id}`: what it does not name stays as it is."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field("", min_length=1)
    custom_fields: list[FieldValue] = Field(default_factory=list)


class WriteRefusedError(Exception):
    """The account's rules refuse all writes of this record."""


class CopperWrites:
    """The writes of the sandbox's Copper accounts."""

    def __init__(self, changes: RecordChanges, limiter: RateLimiter) -> None:
        self._changes = changes
        self._limiter = limiter

    async def create_definition(self, account: CopperAccount, _: User, request: Request) -> Response:
        """`POST /custom_field_definitions`; 403 if the account's plan allows no more."""
        new = NewDefinition.model_validate_json(await request.body())
        try:
            return JSONResponse(definition_json(create_definition(account, new)))
        except DefinitionLimitError as error:
            return problem(403, str(error))

    async def change_definition(self, account: CopperAccount, _: User, request: Request) -> Response:
        """`PUT /custom_field_definitions/{id}`."""
        definition = account.custom_fields.get(request.path_params["id"])
        if definition is None:
            return problem(404, "Resource not found")
        change_definition(account, definition, DefinitionChange.model_validate_json(await request.body()))
        return JSONResponse(definition_json(definition))

    async def update(self, account: CopperAccount, _: User, request: Request) -> Response:
        """`PUT /{type}/{id}`: returns the record."""
        record = account.records[PLURALS[request.path_params["plural"]]].get(request.path_params["id"])
        if record is None:
            return problem(404, "Resource not found")
        change = RecordChange.model_validate_json(await request.body())
        try:
            self._apply(account, record, change)
        except WriteRefusedError as error:
            return problem(422, str(error))
        return records_response(record_json(record, account))

    def _apply(self, account: CopperAccount, record: Record, change: RecordChange) -> None:
        """Change a record; what changes nothing sends no notification."""
        refusal = account.write_rules.refused_writes[record.type].get(record.id)
        if refusal is not None:
            raise WriteRefusedError(refusal)
        changed = set_custom_values(account, record, checked_values(account, record.type, change.custom_fields))
        if "name" in change.model_fields_set and change.name != record.name:
            changed["name"] = [record.name, change.name]
            record.name = change.name
        if changed:
            self._changes.updated(account, record, changed)

    async def bulk_update(self, account: CopperAccount, _: User, request: Request) -> Response:
        """`POST /{type}/bulk_update`: the records in the order of the request, or what is wrong with each."""
        plural = request.path_params["plural"]
        if plural not in BULK_PLURALS and not account.write_rules.bulk_for_all_types:
            return problem(404, "Resource not found")
        if not self._limiter.allow_copper_bulk(str(account.id)):
            return problem(429, "Too many requests")
        body = parse_object(await request.body())
        items = body.get(plural)
        if len(body) != 1 or not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            return problem(422, f"Invalid input: the body must have a list of {plural}, and nothing else")
        limit = account.write_rules.bulk_size
        if len(items) > limit:
            return JSONResponse({"error": f"Request size too large, limit is {limit}"}, 422)
        records = account.records[PLURALS[plural]]
        return records_response([self._bulk_item(account, records, item) for item in items])

    def _bulk_item(self, account: CopperAccount, records: dict[int, Record], item: dict[str, Any]) -> dict[str, Any]:
        record_id = item.get("id")
        record_id = record_id if type(record_id) is int and abs(record_id) <= MAX_ID else None
        record = records.get(record_id or 0)
        if record is None:
            return _failure(record_id, "id", "not found")
        try:
            values = {key: value for key, value in item.items() if key != "id"}
            self._apply(account, record, RecordChange.model_validate(values))
        except ValidationError as error:
            return _failure(record_id, str(error.errors()[0]["loc"][0]), "invalid")
        except CustomFieldError:
            return _failure(record_id, "custom_fields", "invalid")
        except WriteRefusedError as error:
            return _failure(record_id, "custom_fields", str(error))
        return record_json(record, account)


def _failure(record_id: int | None, key: str, error: str) -> dict[str, Any]:
    return {"success": False, "message": {key: [{"error": error}]}, "id": record_id}
