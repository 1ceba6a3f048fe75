"""The control API: simulate users of either product, inject faults, set limits, and inspect calls and deliveries."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails, to_json
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox.action_base import ActionError
from sandbox.actions import Actions
from sandbox.delivery import Delivery
from sandbox.faults import ApiFault, Faults, FilterFault, WebhookFault
from sandbox.limits import Limits, RateLimiter
from sandbox.world import World


class FaultSettings(BaseModel):
    """Replaces all active faults."""

    api: list[ApiFault] = Field(default_factory=list)
    filters: list[FilterFault] = Field(default_factory=list)
    webhooks: list[WebhookFault] = Field(default_factory=list)
    seed: int | None = None


class AppSettings(BaseModel):
    """The Xero app: its webhook, and how consent is given.

    With `auto_consent`, consent is given without showing the page: for the organisations in `consent_tenant_ids`
    (empty: all), by the Xero user with the email address `consent_user`. At most `granted_scopes` are granted (empty:
    all that are requested).
    """

    webhook_url: str | None = None
    webhook_key: str | None = None
    auto_consent: bool | None = None
    consent_tenant_ids: list[UUID] | None = None
    consent_user: str | None = Field(None, min_length=3, max_length=254)
    granted_scopes: list[str] | None = None


class ClockSettings(BaseModel):
    """Set the sandbox's clock ahead, and how fast time passes for retries and rate limits."""

    offset_seconds: float | None = Field(None, ge=0)
    speed: float | None = Field(None, gt=0, le=1_000_000)


@lru_cache(maxsize=1)
def action_models() -> Mapping[str, type[BaseModel]]:
    """The arguments of each action as a model, built from its signature, once for all sandboxes of a process."""
    models = {}
    for name, method in inspect.getmembers(Actions, inspect.isfunction):
        if name.startswith("_"):
            continue
        fields: dict[str, Any] = {}
        for parameter in list(inspect.signature(method, eval_str=True).parameters.values())[1:]:
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[parameter.name] = (parameter.annotation, default)
        models[name] = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
    return models


EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "decimal": "an amount, such as 115.00",
    "date": "a date, such as 2026-11-30",
    "list": """a list in JSON, such as '["ann@acme.test"]'""",
    "bool": "true or false",
    "string": "text",
    "uuid": "an id",
    "dict": "a JSON object",
}


def validation_message(error: ValidationError, model: type[BaseModel]) -> str:
    """What is wrong with the arguments, in terms that the caller understands."""
    return "; ".join(_error_message(problem, model) for problem in error.errors())


def _error_message(error: ErrorDetails, model: type[BaseModel]) -> str:
    name, error_type = ".".join(map(str, error["loc"])), error["type"]
    if error_type == "missing":
        return f"{name} is missing"
    if error_type == "extra_forbidden":
        return f"there is no argument {name}; the arguments are {', '.join(model.model_fields)}"
    if error_type == "literal_error":
        return f"{name} must be one of {error.get('ctx', {}).get('expected')}"
    if error_type == "json_invalid":
        return "the arguments are not JSON"
    if error_type.startswith(("greater_", "less_")):
        return f"{name} is out of range"
    expected = EXPECTED.get(error_type.partition("_")[0])
    return f"{name} must be {expected}" if expected else f"{name} is not valid"


