"""What `patina explain` tells of a record."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from store.matching import Reason
from terminal.words import counted
from worker.addresses import visible
from worker.explain import Address, Explanation

WIDTH = 80
MAX_NUMBERS = 8


def lines(found: Explanation) -> Iterator[str]:
    """What a person reads, `WIDTH` columns as far as names allow; the last line is the sum."""
    for line in _lines(found):
        indent = len(line) - len(line.lstrip())
        yield from textwrap.wrap(
            line,
            WIDTH,
            subsequent_indent=" " * (indent + 2),
            break_long_words=False,
            break_on_hyphens=False,
            drop_whitespace=True,
        )


def _lines(found: Explanation) -> Iterator[str]:
    name = found.record.name if found.record else ""
    gone = ", deleted in Copper" if found.record and found.record.gone else ""
    yield f"{found.kind.value} {found.record_id}: {name or 'unnamed'}{gone}"
    for address in found.addresses:
        typed = _typed(address.as_typed, "Copper")
        yield f"  {address.email}{typed} ({_whose(address)}): {'matched' if address.matched else 'no match'}"
    for contact in found.contacts:
        yield f"  contact {contact.name or 'unnamed'} ({contact.organisation_name})"
        for way in contact.ways:
            by = f"{way.email}{_typed(way.contact_as_typed, 'Xero')}" if way.email else _link(way)
            yield f"    matched by {by} ({_whose(way)})"
        numbers = [invoice.number or "(no number)" for invoice in contact.invoices]
        more = f" and {len(numbers) - MAX_NUMBERS} more" if len(numbers) > MAX_NUMBERS else ""
        listed = f": {', '.join(numbers[:MAX_NUMBERS])}{more}" if numbers else ""
        yield f"    {counted(len(numbers), 'invoice')}{listed}"
    for miss in found.near_misses:
        how = "differs by one character" if miss.one_off else "same domain"
        email = f"{miss.email}{_typed(miss.as_typed, 'Xero')}"
        yield f"  possible match: {miss.contact_name or 'unnamed'}, {email} ({how}, {_invoices(miss.invoices)})"
    if not found.complete:
        yield "  not all results are shown"
    yield (
        f"explain ok: {counted(len(found.addresses), 'address', 'addresses')}, "
        f"{counted(len(found.contacts), 'contact')}, "
        f"{_invoices(sum(len(contact.invoices) for contact in found.contacts))}, "
        f"{counted(len(found.near_misses), 'possible match', 'possible matches')}"
    )


def _typed(as_typed: str | None, where: str) -> str:
    return f" (in {where}: {visible(as_typed)})" if as_typed else ""


def _link(reason: Reason) -> str:
    return f"a link that {reason.linked_by} created"


def _invoices(number: int) -> str:
    return counted(number, "invoice")


def _whose(reason: Address | Reason) -> str:
    company = reason.company_id and reason.record_type == "person"
    through = f" at {reason.company_name or 'a company'}" if company else ""
    return f"{reason.record_type} {reason.record_id} {reason.record_name}".strip() + through
