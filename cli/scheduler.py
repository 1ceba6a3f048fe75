"""`patina scheduler`."""

from __future__ import annotations

import typer

from cli.readiness import check_readiness
from runtime import logs, tracing
from worker.jobs.scheduler import serve

app = typer.Typer(add_completion=False)


@app.command()
def scheduler() -> None:
    """Run the scheduler."""
    check_readiness("xero_client_id", "xero_client_secret")
    logs.configure("scheduler")
    tracing.start("scheduler")
    serve()
    tracing.stop()