class Control:
    """The routes under `/control`."""

    def __init__(
        self, world: World, actions: Actions, delivery: Delivery, faults: Faults, limiter: RateLimiter
    ) -> None:
        self.world = world
        self.actions = actions
        self.delivery = delivery
        self.faults = faults
        self.limiter = limiter
        self.models = action_models()

    def routes(self) -> list[Route]:
        """The routes of the control API."""
        return [
            Route("/control/state", self.state),
            Route("/control/acknowledged-events", self.acknowledged_events),
            Route("/control/actions", self.list_actions),
            Route("/control/actions/{name}", self.simulate, methods=["POST"]),
            Route("/control/world", self.show_world),
            Route("/control/faults", self._setter(FaultSettings, self._set_faults), methods=["PUT"]),
            Route("/control/limits", self._setter(Limits, self._set_limits), methods=["PUT"]),
            Route("/control/app", self._setter(AppSettings, self._set_app), methods=["PUT"]),
            Route("/control/clock", self._setter(ClockSettings, self._set_clock), methods=["PUT"]),
            Route("/control/webhooks/enable", self.enable_webhook, methods=["POST"]),
        ]

    async def acknowledged_events(self, _: Request) -> Response:
        """The last 100,000 events that a receiver has acknowledged.

        Each is a list of vendor, type, event, id, and the event's time (Xero) or the SHA-256 of the body (Copper).
        """
        return JSONResponse(list(self.delivery.acknowledged_events))

    async def state(self, _: Request) -> Response:
        """Counts of data, calls and deliveries; `pending_deliveries` is 0 when every webhook is delivered."""
        return JSONResponse(
            {
                "pending_deliveries": self.delivery.pending_count,
                "clock_offset_seconds": self.world.clock.offset_seconds,
                "deliveries": asdict(self.delivery.counts),
                "webhook_status": self.world.app.webhook_status,
                "calls": dict(self.faults.calls),
                "rate_limited": self.limiter.rate_limited,
                "max_concurrent_calls": dict(self.limiter.max_running),
                "max_calls_per_minute": dict(self.limiter.max_per_minute),
                "max_refresh_token_uses": self._max_refresh_token_uses(),
                "organisations": [
                    {
                        "tenant": str(organisation.tenant_id),
                        "name": organisation.name,
                        "contacts": len(organisation.contacts),
                        "invoices": len(organisation.invoices),
                        "credits": len(organisation.credits),
                    }
                    for organisation in self.world.organisations.values()
                ],
                "accounts": [
                    {
                        "account": account.id,
                        "name": account.name,
                        "api_key": account.users[0].api_key,
                        "email": account.users[0].email,
                        "subscriptions": len(account.subscriptions),
                        **{record_type: len(records) for record_type, records in account.records.items()},
                    }
                    for account in self.world.accounts.values()
                ],
            }
        )

    def _max_refresh_token_uses(self) -> int:
        authorisations = self.world.app.authorisations.values()
        return max(
            (token.uses for authorisation in authorisations for token in authorisation.refresh.values()), default=0
        )

    async def show_world(self, request: Request) -> Response:
        """The records of an account, and the invoices, credits and contacts of an organisation."""
        account = self.world.accounts.get(int(request.query_params.get("account", "0")))
        tenant = request.query_params.get("tenant")
        organisation = self.world.organisations.get(UUID(tenant)) if tenant else None
        if account is None and organisation is None:
            return JSONResponse({"error": "name an account or a tenant"}, 404)
        payload: dict[str, Any] = {}
        if account:
            payload["records"] = {
                record_type: list(records.values()) for record_type, records in account.records.items()
            }
            payload["relations"] = account.relations
        if organisation:
            payload["contacts"] = list(organisation.contacts.values())
            payload["invoices"] = list(organisation.invoices.values())
            payload["credits"] = list(organisation.credits.values())
        return Response(to_json(payload), media_type="application/json")

    async def list_actions(self, _: Request) -> Response:
        """Every action with its description and its arguments."""
        actions = {
            name: {
                "does": inspect.getdoc(getattr(Actions, name)),
                "arguments": model.model_json_schema().get("properties", {}),
                "required": model.model_json_schema().get("required", []),
            }
            for name, model in self.models.items()
        }
        return JSONResponse(actions)

    async def simulate(self, request: Request) -> Response:
        """Simulate an action of a user; 422 with the reason if it is not possible."""
        action = request.path_params["name"].replace("-", "_")
        model = self.models.get(action)
        if model is None:
            matches = difflib.get_close_matches(action, self.models, 1)
            hint = f" Did you mean {matches[0].replace('_', '-')}?" if matches else ""
            message = (
                f"There is no action {action.replace('_', '-')}.{hint} `patina sandbox simulate` lists all actions."
            )
            return JSONResponse({"error": message}, 404)
        try:
            arguments = model.model_validate_json(await request.body() or b"{}")
            values = {name: getattr(arguments, name) for name in type(arguments).model_fields}
            return JSONResponse(getattr(self.actions, action)(**values))
        except ValidationError as error:
            return JSONResponse({"error": validation_message(error, model)}, 422)
        except ActionError as error:
            return JSONResponse({"error": str(error)}, 422)

    def _setter(self, model: type[BaseModel], apply: Callable[[Any], None]) -> Callable[[Request], Any]:
        async def serve(request: Request) -> Response:
            try:
                apply(model.model_validate_json(await request.body() or b"{}"))
            except ValidationError as error:
                return JSONResponse({"error": validation_message(error, model)}, 422)
            return JSONResponse({"ok": True})

        return serve

    def _set_faults(self, settings: FaultSettings) -> None:
        self.faults.api = list(settings.api)
        self.faults.filters = list(settings.filters)
        self.faults.webhooks = {fault.vendor: fault for fault in settings.webhooks}
        if settings.seed is not None:
            self.faults.random.seed(settings.seed)

    def _set_limits(self, limits: Limits) -> None:
        self.limiter.limits = limits

    def _set_app(self, settings: AppSettings) -> None:
        for name, value in settings.model_dump(exclude_none=True).items():
            setattr(self.world.app, name, value)

    def _set_clock(self, settings: ClockSettings) -> None:
        for name, value in settings.model_dump(exclude_none=True).items():
            setattr(self.world.clock, name, value)

    async def enable_webhook(self, _: Request) -> Response:
        """Enable the webhook if the receiver passes Xero's "intent to receive" validation; 409 if it does not."""
        is_valid = await self.delivery.intent_to_receive()
        return JSONResponse({"webhook_status": self.world.app.webhook_status}, 200 if is_valid else 409)
