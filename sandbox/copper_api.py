"""Copper's developer API: account, users, search, single records, relations, webhooks; and its OAuth."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from html import escape
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from sandbox.copper_records import CONTACT_TYPES, PIPELINE, STAGES, record_json, related_to
from sandbox.copper_search import (
    DEFAULT_SORTS,
    SEARCHES,
    SORTS_OF,
    Page,
    Search,
    UnknownFieldError,
    in_order,
    keeps,
    picked,
)
from sandbox.faults import Faults
from sandbox.limits import Meter
from sandbox.world import PLURALS, CopperAccount, Record, Subscription, User, World

SUBSCRIPTION_LIMIT = 100
CACHED_ORDERS = 50
PAGING = ("page_number", "page_size", "sort_by", "sort_direction")
# Asks for the names of options instead of their ids; no custom field of the sandbox has options, so nothing changes.
COMPUTED = "custom_field_computed_values"
BAD_TARGET = "Invalid input: Invalid URI For External Request: target must use https"
Body = TypeVar("Body", bound=BaseModel)
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
PLURAL_OF = {kind: plural for plural, kind in PLURALS.items()}
Handler = Callable[[CopperAccount, User, Request], Awaitable[Response]]


class SubscriptionChange(BaseModel):
    """The body of `PUT /webhooks/{id}`: the type and the event of a subscription are fixed."""

    model_config = ConfigDict(extra="forbid")

    target: str | None = None
    secret: dict[str, str] | None = None
    headers: dict[str, str] | None = None
    custom_field_computed_values: bool | None = None


class NewSubscription(BaseModel):
    """The body of `POST /webhooks`."""

    model_config = ConfigDict(extra="forbid")

    target: str
    type: Literal["lead", "person", "company", "opportunity", "project", "task", "activity_log"]
    event: Literal["new", "update", "delete"]
    secret: dict[str, str] = Field(default_factory=dict)
    headers: dict[str, str] = Field(default_factory=dict)
    custom_field_computed_values: bool = False


class ByEmail(BaseModel):
    """The body of `POST /people/fetch_by_email`."""

    model_config = ConfigDict(extra="forbid")

    email: str


def problem(status: int, message: str) -> Response:
    """An error as Copper writes it."""
    return JSONResponse({"success": False, "status": status, "message": message}, status)


class CopperApi:
    """The developer API of the sandbox's Copper accounts."""

    def __init__(self, world: World, meter: Meter, faults: Faults) -> None:
        self.world = world
        self.meter = meter
        self.faults = faults
        self._sorted: dict[str, tuple[int, list[Record]]] = {}
        self.revision = 0

    def endpoint(self, handler: Handler, *parameters: str) -> Callable[[Request], Awaitable[Response]]:
        """A route: whose key it is, the account's limit, and which query `parameters` it knows."""

        async def serve(request: Request) -> Response:
            if request.method == "GET" and await request.body():
                return malformed()
            found = self._caller(request)
            if found is None:
                return problem(401, "Invalid Authorization Credentials")
            account, user = found
            if not self.meter.copper(str(account.id)):
                return problem(429, "Too many requests")
            unknown = sorted(set(request.query_params) - set(parameters))
            if unknown:
                return problem(422, f"The sandbox does not play the query parameter {', '.join(unknown)}")
            if request.path_params.get("plural", "people") not in PLURALS:
                return await self.not_played(account, user, request)
            try:
                return await handler(account, user, request)
            except ValidationError as error:
                return problem(422, f"Invalid input: {said(error)}")
            except UnknownFieldError as error:
                return problem(422, f"Invalid input: {error}")

        return serve

    async def not_played(self, _: CopperAccount, __: User, request: Request) -> Response:
        """What the sandbox's Copper does not play: 404 for a path, 405 for a write."""
        path = request.url.path.removeprefix("/copper/developer_api/v1")
        status = 404 if request.method in {"GET", "POST"} else 405
        return problem(status, f"The sandbox does not play {request.method} {path}")

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
        search = await _read(Page, request)
        start = (search.page_number - 1) * search.page_size
        return JSONResponse([self._user(user) for user in account.users[start : start + search.page_size]])

    async def search(self, account: CopperAccount, _: User, request: Request) -> Response:
        """`POST /{type}/search`: a bare array, and an upper bound of the count in X-PW-TOTAL."""
        plural = request.path_params["plural"]
        search = await _read(SEARCHES[plural], request)
        refused = search.model_fields_set & self.faults.filters_of(plural, "refuse")
        if refused:
            return problem(422, f"Invalid input: {', '.join(sorted(refused))}")
        ignored = search.model_fields_set & self.faults.filters_of(plural, "ignore")
        search = search.model_copy(update=dict.fromkeys(ignored))
        sort_by = search.sort_by or DEFAULT_SORTS[plural]
        if sort_by not in SORTS_OF[plural]:
            return problem(422, f"Invalid input: sort_by: the sandbox knows {', '.join(sorted(SORTS_OF[plural]))}")
        found = self._found(account, PLURALS[plural], search, sort_by)
        start = (search.page_number - 1) * search.page_size
        reachable = self.meter.limits.reachable
        if start >= reachable:
            return problem(422, f"Only the first {reachable} results are reachable")
        page = found[start : min(start + search.page_size, reachable)]
        shown = [picked(record_json(record, account), search) for record in page]
        return _json(shown, {"X-PW-TOTAL": str(len(found))})

    def _found(self, account: CopperAccount, kind: str, search: Search, sort_by: str) -> list[Record]:
        """What is asked for, in order."""
        records, keep = account.records[kind], keeps(search, account)
        if search.ids is not None:
            found = in_order(
                filter(keep, [records[key] for key in set(search.ids) if key in records]), sort_by, account
            )
        else:
            found = list(filter(keep, self._in_order(account, kind, sort_by)))
        return found[::-1] if search.sort_direction == "desc" else found

    def _in_order(self, account: CopperAccount, kind: str, sort_by: str) -> list[Record]:
        """All records of a type, sorted once until something changes: pages come one after another."""
        key = f"{account.id} {kind} {sort_by}"
        known = self._sorted.get(key)
        if known and known[0] == self.revision:
            return known[1]
        found = in_order(account.records[kind].values(), sort_by, account)
        if len(self._sorted) > CACHED_ORDERS:
            self._sorted.clear()
        self._sorted[key] = (self.revision, found)
        return found

    async def record(self, account: CopperAccount, _: User, request: Request) -> Response:
        """`GET /{type}/{id}`."""
        kind = PLURALS[request.path_params["plural"]]
        found = account.records[kind].get(request.path_params["id"])
        return _json(record_json(found, account)) if found else problem(404, "Resource not found")

    async def by_email(self, account: CopperAccount, _: User, request: Request) -> Response:
        """`POST /people/fetch_by_email`."""
        wanted = (await _read(ByEmail, request)).email.casefold()
        for person in account.records["person"].values():
            if wanted in {email.casefold() for email in person.emails}:
                return _json(record_json(person, account))
        return problem(404, "Resource not found")

    async def listing(self, account: CopperAccount, _: User, request: Request) -> Response:
        """`GET /pipelines`, `/pipeline_stages`, `/contact_types` and `/custom_field_definitions`."""
        stages = [{"id": key, "name": name, "pipeline_id": PIPELINE["id"]} for key, (name, _) in STAGES.items()]
        listed: dict[str, list[dict[str, Any]]] = {
            "pipelines": [{**PIPELINE, "stages": stages}],
            "pipeline_stages": stages,
            "contact_types": [{"id": key, "name": name} for key, name in CONTACT_TYPES.items()],
            "custom_field_definitions": [
                {**asdict(field), "canonical_name": None, "is_filterable": False}
                for field in account.custom_fields.values()
            ],
        }
        return JSONResponse(listed[request.url.path.rpartition("/")[2]])

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
        if not _may_be_target(wanted.target):
            return problem(422, BAD_TARGET)
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
            int(self.world.clock.now().timestamp()),
            wanted.custom_field_computed_values,
        )
        account.subscriptions[made.id] = made
        return JSONResponse(_subscription(made))

    async def subscriptions(self, account: CopperAccount, user: User, _: Request) -> Response:
        """`GET /webhooks`: those of this key."""
        mine = [one for one in account.subscriptions.values() if one.owner_key == user.api_key]
        return JSONResponse([_subscription(one) for one in mine])

    async def subscription(self, account: CopperAccount, user: User, request: Request) -> Response:
        """`GET`, `PUT` and `DELETE /webhooks/{id}`."""
        found = account.subscriptions.get(request.path_params["id"])
        if found is None or found.owner_key != user.api_key:
            return problem(404, "Resource not found")
        if request.method == "DELETE":
            del account.subscriptions[found.id]
            return JSONResponse({"id": found.id})
        if request.method == "PUT":
            change = SubscriptionChange.model_validate_json(await request.body())
            if change.target is not None and not _may_be_target(change.target):
                return problem(422, BAD_TARGET)
            for name, value in change.model_dump(exclude_none=True).items():
                setattr(found, name, value)
        return JSONResponse(_subscription(found))


