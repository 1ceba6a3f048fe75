"""`patina rotate-keys`."""

from __future__ import annotations

import typer

from cli.audit_log import record_command
from cli.errors import fail
from runtime.numbers import count_noun
from store.db import key_rotation
from store.db.crypto import DecryptionError
from store.db.database import transaction
from store.db.enums import INSTALLATION

app = typer.Typer(add_completion=False)


@app.command("rotate-keys")
def rotate_keys() -> None:
    """Re-encrypt all stored secrets with the newest of ENCRYPTION_KEYS.

    Then the older keys can be removed.
    """
    total = 0
    for table in key_rotation.SELECT:
        try:
            with transaction() as session:
                count = key_rotation.reencrypt_table(session, table)
                record_command(session, INSTALLATION, "secrets.rotated", f"{table}: {count}")
                total += count
        except DecryptionError as error:
            fail(f"{table}: {error}")
    typer.echo(f"rotate-keys ok: {count_noun(total, 'secret')} encrypted with the newest key")
