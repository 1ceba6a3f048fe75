"""The control API: act as a user of either product, set faults and limits, look at what was sent."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import asdict
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails, to_json
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox.actions import ActionError, Actions
from sandbox.delivery import Delivery
from sandbox.faults import ApiFault, Faults, FilterFault, WebhookFault
from sandbox.limits import Limits, Meter
from sandbox.world import World


class FaultSettings(BaseModel):
    """Replaces all faults that are on."""

    api: list[ApiFault] = Field(default_factory=list)
    filters: list[FilterFault] = Field(default_factory=list)
    webhooks: list[WebhookFault] = Field(default_factory=list)
    seed: int | None = None


class AppSettings(BaseModel):
    """The Xero app: its webhook, and how consent is given.

    `auto_consent` without a person, `consent_to` for these organisations, `consent_as` by the Xero user with this
    email address, `granted_scopes` for no more than these scopes (empty: for all that are asked for).
    """

    webhook_url: str | None = None
    webhook_key: str | None = None
    auto_consent: bool | None = None
    consent_to: list[UUID] | None = None
    consent_as: str | None = Field(None, min_length=3, max_length=254)
    granted_scopes: list[str] | None = None


class ClockSettings(BaseModel):
    """Move the sandbox's clock ahead, and set how fast its waits for retries pass."""

    ahead: float | None = Field(None, ge=0)
    speed: float | None = Field(None, gt=0, le=1_000_000)


def action_models() -> dict[str, type[BaseModel]]:
    """Each action's arguments as a model, read from its signature."""
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


def explained(error: ValidationError, model: type[BaseModel]) -> str:
    """What is wrong with the arguments, in the words of whoever typed them."""
    return "; ".join(_explained(problem, model) for problem in error.errors())


def _explained(problem: ErrorDetails, model: type[BaseModel]) -> str:
    name, kind = ".".join(map(str, problem["loc"])), problem["type"]
    if kind == "missing":
        return f"{name} is missing"
    if kind == "extra_forbidden":
        return f"there is no argument {name}; known are {', '.join(model.model_fields)}"
    if kind == "literal_error":
        return f"{name} must be one of {problem.get('ctx', {}).get('expected')}"
    if kind == "json_invalid":
        return "the arguments are not JSON"
    if kind.startswith(("greater_", "less_")):
        return f"{name} is out of range"
    expected = EXPECTED.get(kind.partition("_")[0])
    return f"{name} must be {expected}" if expected else f"{name} is not understood"