def _may_be_target(target: str) -> bool:
    try:
        parts = urlsplit(target)
    except ValueError:
        return False
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK))


def _subscription(subscription: Subscription) -> dict[str, Any]:
    shown = asdict(subscription)
    del shown["owner_key"]
    return shown


def _json(value: Any, headers: dict[str, str] | None = None) -> Response:
    """Records as JSON, their amounts with all digits."""
    return Response(orjson.dumps(value), media_type="application/json", headers=headers)


async def _read(model: type[Body], request: Request) -> Body:
    """A body with its paging and sorting, which may stand in the query as well: public clients do either."""
    given = {name: value for name, value in request.query_params.items() if name in PAGING}
    body = orjson_object(await request.body())
    return model.model_validate({**given, **body})


def orjson_object(body: bytes) -> dict[str, Any]:
    """A JSON object; an empty body is an empty one."""
    return TypeAdapter(dict[str, Any]).validate_json(body or b"{}")


def said(error: ValidationError) -> str:
    """Which keys of a body are wrong, and that an unknown one is not played."""
    texts = []
    for problem_ in error.errors():
        where = ".".join(map(str, problem_["loc"])) or "the body"
        texts.append(f"{where} is not played by the sandbox" if problem_["type"] == "extra_forbidden" else where)
    return ", ".join(texts)


def malformed() -> Response:
    """400 as the front end answers a GET that has a body, before it reaches Copper."""
    return HTMLResponse("<!doctype html><title>Error 400 (Bad Request)!!1</title><p>malformed request</p>", 400)


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
