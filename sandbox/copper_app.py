"""Copper's web app, as far as an embedded app needs it: lists, record pages, and the embedded app in a frame.

A saved list, "Xero overdue", has the people or companies of which a field with a key of `OVERDUE_PREFIX` is above 0.

The page implements the parent's side of the App SDK's messages (copper-sdk 0.9.1). Its visitor is signed in as the
account's first user.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from sandbox.copper_records import STAGES, custom_fields_of, record_json, related_to
from sandbox.copper_search import CustomFieldFilter, Search, matcher
from sandbox.custom_fields import NUMBER_TYPES, computed_value
from sandbox.world import RECORD_TYPES, CopperAccount, CustomField, Record, User, World

PAGES_DIR = Path(__file__).resolve().parent / "pages"
BASE = "/copper/companies/{account:int}"
API = "/copper/developer_api/v1"
FILES = {
    "app.js": "text/javascript",
    "views.js": "text/javascript",
    "sdk.js": "text/javascript",
    "copper_app.css": "text/css",
}
PAGE_SIZE, MAX_PAGES = 50, 1_000
OVERDUE_PREFIX = "patina_xero_overdue_"
OVERDUE_TYPES = ("person", "company")
# The bounds of searches are inclusive.
ABOVE_ZERO = sys.float_info.min


class CopperApp:
    """The pages of the sandbox's Copper accounts."""

    def __init__(self, world: World) -> None:
        self.world = world

    def routes(self) -> list[Route]:
        """The routes of the pages."""
        return [
            Route(f"{BASE}/app", self.page),
            Route(f"{BASE}/records", self.account),
            Route(f"{BASE}/records/{{type}}", self.records),
            Route(f"{BASE}/records/{{type}}/{{id:int}}", self.record),
            Route(f"{BASE}/api/{{path:path}}", DeveloperApiAsUser(self.world)),
            Route("/copper/pages/{name}", self.file),
        ]

    async def page(self, request: Request) -> Response:
        """The HTML page of an account."""
        if self._account(request) is None:
            return not_found("no such account")
        return HTMLResponse((PAGES_DIR / "copper_app.html").read_text())

    async def file(self, request: Request) -> Response:
        """The page's scripts and style sheet."""
        name = request.path_params["name"]
        if name not in FILES:
            return not_found(f"no file {name}")
        return Response((PAGES_DIR / name).read_text(), media_type=FILES[name], headers={"Cache-Control": "no-cache"})

    def _account(self, request: Request) -> CopperAccount | None:
        return self.world.accounts.get(request.path_params["account"])

    async def account(self, request: Request) -> Response:
        """The account, its user, the numbers of records in its lists, and the URL of the installed app."""
        account = self._account(request)
        if account is None:
            return not_found("no such account")
        return JSONResponse(
            {
                "id": account.id,
                "name": account.name,
                "app": account.app_url,
                "user": user_json(account.users[0]),
                "counts": {record_type: len(account.records[record_type]) for record_type in RECORD_TYPES},
                "overdue": _overdue_counts(account),
            }
        )

    async def records(self, request: Request) -> Response:
        """The first pages of a list, sorted by name; `search` matches names, email addresses and companies.

        With `saved=overdue`, the list is "Xero overdue", and `columns` are its custom fields.
        """
        account, record_type = self._account(request), request.path_params["type"]
        is_overdue = request.query_params.get("saved") == "overdue"
        if account is None or record_type not in (OVERDUE_TYPES if is_overdue else RECORD_TYPES):
            return not_found("no such list")
        words = request.query_params.get("search", "").casefold().split()
        pages = request.query_params.get("pages", "1")
        page_count = min(int(pages), MAX_PAGES) if pages.isascii() and pages.isdigit() and len(pages) < 10 else 1
        records = overdue_records(account, record_type) if is_overdue else account.records[record_type].values()
        columns = overdue_fields(account, record_type) if is_overdue else []
        rows = [row for record in records if _matches(row := _row(record, account, columns), words)]
        rows.sort(key=lambda row: (row["name"].casefold(), row["id"]))
        page = {"records": rows[: page_count * PAGE_SIZE], "total": len(rows)}
        return _json({**page, "columns": [field.name for field in columns]})

    async def record(self, request: Request) -> Response:
        """A record, and the other data that its page shows."""
        account, record_type = self._account(request), request.path_params["type"]
        record = account.records.get(record_type, {}).get(request.path_params["id"]) if account else None
        if account is None or record is None:
            return not_found("There is no such record.")
        primary = account.records["person"].get(record.primary_contact_id or 0)
        return _json(
            {
                "record": record_json(record, account),
                "related": [
                    _related_json(account.records[end_type][end_id])
                    for end_type, end_id in related_to(account, record_type, record.id)
                ],
                "primary": primary.name if primary else None,
                "owner": next((user.name for user in account.users if user.id == record.assignee_id), None),
                "stage": STAGES[record.stage_id][0] if record.stage_id in STAGES else None,
                "custom": [_custom_field(field, record) for field in custom_fields_of(account, record_type)],
            }
        )


