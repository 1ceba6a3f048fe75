"""Copper's developer API: account, users, search, single records, relations, webhooks; and its OAuth."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from html import escape
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from sandbox.faults import Faults
from sandbox.limits import Meter
from sandbox.world import PLURALS, CopperAccount, Record, Subscription, User, World

SUBSCRIPTION_LIMIT = 100
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
PLURAL_OF = {kind: plural for plural, kind in PLURALS.items()}
Handler = Callable[[CopperAccount, User, Request], Awaitable[Response]]


class Search(BaseModel):
    """The body of a `/search`."""

    model_config = ConfigDict(extra="ignore")

    page_number: int = Field(1, ge=1)
    page_size: int = Field(20, ge=1, le=200)
    sort_by: str = "name"
    sort_direction: str = Field("asc", pattern="^(asc|desc)$")
    ids: list[int] | None = Field(None, max_length=200)
    emails: list[str] | None = None
    name: str | None = None
    company_ids: list[int] | None = None
    primary_contact_ids: list[int] | None = None
    minimum_created_date: int | None = None
    maximum_created_date: int | None = None
    minimum_modified_date: int | None = None
    maximum_modified_date: int | None = None

    def keeps(self) -> Callable[[Record], bool]:
        """Whether a record is asked for, by the criteria that are given."""
        wanted = {email.casefold() for email in self.emails or ()}
        tests: dict[str, Callable[[Record], bool]] = {
            "ids": lambda one: one.id in (self.ids or ()),
            "emails": lambda one: not wanted.isdisjoint(map(str.casefold, one.emails)),
            "name": lambda one: (self.name or "").casefold() in one.name.casefold(),
            "company_ids": lambda one: one.company_id in (self.company_ids or ()),
            "primary_contact_ids": lambda one: one.primary_contact_id in (self.primary_contact_ids or ()),
            "minimum_created_date": lambda one: one.created >= (self.minimum_created_date or 0),
            "maximum_created_date": lambda one: one.created <= (self.maximum_created_date or 0),
            "minimum_modified_date": lambda one: one.modified >= (self.minimum_modified_date or 0),
            "maximum_modified_date": lambda one: one.modified <= (self.maximum_modified_date or 0),
        }
        given = [test for name, test in tests.items() if getattr(self, name) is not None]
        return lambda one: all(test(one) for test in given)


SORTS: dict[str, Callable[[Record], Any]] = {
    "name": lambda one: (one.name.casefold(), one.id),
    "date_created": lambda one: (one.created, one.id),
    "date_modified": lambda one: (one.modified, one.id),
}


class NewSubscription(BaseModel):
    """The body of `POST /webhooks`."""

    target: str
    type: str = Field(pattern="^(lead|person|company|opportunity|project|task)$")
    event: str = Field(pattern="^(new|update|delete)$")
    secret: dict[str, str] = Field(default_factory=dict)
    headers: dict[str, str] = Field(default_factory=dict)


def problem(status: int, message: str) -> Response:
    """An error as Copper writes it."""
    return JSONResponse({"success": False, "status": status, "message": message}, status)


def record_json(one: Record, account: CopperAccount) -> dict[str, Any]:
    """A record as its type shows it."""
    shown: dict[str, Any] = {
        "id": one.id,
        "name": one.name,
        "assignee_id": None,
        "tags": [],
        "custom_fields": [],
        "date_created": one.created,
        "date_modified": one.modified,
    }
    addresses = [{"email": email, "category": "work"} for email in one.emails]
    company = account.records["company"].get(one.company_id or 0)
    if one.type == "lead":
        shown |= {"email": addresses[0] if addresses else None, "status": one.status}
    if one.type == "person":
        shown |= {"emails": addresses}
    if one.type == "company":
        shown |= {"email_domain": None, "phone_numbers": []}
    if one.type == "opportunity":
        shown |= {"primary_contact_id": one.primary_contact_id, "status": one.status}
    if one.type in {"person", "opportunity"}:
        shown |= {"company_id": one.company_id, "company_name": company.name if company else None}
    return shown


def related_to(account: CopperAccount, kind: str, record_id: int) -> list[tuple[str, int]]:
    """The living records related to one, either way round, those of its own fields included."""
    found: set[tuple[str, int]] = set()
    for left_kind, left, right_kind, right in account.relations:
        if (left_kind, left) == (kind, record_id):
            found.add((right_kind, right))
        if (right_kind, right) == (kind, record_id):
            found.add((left_kind, left))
    own = account.records[kind][record_id]
    ends = {("company", own.company_id), ("person", own.primary_contact_id)}
    found |= {(end, key) for end, key in ends if key}
    for other in ("person", "opportunity") if kind in {"company", "person"} else ():
        for one in account.records[other].values():
            if (kind, record_id) in {("company", one.company_id), ("person", one.primary_contact_id)}:
                found.add((other, one.id))
    return sorted(one for one in found if one[1] in account.records[one[0]])


class CopperApi:
    """The developer API of the sandbox's Copper accounts."""

    def __init__(self, world: World, meter: Meter, faults: Faults) -> None:
        self.world = world
        self.meter = meter
        self.faults = faults
        self._sorted: dict[str, tuple[int, list[Record]]] = {}
        self.revision = 0

    def endpoint(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """A route: whose key it is, and the account's limit."""

        async def serve(request: Request) -> Response:
            found = self._caller(request)
            if found is None:
                return problem(401, "Invalid Authorization Credentials")
            account, user = found
            if not self.meter.copper(str(account.id)):
                return problem(429, "Too many requests")
            if request.path_params.get("plural", "people") not in PLURALS:
                return problem(404, "Resource not found")
            try:
                return await handler(account, user, request)
            except ValidationError as error:
                where = ", ".join(".".join(map(str, one["loc"])) for one in error.errors())
                return problem(422, f"Invalid input: {where}")
            except ValueError:
                return problem(400, "Invalid JSON")

        return serve

    def _caller(self, request: Request) -> tuple[CopperAccount, User] | None:
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if bearer:
            for account in self.world.accounts.values():
                if bearer in account.oauth_tokens:
                    email = account.oauth_tokens[bearer]
                    return next(((account, one) for one in account.users if one.email == email), None)
            return None
        if request.headers.get("x-pw-application") != "developer_api":
            return None
        key, email = request.headers.get("x-pw-accesstoken", ""), request.headers.get("x-pw-useremail", "")
        found = self.world.account_of(key, email)
        return found if found and found[1].admin else None

    async def account(self, account: CopperAccount, _: User, __: Request) -> Response:
        """`GET /account`."""
        settings = {"setting_team_permissions_enabled": False, "setting_enable_leads": True}
        shown = {"id": account.id, "name": account.name, "primary_timezone": "Pacific/Auckland"}
        return JSONResponse({**shown, "settings": settings})

    def _user(self, one: User) -> dict[str, Any]:
        groups = [{"id": key, "name": name} for key, name in one.groups]
        return {"id": one.id, "name": one.name, "email": one.email, "groups": groups}

    async def me(self, _: CopperAccount, user: User, __: Request) -> Response:
        """`GET /users/me`."""
        return JSONResponse(self._user(user))

    async def user(self, account: CopperAccount, _: User, request: Request) -> Response:
        """`GET /users/{id}`."""
        wanted = request.path_params["id"]
        found = next((one for one in account.users if one.id == wanted), None)
        return JSONResponse(self._user(found)) if found else problem(404, "Resource not found")

    async def users(self, account: CopperAccount, _: User, request: Request) -> Response:
        """`POST /users/search`."""
        search = Search.model_validate_json(await request.body() or b"{}")
        start = (search.page_number - 1) * search.page_size
        return JSONResponse([self._user(one) for one in account.users[start : start + search.page_size]])

    async def search(self, account: CopperAccount, _: User, request: Request) -> Response:
        """`POST /{type}/search`: a bare array, and an upper bound of the count in X-PW-TOTAL."""
        plural = request.path_params["plural"]
        kind = PLURALS[plural]
        search = Search.model_validate_json(await request.body() or b"{}")
        refused = search.model_fields_set & self.faults.filters_of(plural, "refuse")
        if refused:
            return problem(422, f"Invalid input: {', '.join(sorted(refused))}")
        search = search.model_copy(update=dict.fromkeys(self.faults.filters_of(plural, "ignore")))
        if search.sort_by not in SORTS:
            return problem(422, f"sort_by: the sandbox knows {', '.join(SORTS)}")
        found = self._found(account, kind, search)
        start = (search.page_number - 1) * search.page_size
        reachable = self.meter.limits.reachable
        if start >= reachable:
            return problem(422, f"Only the first {reachable} results are reachable")
        page = found[start : min(start + search.page_size, reachable)]
        return JSONResponse([record_json(one, account) for one in page], headers={"X-PW-TOTAL": str(len(found))})

    def _found(self, account: CopperAccount, kind: str, search: Search) -> list[Record]:
        """What is asked for, in order."""
        records = account.records[kind]
        if search.ids is not None:
            some = [records[key] for key in search.ids if key in records]
            return sorted(filter(search.keeps(), some), key=SORTS[search.sort_by])
        found = list(filter(search.keeps(), self._in_order(account, kind, search.sort_by)))
        return found[::-1] if search.sort_direction == "desc" else found

    def _in_order(self, account: CopperAccount, kind: str, sort_by: str) -> list[Record]:
        """All records of a type, sorted once until something changes: pages come one after another."""
        key = f"{account.id} {kind} {sort_by}"
        known = self._sorted.get(key)
        if known and known[0] == self.revision:
            return known[1]
        found = sorted(account.records[kind].values(), key=SORTS[sort_by])
        if len(self._sorted) > 50:
            self._sorted.clear()
        self._sorted[key] = (self.revision, found)
        return found

    async def record(self, account: CopperAccount, _: User, request: Request) -> Response:
        """`GET /{type}/{id}`."""
        kind = PLURALS[request.path_params["plural"]]
        found = account.records[kind].get(request.path_params["id"])
        return JSONResponse(record_json(found, account)) if found else problem(404, "Resource not found")

    async def by_email(self, account: CopperAccount, _: User, request: Request) -> Response:
        """`POST /people/fetch_by_email`."""
        wanted = str((await request.json()).get("email", "")).casefold()
        for one in account.records["person"].values():
            if wanted in {email.casefold() for email in one.emails}:
                return JSONResponse(record_json(one, account))
        return problem(404, "Resource not found")

    async def related(self, account: CopperAccount, _: User, request: Request) -> Response:
        """`GET /{type}/{id}/related`, or one type of them."""
        kind, record_id = PLURALS[request.path_params["plural"]], request.path_params["id"]
        if record_id not in account.records[kind]:
            return problem(404, "Resource not found")
        only = request.path_params.get("of")
        if only is not None and only not in {*PLURALS, "tasks", "projects"}:
            return problem(422, "Unknown type")
        found = related_to(account, kind, record_id)
        return JSONResponse([{"id": key, "type": end} for end, key in found if only in {None, PLURAL_OF[end]}])

    async def subscribe(self, account: CopperAccount, user: User, request: Request) -> Response:
        """`POST /webhooks`: https only (and plain http on this machine, where the sandbox lives)."""
        wanted = NewSubscription.model_validate_json(await request.body())
        parts = urlsplit(wanted.target)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
            return problem(422, "Invalid input: target must use https")
        if len(account.subscriptions) >= SUBSCRIPTION_LIMIT:
            return problem(422, "Invalid input: too many subscriptions")
        made = Subscription(
            account.fresh_id(),
            wanted.target,
            wanted.type,
            wanted.event,
            dict(wanted.secret),
            dict(wanted.headers),
            user.api_key,
        )
        account.subscriptions[made.id] = made
        return JSONResponse(self._subscription(made))

    def _subscription(self, one: Subscription) -> dict[str, Any]:
        return {
            "id": one.id,
            "target": one.target,
            "type": one.type,
            "event": one.event,
            "secret": one.secret,
            "created_at": int(self.world.clock.now().timestamp()),
        }

    async def subscriptions(self, account: CopperAccount, user: User, _: Request) -> Response:
        """`GET /webhooks`: those of this key."""
        mine = [one for one in account.subscriptions.values() if one.owner_key == user.api_key]
        return JSONResponse([self._subscription(one) for one in mine])

    async def subscription(self, account: CopperAccount, user: User, request: Request) -> Response:
        """`PUT` and `DELETE /webhooks/{id}`."""
        found = account.subscriptions.get(request.path_params["id"])
        if found is None or found.owner_key != user.api_key:
            return problem(404, "Resource not found")
        if request.method == "DELETE":
            del account.subscriptions[found.id]
            return JSONResponse({"id": found.id, "is_deleted": True})
        if request.method == "PUT":
            changes = await request.json()
            changed = NewSubscription.model_validate({**self._subscription(found), **changes})
            found.target, found.type, found.event = changed.target, changed.type, changed.event
            found.secret, found.headers = dict(changed.secret), dict(changed.headers)
        return JSONResponse(self._subscription(found))


class CopperOAuth:
    """Copper's OAuth 2.0: its callback is a cross-site POST with code and state in the body."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def authorise(self, request: Request) -> Response:
        """A page that posts a code back, as the user who is named (`login_hint`) or the first one."""
        query = request.query_params
        target = query.get("redirect_uri", "")
        if query.get("response_type") != "code" or urlsplit(target).scheme not in {"http", "https"}:
            return problem(422, "Invalid input")
        for account in self.world.accounts.values():
            for user in account.users:
                if query.get("login_hint") in {None, user.email}:
                    code = secrets.token_urlsafe(24)
                    account.oauth_codes[code] = user.email
                    return HTMLResponse(_post_back(target, code, query.get("state", "")))
        return problem(404, "No such user")

    async def token(self, request: Request) -> Response:
        """`POST /oauth/token`, form-encoded; no refresh token and no expiry."""
        form = await request.form()
        code = str(form.get("code", ""))
        for account in self.world.accounts.values():
            email = account.oauth_codes.pop(code, None)
            if email is not None and form.get("grant_type") == "authorization_code":
                token = secrets.token_urlsafe(32)
                account.oauth_tokens[token] = email
                answer = {"access_token": token, "token_type": "Bearer", "scope": "developer/v1/all"}
                return JSONResponse(answer)
        return JSONResponse({"error": "invalid_grant"}, 400)


def _post_back(target: str, code: str, state: str) -> str:
    return (
        '<!doctype html><html lang="en"><title>Sandbox Copper</title><h1>Sandbox Copper</h1>'
        f'<form method="post" action="{escape(target)}"><input type="hidden" name="code" value="{code}">'
        f'<input type="hidden" name="state" value="{escape(state)}"><button>Allow access</button></form></html>'
    )
