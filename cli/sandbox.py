"""`patina sandbox`: a sandbox of Xero and Copper, and actions that simulate their users."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote
from uuid import UUID

import httpx
import typer

from cli.errors import fail, usage_error
from sandbox import server

DEFAULT_PORT = 8701
app = typer.Typer(
    name="sandbox",
    help="Run a sandbox of Xero and Copper, and simulate their users.",
    invoke_without_command=True,
    add_completion=False,
)


@app.callback()
def sandbox(
    context: typer.Context,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.", metavar="PORT")] = DEFAULT_PORT,
    seed: Annotated[int, typer.Option(help="The same seed and size give the same data.", metavar="NUMBER")] = 1,
    size: Annotated[int, typer.Option(help="Companies; 0 starts empty.", min=0, metavar="NUMBER")] = 40,
    state: Annotated[Path | None, typer.Option(help="File that keeps the data between starts.", metavar="FILE")] = None,
    limits: Annotated[bool, typer.Option(help="Enforce the vendors' rate limits.", metavar="")] = True,
) -> None:
    """Run a sandbox of Xero and Copper on this machine (without a subcommand)."""
    base_url = f"http://127.0.0.1:{port}"
    if context.invoked_subcommand:
        context.obj = base_url
        return
    typer.echo(f"Sandbox on {base_url}. For a client of Xero and Copper:")
    for name, value in server.environment(base_url).items():
        typer.echo(f"  export {name}={value}")
    typer.echo(f"Keys, data and counts: {base_url}/control/state. To simulate a user: patina sandbox simulate")
    sys.stdout.flush()
    server.serve(host="127.0.0.1", port=port, seed=seed, size=size, state=state, limits=limits)


@app.command()
def simulate(
    context: typer.Context,
    action: Annotated[str | None, typer.Argument(help="An action; omit to list all.", metavar="ACTION")] = None,
    arguments: Annotated[
        list[str] | None, typer.Argument(help="name=value, where the value may be JSON.", metavar="ARGUMENT=VALUE")
    ] = None,
) -> None:
    """Simulate a user of Xero or Copper: pay-invoice invoice=INV-0058 amount=40."""
    if action is None:
        _list_actions(context)
        return
    values = _parse_arguments(arguments or [])
    if isinstance(values.get("invoice"), str):
        values["invoice"] = _find_invoice_id(context, values["invoice"])
    response = _request(context, "POST", f"actions/{quote(action, safe='')}", json=values)
    if response.status_code == 404:
        usage_error(f'unknown action "{action}"; run `patina sandbox simulate` to list actions.', "ACTION")
    if response.status_code >= 400:
        fail(f"{action}: {response.json()['error']}")
    typer.echo(json.dumps(response.json()))


@app.command()
def faults(
    context: typer.Context,
    settings: Annotated[
        str,
        typer.Argument(help='JSON, such as {"webhooks":[{"vendor":"copper","loss":0.5}]}.', metavar="JSON"),
    ] = "{}",
) -> None:
    """Set the sandbox's faults; without an argument, turn all of them off."""
    try:
        json.loads(settings)
    except ValueError as error:
        usage_error(f"not valid JSON ({error}).", "JSON")
    headers = {"Content-Type": "application/json"}
    response = _request(context, "PUT", "faults", content=settings, headers=headers)
    if response.status_code >= 400:
        fail(f"faults: {response.json()['error']}")
    typer.echo("faults ok")


def _list_actions(context: typer.Context) -> None:
    for name, action in _request(context, "GET", "actions").json().items():
        arguments = [f"{argument}=…" for argument in action["required"]]
        arguments += [f"[{argument}=…]" for argument in action["arguments"] if argument not in action["required"]]
        typer.echo(f"{name.replace('_', '-')} {' '.join(arguments)}\n    {action['does']}")


def _find_invoice_id(context: typer.Context, invoice: str) -> str:
    """The ID of an invoice, given its ID or its number."""
    with suppress(ValueError):
        return str(UUID(invoice))
    organisations = _request(context, "GET", "state").json()["organisations"]
    ids = [
        row["id"]
        for organisation in organisations
        for row in _request(context, "GET", f"world?tenant={organisation['tenant']}").json()["invoices"]
        if row["number"] == invoice
    ]
    if not ids:
        fail(f"The sandbox has no invoice {invoice}.")
    if len(ids) > 1:
        fail(f"{len(ids)} organisations have an invoice {invoice}. Give its ID: {' or '.join(ids)}.")
    return str(ids[0])


def _request(context: typer.Context, method: str, path: str, **options: Any) -> httpx.Response:
    base_url = context.obj or f"http://127.0.0.1:{DEFAULT_PORT}"
    address = base_url.removeprefix("http://")
    try:
        return httpx.request(method, f"{base_url}/control/{path}", trust_env=False, timeout=30, **options)
    except httpx.ConnectError:
        fail(f"No sandbox on {address}. Start one with `patina sandbox`, or give --port.")
    except httpx.HTTPError as error:
        fail(f"The sandbox on {address} didn't respond ({type(error).__name__}).")


def _parse_arguments(arguments: list[str]) -> dict[str, Any]:
    """`name=value` arguments, with values parsed as JSON where possible."""
    values: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals:
            usage_error(f'"{argument}": write it as name=value.', "ARGUMENT=VALUE")
        values[name.replace("-", "_")] = _parse_value(value)
    return values


def _parse_value(text: str) -> Any:
    """The value of a JSON text; any other text as it is, and so are numbers that JSON cannot represent (NaN, 1e400)."""
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)
    except ValueError:
        return text
    return value
