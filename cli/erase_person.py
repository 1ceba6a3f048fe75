"""`patina erase-person`: GDPR erasure of one person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated
from uuid import UUID

import typer

from cli.errors import usage_error
from cli.options import AccountOption, resolve_account
from runtime import logs
from runtime.numbers import MAX_ID, count_noun, whole_number
from services.person_erasure import ErasureResult, erase_by_contact, erase_by_email, erase_by_record
from store.accounts.audit import COMMAND_LINE
from store.accounts.erasure import Namesake
from store.db.enums import RecordType
from worker.vendors.addresses import escape_invisible, normalise_address

app = typer.Typer(add_completion=False)
MAX_NAME_WIDTH = 60


@app.command("erase-person")
def erase_person(
    email: Annotated[
        str | None, typer.Option(help="The person's email address; the default is a prompt for it.", metavar="EMAIL")
    ] = None,
    record: Annotated[
        str | None, typer.Option(help="The person's Copper record, such as person/9600073.", metavar="TYPE/ID")
    ] = None,
    contact: Annotated[str | None, typer.Option(help="ID of the person's Xero contact.", metavar="ID")] = None,
    account: AccountOption = None,
) -> None:
    """Erase a person's email addresses and names, and list what else carries the name."""
    logs.configure("erase-person", for_command=True)
    if sum(option is not None for option in (email, record, contact)) > 1:
        usage_error("give one of --email, --record and --contact.")
    if record is not None:
        record_type, record_id = _parse_record(record)
        result = erase_by_record(resolve_account(account), record_type, record_id, actor=COMMAND_LINE)
    elif contact is not None:
        contact_id = _parse_contact(contact)
        result = erase_by_contact(resolve_account(account), contact_id, actor=COMMAND_LINE)
    else:
        address = _parse_email(email if email is not None else typer.prompt("Email address"))
        result = erase_by_email(resolve_account(account), address, actor=COMMAND_LINE)
    for line in _format_result(result):
        typer.echo(line)


def _parse_email(text: str) -> str:
    """The normal form of an email address."""
    address = normalise_address(text)
    if address is None:
        usage_error("not a valid email address.", "--email")
    return address


def _parse_record(text: str) -> tuple[RecordType, int]:
    type_name, _, number = text.strip().partition("/")
    types = {record_type.value: record_type for record_type in RecordType}
    types |= {record_type.plural: record_type for record_type in RecordType}
    record_id = whole_number(number, maximum=MAX_ID)
    if type_name not in types or record_id is None:
        usage_error("give a type and an ID, such as person/9600073.", "--record")
    return types[type_name], record_id


def _parse_contact(text: str) -> UUID:
    try:
        return UUID(text.strip())
    except ValueError:
        usage_error("not the ID of a Xero contact.", "--contact")


def _format_result(result: ErasureResult) -> Iterator[str]:
    yield _format_summary(result)
    if result.namesakes:
        yield "These also carry the name or an address. They may be other people's, so they were left unchanged:"
        yield from map(_format_namesake, result.namesakes)
    yield "Erase the person in Copper and Xero too; otherwise the next sync re-imports them."


def _format_summary(result: ErasureResult) -> str:
    texts = f" and {count_noun(result.others, 'other text')}" if result.others else ""
    bodies = count_noun(result.bodies, "stored body", "stored bodies")
    rows = f"{count_noun(result.records, 'record')}, {count_noun(result.contacts, 'contact')}"
    parts = f"{rows}, {bodies}{texts}" if texts else f"{rows} and {bodies}"
    return f"erase-person ok: erased from {parts}; {count_noun(result.rows, 'row')} changed"


def _format_namesake(namesake: Namesake) -> str:
    name = escape_invisible(namesake.text)
    return f"  {namesake.entity_type} {namesake.id}: {name[:MAX_NAME_WIDTH]}{'…' if len(name) > MAX_NAME_WIDTH else ''}"