class DeveloperApiAsUser:
    """Calls the developer API as the account's first user, for the App SDK's `api` message."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        account = self.world.accounts.get(scope["path_params"]["account"])
        if account is None:
            await not_found("no such account")(scope, receive, send)
            return
        user = account.users[0]
        credentials = {
            "x-pw-accesstoken": user.api_key,
            "x-pw-application": "developer_api",
            "x-pw-useremail": user.email,
        }
        path = f"{API}/{scope['path_params']['path']}"
        copied_names = (
            "type",
            "asgi",
            "http_version",
            "method",
            "scheme",
            "query_string",
            "server",
            "client",
            "extensions",
        )
        inner = {name: scope[name] for name in copied_names if name in scope}
        headers = [*scope["headers"], *((name.encode(), value.encode()) for name, value in credentials.items())]
        inner |= {"path": path, "raw_path": path.encode(), "root_path": "", "headers": headers}
        await scope["app"](inner, receive, send)


def user_json(user: User) -> dict[str, Any]:
    """A user as the App SDK's `getUserInfo` returns it, with roles."""
    roles = ["user", "admin"] if user.admin else ["user"]
    return {"id": user.id, "name": user.name, "email": user.email, "roles": roles}


def overdue_fields(account: CopperAccount, record_type: str) -> list[CustomField]:
    """The custom fields of a record type that say what is overdue in Xero, one for each currency."""
    return [
        field
        for field in custom_fields_of(account, record_type)
        if (field.canonical_name or "").startswith(OVERDUE_PREFIX) and field.data_type in NUMBER_TYPES
    ]


def overdue_records(account: CopperAccount, record_type: str) -> list[Record]:
    """The records of which at least one overdue field is above 0."""
    searches = [
        Search(custom_fields=[CustomFieldFilter(custom_field_definition_id=field.id, minimum_value=ABOVE_ZERO)])
        for field in overdue_fields(account, record_type)
    ]
    matchers = [matcher(search, account) for search in searches]
    return [
        record for record in account.records[record_type].values() if any(is_overdue(record) for is_overdue in matchers)
    ]


def _overdue_counts(account: CopperAccount) -> dict[str, int] | None:
    """The number of records in the list "Xero overdue", by type; None if the account has no such list."""
    keys = [field.canonical_name or "" for field in account.custom_fields.values()]
    if not any(key.startswith(OVERDUE_PREFIX) for key in keys):
        return None
    return {record_type: len(overdue_records(account, record_type)) for record_type in OVERDUE_TYPES}


def _custom_field(field: CustomField, record: Record) -> dict[str, Any]:
    """A custom field as the page shows it."""
    value = computed_value(field, record.custom_values.get(field.id))
    return {"name": field.name, "type": field.data_type, "currency": field.currency, "value": value}


def _row(record: Record, account: CopperAccount, columns: list[CustomField]) -> dict[str, Any]:
    company = account.records["company"].get(record.company_id or 0)
    return {
        "id": record.id,
        "name": record.name,
        "email": record.emails[0] if record.emails else None,
        "company": company.name if company else record.company_name,
        "title": record.title,
        "status": record.status,
        "domain": record.email_domain,
        "city": record.address.get("city"),
        "phone": record.phones[0] if record.phones else None,
        "value": None if record.monetary_value is None else float(record.monetary_value),
        "custom": [_custom_field(field, record) for field in columns],
    }


def _matches(row: dict[str, Any], words: list[str]) -> bool:
    text = " ".join(str(row[name] or "") for name in ("name", "email", "company", "domain")).casefold()
    return all(word in text for word in words)


def _related_json(record: Record) -> dict[str, Any]:
    """A related record, in brief."""
    notes = {"person": record.emails[0] if record.emails else "", "opportunity": record.status}
    return {"type": record.type, "id": record.id, "name": record.name, "note": notes.get(record.type, "")}


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")


def not_found(text: str) -> Response:
    """A 404 with the reason."""
    return JSONResponse({"error": text}, 404)
