"""`patina explain`: which invoices a record shows, and why."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Annotated

import typer

from cli.errors import usage_error
from cli.explain_invoice import find_reports, format_invoice_report
from cli.options import AccountOption, JsonOption, resolve_account
from runtime.numbers import count_noun, whole_number
from services.match_report import MatchReport, RecordAddress, build_match_report
from store.db.enums import RecordType
from store.read_model.match_reports import Reason
from web.api.account_invoices import invoice_details_schema
from web.api.matches import match_schema
from web.presentation import labels
from worker.vendors.addresses import escape_invisible

app = typer.Typer(add_completion=False)
WIDTH = 80
MAX_NUMBERS = 8


@app.command()
def explain(
    type: Annotated[str, typer.Argument(help="lead, person, company, opportunity or invoice", metavar="TYPE")],
    item: Annotated[str, typer.Argument(help="Copper ID; or an invoice's number or ID.", metavar="ID")],
    account: AccountOption = None,
    json_: JsonOption = False,
) -> None:
    """Explain which invoices a record shows, or which records show an invoice, and why."""
    if type == "invoice":
        _explain_invoice(resolve_account(account), item, json_=json_)
        return
    if type not in list(RecordType):
        usage_error(f'invalid type "{type}": choose lead, person, company, opportunity or invoice.', "TYPE")
    record = whole_number(item)
    if record is None:
        usage_error("not a Copper ID.", "ID")
    report = build_match_report(resolve_account(account), RecordType(type), record)
    if json_:
        typer.echo(match_schema(report).model_dump_json())
    if report.record is None:
        raise LookupError(f"{type.capitalize()} {record} hasn't been synced from Copper.")
    if not json_:
        for line in format_report(report):
            typer.echo(line)


def _explain_invoice(account_id: int, text: str, *, json_: bool) -> None:
    reports = find_reports(account_id, text)
    if not reports:
        raise LookupError(f"No invoice has the number or ID {text}.")
    for report in reports:
        for line in (
            [invoice_details_schema(report, with_reasons=True).model_dump_json()]
            if json_
            else format_invoice_report(report)
        ):
            typer.echo(line)


def format_report(report: MatchReport) -> Iterator[str]:
    """The report in lines of at most `WIDTH` columns unless a name is longer; the last line is a summary."""
    for line in _format_report(report):
        indent = len(line) - len(line.lstrip())
        yield from textwrap.wrap(
            line,
            WIDTH,
            subsequent_indent=" " * (indent + 2),
            break_long_words=False,
            break_on_hyphens=False,
            drop_whitespace=True,
        )


def _format_report(report: MatchReport) -> Iterator[str]:
    name = report.record.name if report.record else ""
    deleted = ", deleted in Copper" if report.record and report.record.is_deleted else ""
    yield f"{report.record_type.value} {report.record_id}: {name or 'unnamed'}{deleted}"
    for address in report.addresses:
        original = _format_original(address.as_typed, "Copper")
        result = "matched" if address.is_matched else "no match"
        yield f"  {address.email}{original} ({_format_owner(address)}): {result}"
    for contact in report.contacts:
        yield f"  contact {contact.name or 'unnamed'} ({contact.organisation_name})"
        for reason in contact.reasons:
            yield f"    matched by {_format_reason(reason)} ({_format_owner(reason)})"
        numbers = [labels.row_name(invoice.type, invoice.number) for invoice in contact.invoices]
        more = f" and {len(numbers) - MAX_NUMBERS} more" if len(numbers) > MAX_NUMBERS else ""
        listed = f": {', '.join(numbers[:MAX_NUMBERS])}{more}" if numbers else ""
        yield f"    {labels.count_by_type([invoice.type for invoice in contact.invoices])}{listed}"
    for pin in report.pins:
        pinned_at = pin.pinned_at.strftime("%-d %b %Y")
        yield f"  {labels.row_name(pin.type, pin.number)} pinned by {pin.pinned_by or 'an admin'} on {pinned_at}"
    if report.shows_pinned_only:
        yield "  opportunities show pinned invoices only"
    for near_match in report.near_matches:
        similarity = "differs by one character" if near_match.is_one_edit_away else "same domain"
        email = f"{near_match.email}{_format_original(near_match.as_typed, 'Xero')}"
        details = f"{similarity}, {count_noun(near_match.invoices, 'invoice')}"
        yield f"  possible match: {near_match.contact_name or 'unnamed'}, {email} ({details})"
    if not report.is_complete:
        yield "  not all results are shown"
    yield (
        f"explain ok: {count_noun(len(report.addresses), 'address', 'addresses')}, "
        f"{count_noun(len(report.contacts), 'contact')}, "
        f"{labels.count_by_type([invoice.type for contact in report.contacts for invoice in contact.invoices])}, "
        f"{count_noun(len(report.near_matches), 'possible match', 'possible matches')}"
    )


def _format_original(as_typed: str | None, vendor: str) -> str:
    return f" (in {vendor}: {escape_invisible(as_typed)})" if as_typed else ""


def _format_reason(reason: Reason) -> str:
    if reason.email:
        return f"{reason.email}{_format_original(reason.contact_as_typed, 'Xero')}"
    if reason.email_domain:
        return f"the company's email domain {reason.email_domain}"
    return f"a link that {reason.linked_by} created"


def _format_owner(owner: RecordAddress | Reason) -> str:
    """The record that an address belongs to, and the company that it was reached through."""
    has_company = owner.company_id and owner.record_type == "person"
    company = f" at {owner.company_name or 'a company'}" if has_company else ""
    return f"{owner.record_type} {owner.record_id} {owner.record_name}".strip() + company
