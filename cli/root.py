"""The root of the `patina` command: its subcommands and global options."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Annotated

import typer

from cli.errors import fail
from cli.lazy_group import CommandSpec, lazy_group

COMMANDS = {
    "migrate": CommandSpec("cli.migrate", "Bring the database's schema up to date."),
    "web": CommandSpec("cli.web", "Run the web server (webhooks, API, panel, admin pages)."),
    "worker": CommandSpec("cli.worker", "Run the background worker."),
    "scheduler": CommandSpec("cli.scheduler", "Run the scheduler."),
    "connect": CommandSpec(
        "cli.connect", "Connect a Copper account and its Xero organisations; prints a read API key."
    ),
    "backfill": CommandSpec(
        "cli.sync", "Import everything from Xero and Copper. Ctrl-C stops watching; the run continues."
    ),
    "catch-up": CommandSpec(
        "cli.sync", "Import what changed in Xero and Copper since the last sync, as the scheduler does regularly."
    ),
    "reconcile": CommandSpec("cli.sync", "Compare everything with Xero and Copper, report differences and fix them."),
    "rebuild": CommandSpec("cli.sync", "Recompute every row of the read model from the mirror."),
    "verify": CommandSpec(
        "cli.verify", "Compare the read model with a rebuild, and email addresses with their originals."
    ),
    "status": CommandSpec("cli.status", "Show each account's data, backlog, API usage and problems."),
    "explain": CommandSpec(
        "cli.explain", "Explain which invoices a record shows, or which records show an invoice, and why."
    ),
    "doctor": CommandSpec("cli.doctor", "Check the installation (settings, services, connections) and suggest fixes."),
    "rotate-keys": CommandSpec("cli.rotate_keys", "Re-encrypt all stored secrets with the newest of ENCRYPTION_KEYS."),
    "erase-person": CommandSpec(
        "cli.erase_person", "Erase a person's email addresses and names, and list what else carries the name."
    ),
    "demo": CommandSpec("cli.demo", "Run everything on this machine with a sandbox, and demonstrate four changes."),
    "sandbox": CommandSpec("cli.sandbox", "Run a sandbox of Xero and Copper, and simulate their users."),
    "pins": CommandSpec("cli.pins", "List, add and remove invoices pinned to opportunities."),
    "links": CommandSpec("cli.links", "Import and export links between contacts and records."),
    "keys": CommandSpec("cli.keys", "List, create and revoke API keys."),
    "sessions": CommandSpec("cli.sessions", "List and end browser sessions."),
    "inbox": CommandSpec("cli.inbox", "List, show, retry and dismiss failed events."),
    "invite": CommandSpec("cli.invite", "Create a set-up code, which lets one new Copper account connect."),
}
app = typer.Typer(
    name="patina",
    cls=lazy_group(COMMANDS),
    help="Shows a company's Xero invoices on its Copper records.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(is_requested: bool) -> None:
    if is_requested:
        typer.echo(f"patina {version('patina')}")
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, metavar="", callback=_print_version
        ),
    ] = False,
    embedded: Annotated[
        bool,
        typer.Option(
            "--embedded",
            help="Run PostgreSQL and Redis locally where none is configured; for evaluation.",
            metavar="",
        ),
    ] = False,
) -> None:
    """Shows a company's Xero invoices on its Copper records."""
    # Imported here because settings are slow to import: `patina --help` and `--version` do not come here.
    from runtime.embedded import use
    from runtime.service_urls import start_missing_servers_with
    from runtime.settings import override_settings

    if embedded:
        override_settings({"EMBEDDED_SERVICES": "true"})
    start_missing_servers_with(use)


def main() -> None:
    """Run the command; a known error is reported in one line, with exit code 1."""
    try:
        app(prog_name="patina")
    except Exception as error:
        # Imported here because most commands succeed, and `patina --help` must be fast.
        from cli.error_messages import describe_error

        message = describe_error(error)
        if message is None or os.environ.get("LOG_LEVEL") == "debug":
            raise
        fail(message)
