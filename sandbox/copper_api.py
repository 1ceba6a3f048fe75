"""Copper's developer API: account, users, search, single records, relations, webhooks; and its OAuth.

Writes of records and custom fields are in `copper_writes.py`.
"""

from __future__ import annotations

import secrets
from bisect import bisect_left
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from html import escape
from operator import attrgetter
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from sandbox.copper_changes import RecordChanges
from sandbox.copper_records import CONTACT_TYPES, PIPELINE, STAGES, record_json, related_to
from sandbox.copper_search import (
    DEFAULT_SORTS,
    SEARCHES,
    SORTS_OF,
    Page,
    Search,
    matcher,
    select_fields,
    sort_records,
)
from sandbox.custom_fields import CustomFieldError, definition_json
from sandbox.faults import Faults
from sandbox.limits import RateLimiter
from sandbox.world import PLURALS, CopperAccount, Record, Subscription, User, World

SUBSCRIPTION_LIMIT = 100
MAX_CACHED_SORTS = 50
PAGING = ("page_number", "page_size", "sort_by", "sort_direction")
# Requests the names of options instead of their ids, as the values of custom fields.
COMPUTED_VALUES = "custom_field_computed_values"
BAD_TARGET = "Invalid input: Invalid URI For External Request: target must use https"
Body = TypeVar("Body", bound=BaseModel)
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
PLURAL_OF = {record_type: plural for plural, record_type in PLURALS.items()}
Handler = Callable[[CopperAccount, User, Request], Awaitable[Response]]


class SubscriptionChange(BaseModel):
    """The body of `PUT /webhooks/{id}`: type and event of a subscription cannot change."""

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
    """An error in Copper's format."""
    return JSONResponse({"success": False, "status": status, "message": message}, status)


