"""Copper's rules in plain Python: who should see which invoices, given what both vendors hold."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

Key = tuple[str, int]


def plain(email: str) -> str:
    return email.strip().lower()


Links = Iterable[tuple[str, int, str]]


def expected(
    account: dict[str, Any], books: list[dict[str, Any]], links: Links = ()
) -> dict[Key, dict[str, tuple[str, str]]]:
    """For every living record: the invoices it shows, each with status and balance.

    A link by hand (record type, id, contact) is one more address that the record and the contact share.
    """
    records = {
        (kind, one["id"]): one
        for kind in ("lead", "person", "company", "opportunity")
        for one in account["records"][kind]
    }
    linked: dict[str, list[Key]] = {}
    for kind, record_id, contact in links:
        linked.setdefault(contact, []).append((kind, record_id))
    of_address: dict[str, dict[str, tuple[str, str]]] = {}
    for book in books:
        addresses = {
            contact["id"]: {plain(email) for email in (contact["email"], *contact["people"]) if "@" in email}
            for contact in book["contacts"]
        }
        for invoice in book["invoices"]:
            if invoice["status"] == "DELETED" or invoice["type"] != "ACCREC":
                continue
            marks = [f"link {kind} {record_id}" for kind, record_id in linked.get(invoice["contact_id"], ())]
            for email in [*addresses[invoice["contact_id"]], *marks]:
                of_address.setdefault(email, {})[invoice["id"]] = (invoice["status"], balance(invoice))
    return {key: _shown(key, records, account["relations"], of_address) for key in records}


def balance(invoice: dict[str, Any]) -> str:
    if invoice["status"] == "VOIDED":
        return "0.00"
    due = Decimal(invoice["total"]) - Decimal(invoice["paid"]) - Decimal(invoice["credited"])
    return f"{due:.2f}"


def _shown(
    key: Key, records: dict[Key, Any], relations: list[list[Any]], of_address: dict[str, Any]
) -> dict[str, tuple[str, str]]:
    shown: dict[str, tuple[str, str]] = {}
    for person in _holders(key, records, relations):
        for email in [*(plain(one) for one in records[person]["emails"]), f"link {person[0]} {person[1]}"]:
            shown |= of_address.get(email, {})
    return shown


def _related(key: Key, records: dict[Key, Any], relations: list[list[Any]]) -> set[Key]:
    found = {
        ("company", records[key]["company_id"]),
        ("person", records[key]["primary_contact_id"]),
    }
    for left, left_id, right, right_id in relations:
        if (left, left_id) == key:
            found.add((right, right_id))
        if (right, right_id) == key:
            found.add((left, left_id))
    return {end for end in found if end in records}


def _holders(key: Key, records: dict[Key, Any], relations: list[list[Any]]) -> set[Key]:
    """The leads and people whose addresses count for a record, and the companies whose links do."""
    kind = key[0]
    if kind in {"lead", "person"}:
        return {key}
    if kind == "company":
        return {key} | {one for one in records if one[0] == "person" and records[one]["company_id"] == key[1]}
    ends = _related(key, records, relations)
    people = {end for end in ends if end[0] == "person"}
    for end in ends:
        if end[0] == "company":
            people |= _holders(end, records, relations)
    return people
