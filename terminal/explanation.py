"""What `patina explain` tells of a record."""

from __future__ import annotations

from collections.abc import Iterator

from store.matching import Reason
from worker.addresses import visible
from worker.explain import Address, Explanation

MOST_NUMBERS = 8


def lines(found: Explanation) -> Iterator[str]:
    """What a person reads, 80 columns wide as far as names allow; the last line is the sum."""
    name = found.record.name if found.record else ""
    gone = ", deleted in Copper" if found.record and found.record.gone else ""
    yield f"{found.kind.value} {found.record_id}: {name or 'without a name'}{gone}"
    for address in found.addresses:
        has = "a contact has it" if address.matched else "no contact has it"
        yield f"  {address.email}{_typed(address.as_typed, 'Copper')}, of {_whose(address)}: {has}"
    for contact in found.contacts:
        yield f"  contact {contact.name or 'without a name'} ({contact.organisation_name})"
        for way in contact.ways:
            by = (
                f"{way.email}{_typed(way.contact_as_typed, 'Xero')}"
                if way.email
                else f"a link that {way.linked_by} made"
            )
            yield f"    by {by}, of {_whose(way)}"
        numbers = [one.number or "one without a number" for one in contact.invoices]
        more = f" and {len(numbers) - MOST_NUMBERS} more" if len(numbers) > MOST_NUMBERS else ""
        yield f"    brings {', '.join(numbers[:MOST_NUMBERS]) or 'no invoice'}{more}"
    for miss in found.near_misses:
        how = "one character off" if miss.one_off else "same domain"
        email = f"{miss.email}{_typed(miss.as_typed, 'Xero')}"
        yield f"  nearly: {miss.contact_name or 'without a name'}, {email} ({how}, {miss.invoices} invoices)"
    if not found.complete:
        yield "  there is more than is listed here"
    yield (
        f"explain ok: {_count(len(found.addresses), 'address', 'addresses')}, "
        f"{_count(len(found.contacts), 'contact', 'contacts')}, "
        f"{_count(sum(len(one.invoices) for one in found.contacts), 'invoice', 'invoices')}, "
        f"{_count(len(found.near_misses), 'near miss', 'near misses')}"
    )


def _typed(as_typed: str | None, where: str) -> str:
    return f" (in {where}: {visible(as_typed)})" if as_typed else ""


def _whose(one: Address | Reason) -> str:
    through = f" with {one.company_name or 'a company'}" if one.company_id and one.record_type == "person" else ""
    return f"{one.record_type} {one.record_id} {one.record_name}".strip() + through


def _count(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"