class CopperApi:
    """The developer API of the sandbox's Copper accounts."""

    def __init__(self, world: World, limiter: RateLimiter, faults: Faults, changes: RecordChanges) -> None:
        self.world = world
        self.limiter = limiter
        self.faults = faults
        self.changes = changes
        self._sort_cache: dict[str, tuple[int, list[Record]]] = {}

    def endpoint(self, handler: Handler, *query_names: str) -> Callable[[Request], Awaitable[Response]]:
        """Wrap a handler: authenticate the caller, apply the account's rate limit, refuse other query parameters."""

        async def serve(request: Request) -> Response:
            if request.method == "GET" and await request.body():
                return get_with_body_refused()
            caller = self._caller(request)
            if caller is None:
                return problem(401, "Invalid Authorization Credentials")
            account, user = caller
            if not self.limiter.allow_copper(str(account.id)):
                return problem(429, "Too many requests")
            unknown = sorted(set(request.query_params) - set(query_names))
            if unknown:
                return problem(422, f"The sandbox does not support the query parameter {', '.join(unknown)}")
            if request.path_params.get("plural", "people") not in PLURALS:
                return await self.not_supported(account, user, request)
            try:
                return await handler(account, user, request)
            except ValidationError as error:
                return problem(422, f"Invalid input: {validation_message(error)}")
            except CustomFieldError as error:
                return problem(422, f"Invalid input: {error}")

        return serve

    async def not_supported(self, _: CopperAccount, __: User, request: Request) -> Response:
        """The response for everything that the sandbox does not support: 404 for a path, 405 for a write."""
        path = request.url.path.removeprefix("/copper/developer_api/v1")
        status = 404 if request.method in {"GET", "POST"} else 405
        return problem(status, f"The sandbox does not support {request.method} {path}")

    def _caller(self, request: Request) -> tuple[CopperAccount, User] | None:
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if bearer:
            for account in self.world.accounts.values():
                if bearer in account.oauth_tokens:
                    email = account.oauth_tokens[bearer]
                    return next(((account, user) for user in account.users if user.email == email), None)
            return None
        if request.headers.get("x-pw-application") != "developer_api":
            return None
        key, email = request.headers.get("x-pw-accesstoken", ""), request.headers.get("x-pw-useremail", "")
        owner = self.world.find_owner(key, email)
        return owner if owner and owner[1].admin else None

    async def account(self, account: CopperAccount, _: User, __: Request) -> Response:
        """`GET /account`."""
        settings = {"setting_team_permissions_enabled": False, "setting_enable_leads": True}
        payload = {"id": account.id, "name": account.name, "primary_timezone": "Pacific/Auckland"}
        return JSONResponse({**payload, "settings": settings})

    def _user_json(self, user: User) -> dict[str, Any]:
        groups = [{"id": team_id, "name": name} for team_id, name in user.groups]
        return {"id": user.id, "name": user.name, "email": user.email, "groups": groups}

    async def me(self, _: CopperAccount, user: User, __: Request) -> Response:
        """`GET /users/me`."""
        return JSONResponse(self._user_json(user))

    async def user(self, account: CopperAccount, _: User, request: Request) -> Response:
        """`GET /users/{id}`."""
        user_id = request.path_params["id"]
        user = next((candidate for candidate in account.users if candidate.id == user_id), None)
        return JSONResponse(self._user_json(user)) if user else problem(404, "Resource not found")

    async def users(self, account: CopperAccount, _: User, request: Request) -> Response:
        """`POST /users/search`."""
        search = await _read(Page, request)
        start = (search.page_number - 1) * search.page_size
        return JSONResponse([self._user_json(user) for user in account.users[start : start + search.page_size]])

    async def search(self, account: CopperAccount, _: User, request: Request) -> Response:
        """`POST /{type}/search`: an array, and the total count in the header X-PW-TOTAL."""
        plural = request.path_params["plural"]
        search = await _read(SEARCHES[plural], request)
        refused_filters = search.model_fields_set & self.faults.filters_of(plural, "refuse")
        if refused_filters:
            return problem(422, f"Invalid input: {', '.join(sorted(refused_filters))}")
        ignored_filters = search.model_fields_set & self.faults.filters_of(plural, "ignore")
        search = search.model_copy(update=dict.fromkeys(ignored_filters))
        sort_by = search.sort_by or DEFAULT_SORTS[plural]
        if sort_by not in SORTS_OF[plural]:
            return problem(422, f"Invalid input: sort_by: the sandbox supports {', '.join(sorted(SORTS_OF[plural]))}")
        records = self._matches(account, PLURALS[plural], search, sort_by)
        start = (search.page_number - 1) * search.page_size
        max_results = self.limiter.limits.max_search_results
        if start >= max_results:
            return problem(422, f"Only the first {max_results} results are available")
        page = records[start : min(start + search.page_size, max_results)]
        computed = _has_computed_values(request)
        payload = [select_fields(record_json(record, account, computed=computed), search) for record in page]
        return records_response(payload, {"X-PW-TOTAL": str(len(records))})

    def _matches(self, account: CopperAccount, record_type: str, search: Search, sort_by: str) -> list[Record]:
        """The records that match a search, sorted."""
        records, matches_filters = account.records[record_type], matcher(search, account)
        if search.ids is not None:
            matches = sort_records(
                filter(matches_filters, [records[key] for key in set(search.ids) if key in records]), sort_by, account
            )
        else:
            ordered = self._sorted_records(account, record_type, sort_by)
            if sort_by == "date_created" and search.minimum_created_date is not None:
                # Clients continue at the last record that they know, so most of the earlier ones match nothing.
                ordered = ordered[bisect_left(ordered, search.minimum_created_date, key=attrgetter("created")) :]
            matches = list(filter(matches_filters, ordered))
        return matches[::-1] if search.sort_direction == "desc" else matches

    def _sorted_records(self, account: CopperAccount, record_type: str, sort_by: str) -> list[Record]:
        """All records of a type, sorted; cached until a record changes, because clients fetch page after page."""
        key = f"{account.id} {record_type} {sort_by}"
        cached = self._sort_cache.get(key)
        if cached and cached[0] == self.changes.revision:
            return cached[1]
        ordered = sort_records(account.records[record_type].values(), sort_by, account)
        if len(self._sort_cache) > MAX_CACHED_SORTS:
            self._sort_cache.clear()
        self._sort_cache[key] = (self.changes.revision, ordered)
        return ordered

    async def record(self, account: CopperAccount, _: User, request: Request) -> Response:
        """`GET /{type}/{id}`."""
        record_type = PLURALS[request.path_params["plural"]]
        record = account.records[record_type].get(request.path_params["id"])
        if record is None:
            return problem(404, "Resource not found")
        return records_response(record_json(record, account, computed=_has_computed_values(request)))

    async def by_email(self, account: CopperAccount, _: User, request: Request) -> Response:
        """`POST /people/fetch_by_email`."""
        email = (await _read(ByEmail, request)).email.casefold()
        for person in account.records["person"].values():
            if email in {email.casefold() for email in person.emails}:
                return records_response(record_json(person, account))
        return problem(404, "Resource not found")

    async def listing(self, account: CopperAccount, _: User, request: Request) -> Response:
        """`GET /pipelines`, `/pipeline_stages`, `/contact_types` and `/custom_field_definitions`."""
        stages = [{"id": key, "name": name, "pipeline_id": PIPELINE["id"]} for key, (name, _) in STAGES.items()]
        listings: dict[str, list[dict[str, Any]]] = {
            "pipelines": [{**PIPELINE, "stages": stages}],
            "pipeline_stages": stages,
            "contact_types": [{"id": key, "name": name} for key, name in CONTACT_TYPES.items()],
            "custom_field_definitions": list(map(definition_json, account.custom_fields.values())),
        }
        return JSONResponse(listings[request.url.path.rpartition("/")[2]])

    async def related(self, account: CopperAccount, _: User, request: Request) -> Response:
        """`GET /{type}/{id}/related`, or `/related/{type}`."""
        record_type, record_id = PLURALS[request.path_params["plural"]], request.path_params["id"]
        if record_id not in account.records[record_type]:
            return problem(404, "Resource not found")
        plural = request.path_params.get("of")
        if plural is not None and plural not in {*PLURALS, "tasks", "projects"}:
            return problem(422, "Unknown type")
        related = related_to(account, record_type, record_id)
        return JSONResponse([{"id": key, "type": end} for end, key in related if plural in {None, PLURAL_OF[end]}])

    async def subscribe(self, account: CopperAccount, user: User, request: Request) -> Response:
        """`POST /webhooks`: the target must use https; plain http is allowed on this machine."""
        request_body = NewSubscription.model_validate_json(await request.body())
        if not _is_allowed_target(request_body.target):
            return problem(422, BAD_TARGET)
        if len(account.subscriptions) >= SUBSCRIPTION_LIMIT:
            return problem(422, "Invalid input: too many subscriptions")
        subscription = Subscription(
            account.allocate_id(),
            request_body.target,
            request_body.type,
            request_body.event,
            dict(request_body.secret),
            dict(request_body.headers),
            user.api_key,
            int(self.world.clock.now().timestamp()),
            request_body.custom_field_computed_values,
        )
        account.subscriptions[subscription.id] = subscription
        return JSONResponse(_subscription_json(subscription))

    async def subscriptions(self, account: CopperAccount, user: User, _: Request) -> Response:
        """`GET /webhooks`: the subscriptions of this API key."""
        own_subscriptions = [
            subscription for subscription in account.subscriptions.values() if subscription.owner_key == user.api_key
        ]
        return JSONResponse([_subscription_json(subscription) for subscription in own_subscriptions])

    async def subscription(self, account: CopperAccount, user: User, request: Request) -> Response:
        """`GET`, `PUT` and `DELETE /webhooks/{id}`."""
        subscription = account.subscriptions.get(request.path_params["id"])
        if subscription is None or subscription.owner_key != user.api_key:
            return problem(404, "Resource not found")
        if request.method == "DELETE":
            del account.subscriptions[subscription.id]
            return JSONResponse({"id": subscription.id})
        if request.method == "PUT":
            change = SubscriptionChange.model_validate_json(await request.body())
            if change.target is not None and not _is_allowed_target(change.target):
                return problem(422, BAD_TARGET)
            for name, value in change.model_dump(exclude_none=True).items():
                setattr(subscription, name, value)
        return JSONResponse(_subscription_json(subscription))