class Control:
    """The routes under `/control`."""

    def __init__(self, world: World, actions: Actions, delivery: Delivery, faults: Faults, meter: Meter) -> None:
        self.world = world
        self.actions = actions
        self.delivery = delivery
        self.faults = faults
        self.meter = meter
        self.models = action_models()

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/control/state", self.state),
            Route("/control/acknowledged", self.acknowledged),
            Route("/control/actions", self.list_actions),
            Route("/control/act/{name}", self.act, methods=["POST"]),
            Route("/control/world", self.show_world),
            Route("/control/faults", self._setter(FaultSettings, self._set_faults), methods=["PUT"]),
            Route("/control/limits", self._setter(Limits, self._set_limits), methods=["PUT"]),
            Route("/control/app", self._setter(AppSettings, self._set_app), methods=["PUT"]),
            Route("/control/clock", self._setter(ClockSettings, self._set_clock), methods=["PUT"]),
            Route("/control/webhooks/enable", self.enable, methods=["POST"]),
        ]

    async def acknowledged(self, _: Request) -> Response:
        """Events that a receiver has acknowledged, the last 100,000: source, kind, event, id, and the event's
        time (Xero) or the body's SHA-256 (Copper)."""
        return JSONResponse(list(self.delivery.acknowledged))

    async def state(self, _: Request) -> Response:
        """Counts of data, calls and deliveries; `waiting` is 0 when every webhook is delivered."""
        return JSONResponse(
            {
                "waiting": self.delivery.waiting,
                "clock_ahead": self.world.clock.ahead,
                "delivered": asdict(self.delivery.counts),
                "webhook_status": self.world.app.webhook_status,
                "calls": dict(self.faults.calls),
                "refused": self.meter.refused,
                "most_running": dict(self.meter.most_running),
                "busiest_minute": dict(self.meter.busiest),
                "most_uses_of_a_refresh_token": self._refresh_uses(),
                "organisations": [
                    {
                        "tenant": str(one.tenant_id),
                        "name": one.name,
                        "contacts": len(one.contacts),
                        "invoices": len(one.invoices),
                    }
                    for one in self.world.organisations.values()
                ],
                "accounts": [
                    {
                        "account": one.id,
                        "name": one.name,
                        "api_key": one.users[0].api_key,
                        "email": one.users[0].email,
                        "subscriptions": len(one.subscriptions),
                        **{kind: len(records) for kind, records in one.records.items()},
                    }
                    for one in self.world.accounts.values()
                ],
            }
        )

    def _refresh_uses(self) -> int:
        held = self.world.app.authorisations.values()
        return max((token.uses for one in held for token in one.refresh.values()), default=0)

    async def show_world(self, request: Request) -> Response:
        """The records of one account and the invoices and contacts of one organisation, as data."""
        account = self.world.accounts.get(int(request.query_params.get("account", "0")))
        tenant = request.query_params.get("tenant")
        organisation = self.world.organisations.get(UUID(tenant)) if tenant else None
        if account is None and organisation is None:
            return JSONResponse({"error": "name an account or a tenant"}, 404)
        shown: dict[str, Any] = {}
        if account:
            shown["records"] = {kind: list(held.values()) for kind, held in account.records.items()}
            shown["relations"] = account.relations
        if organisation:
            shown["contacts"] = list(organisation.contacts.values())
            shown["invoices"] = list(organisation.invoices.values())
        return Response(to_json(shown), media_type="application/json")

    async def list_actions(self, _: Request) -> Response:
        """Every action with what it does and the arguments it takes."""
        listed = {
            name: {
                "does": inspect.getdoc(getattr(Actions, name)),
                "arguments": model.model_json_schema().get("properties", {}),
                "required": model.model_json_schema().get("required", []),
            }
            for name, model in self.models.items()
        }
        return JSONResponse(listed)

    async def act(self, request: Request) -> Response:
        """Do one thing as a user would; 422 with the reason when it makes no sense."""
        name = request.path_params["name"].replace("-", "_")
        model = self.models.get(name)
        if model is None:
            near = difflib.get_close_matches(name, self.models, 1)
            hint = f" Did you mean {near[0].replace('_', '-')}?" if near else ""
            text = f"There is no action {name.replace('_', '-')}.{hint} `patina sandbox act` lists them all."
            return JSONResponse({"error": text}, 404)
        try:
            given = model.model_validate_json(await request.body() or b"{}")
            values = {key: getattr(given, key) for key in type(given).model_fields}
            return JSONResponse(getattr(self.actions, name)(**values))
        except ValidationError as error:
            return JSONResponse({"error": explained(error, model)}, 422)
        except ActionError as error:
            return JSONResponse({"error": str(error)}, 422)

    def _setter(self, model: type[BaseModel], apply: Callable[[Any], None]) -> Callable[[Request], Any]:
        async def serve(request: Request) -> Response:
            try:
                apply(model.model_validate_json(await request.body() or b"{}"))
            except ValidationError as error:
                return JSONResponse({"error": explained(error, model)}, 422)
            return JSONResponse({"ok": True})

        return serve

    def _set_faults(self, wanted: FaultSettings) -> None:
        self.faults.api = list(wanted.api)
        self.faults.filters = list(wanted.filters)
        self.faults.webhooks = {one.vendor: one for one in wanted.webhooks}
        if wanted.seed is not None:
            self.faults.random.seed(wanted.seed)

    def _set_limits(self, wanted: Limits) -> None:
        self.meter.limits = wanted

    def _set_app(self, wanted: AppSettings) -> None:
        for name, value in wanted.model_dump(exclude_none=True).items():
            setattr(self.world.app, name, value)

    def _set_clock(self, wanted: ClockSettings) -> None:
        for name, value in wanted.model_dump(exclude_none=True).items():
            setattr(self.world.clock, name, value)

    async def enable(self, _: Request) -> Response:
        """Switch the webhook on: Xero's intent to receive decides."""
        right = await self.delivery.intent_to_receive()
        return JSONResponse({"webhook_status": self.world.app.webhook_status}, 200 if right else 409)
