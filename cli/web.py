"""`patina web`."""

from __future__ import annotations

import typer

from cli.readiness import check_readiness
from runtime.settings import settings
from web.app import create
from web.server import Server

app = typer.Typer(add_completion=False)


@app.command()
def web() -> None:
    """Run the web server (webhooks, API, panel, admin pages)."""
    check_readiness("xero_webhook_keys")
    Server(
        create(),
        host=settings().web_host,
        port=settings().port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=25,
    ).run()