def _is_allowed_target(target: str) -> bool:
    try:
        parts = urlsplit(target)
    except ValueError:
        return False
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK))


def _subscription_json(subscription: Subscription) -> dict[str, Any]:
    payload = asdict(subscription)
    del payload["owner_key"]
    return payload


def records_response(value: Any, headers: dict[str, str] | None = None) -> Response:
    """Records as JSON, with exact amounts."""
    return Response(orjson.dumps(value), media_type="application/json", headers=headers)


def _has_computed_values(request: Request) -> bool:
    return request.query_params.get(COMPUTED_VALUES, "").lower() == "true"


async def _read(model: type[Body], request: Request) -> Body:
    """A body, with paging and sorting taken from the body or the query: public clients use either."""
    query_values = {name: value for name, value in request.query_params.items() if name in PAGING}
    body = parse_object(await request.body())
    return model.model_validate({**query_values, **body})


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse a JSON object; an empty body counts as an empty object."""
    return TypeAdapter(dict[str, Any]).validate_json(body or b"{}")


def validation_message(error: ValidationError) -> str:
    """Which keys of a body are invalid or not supported."""
    messages = []
    for detail in error.errors():
        key = ".".join(map(str, detail["loc"])) or "the body"
        messages.append(f"{key} is not supported by the sandbox" if detail["type"] == "extra_forbidden" else key)
    return ", ".join(messages)


def get_with_body_refused() -> Response:
    """The 400 of Copper's front end for a GET request with a body."""
    return HTMLResponse("<!doctype html><title>Error 400 (Bad Request)!!1</title><p>malformed request</p>", 400)


