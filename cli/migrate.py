"""`patina migrate`."""

from __future__ import annotations

from typing import Annotated

import typer

from store.db import migrations

app = typer.Typer(add_completion=False)


@app.command()
def migrate(
    revision: Annotated[str, typer.Argument(help="head, base, -1 or a revision ID.", metavar="REVISION")] = "head",
) -> None:
    """Bring the database's schema up to date."""
    migrations.migrate(revision)
    typer.echo(f"schema at {revision}")