class CopperOAuth:
    """Copper's OAuth 2.0: the callback is a cross-site POST with code and state in the body."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def authorise(self, request: Request) -> Response:
        """A page that posts a code to the callback, for the user in `login_hint` or else the first one."""
        query = request.query_params
        target = query.get("redirect_uri", "")
        if query.get("response_type") != "code" or urlsplit(target).scheme not in {"http", "https"}:
            return problem(422, "Invalid input")
        for account in self.world.accounts.values():
            for user in account.users:
                if query.get("login_hint") in {None, user.email}:
                    code = secrets.token_urlsafe(24)
                    account.oauth_codes[code] = user.email
                    return HTMLResponse(_callback_form(target, code, query.get("state", "")))
        return problem(404, "No such user")

    async def token(self, request: Request) -> Response:
        """`POST /oauth/token`, form-encoded; the access token has no expiry and no refresh token."""
        form = await request.form()
        code = str(form.get("code", ""))
        for account in self.world.accounts.values():
            email = account.oauth_codes.pop(code, None)
            if email is not None and form.get("grant_type") == "authorization_code":
                token = secrets.token_urlsafe(32)
                account.oauth_tokens[token] = email
                payload = {"access_token": token, "token_type": "Bearer", "scope": "developer/v1/all"}
                return JSONResponse(payload)
        return JSONResponse({"error": "invalid_grant"}, 400)


def _callback_form(target: str, code: str, state: str) -> str:
    return (
        '<!doctype html><html lang="en"><title>Sandbox Copper</title><h1>Sandbox Copper</h1>'
        f'<form method="post" action="{escape(target)}"><input type="hidden" name="code" value="{code}">'
        f'<input type="hidden" name="state" value="{escape(state)}"><button>Allow access</button></form></html>'
    )
