"""A reference model of the matching rules in plain Python: the invoices of each record, from both vendors' data."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

Key = tuple[str, int]
SHOWN_TYPES = {"ACCREC", "ACCRECCREDIT"}
"""What an account shows unless its settings say otherwise."""


PUBLIC_DOMAINS = {"gmail.com", "yahoo.com"}


def normalized(email: str) -> str:
    return email.strip().lower()


Links = Iterable[tuple[str, int, str]]
Pins = Iterable[tuple[int, str]]


def expected_invoices(
    account: dict[str, Any],
    organisations: list[dict[str, Any]],
    links: Links = (),
    pins: Pins = (),
    *,
    shows_pinned_only: bool = False,
    matches_email_domain: bool = False,
) -> dict[Key, dict[str, tuple[str, str]]]:
    """For every existing record: its invoices and credit notes, each with status and balance.

    A manual link (record type, id, contact) counts as another email address that record and contact share, and so does
    the email domain of a company (`matches_email_domain`). A pin (opportunity, invoice) adds the invoice to the
    opportunity, which has no others if it `shows_pinned_only`.
    """
    records = {
        (record_type, record["id"]): record
        for record_type in ("lead", "person", "company", "opportunity")
        for record in account["records"][record_type]
    }
    links_by_contact: dict[str, list[Key]] = {}
    for record_type, record_id, contact in links:
        links_by_contact.setdefault(contact, []).append((record_type, record_id))
    invoices_by_address: dict[str, dict[str, tuple[str, str]]] = {}
    invoices_by_opportunity: dict[Key, dict[str, tuple[str, str]]] = {}
    for organisation in organisations:
        addresses = {
            contact["id"]: {
                normalized(email) for email in (contact["email"], *contact["person_emails"]) if "@" in email
            }
            for contact in organisation["contacts"]
        }
        for invoice in [*organisation["invoices"], *organisation["credits"]]:
            if invoice["status"] == "DELETED" or invoice["type"] not in SHOWN_TYPES:
                continue
            link_addresses = [
                f"link {record_type} {record_id}"
                for record_type, record_id in links_by_contact.get(invoice["contact_id"], ())
            ]
            balance = balance_due(invoice) if invoice["type"] == "ACCREC" else remaining_credit(invoice)
            for opportunity, pinned in pins:
                if pinned == invoice["id"]:
                    key = ("opportunity", opportunity)
                    invoices_by_opportunity.setdefault(key, {})[invoice["id"]] = (invoice["status"], balance)
            domains = {f"domain {email.rpartition('@')[2]}" for email in addresses[invoice["contact_id"]]}
            for email in [*addresses[invoice["contact_id"]], *domains, *link_addresses]:
                invoices_by_address.setdefault(email, {})[invoice["id"]] = (invoice["status"], balance)
    return {
        key: invoices_by_opportunity.get(key, {})
        | (
            {}
            if shows_pinned_only and key[0] == "opportunity"
            else _record_invoices(
                key, records, account["relations"], invoices_by_address, matches_email_domain=matches_email_domain
            )
        )
        for key in records
    }


def remaining_credit(credit: dict[str, Any]) -> str:
    if credit["status"] == "VOIDED":
        return "0.00"
    applied = sum(Decimal(allocation["amount"]) for allocation in credit["allocations"])
    return f"{Decimal(credit['total']) - applied:.2f}"


def balance_due(invoice: dict[str, Any]) -> str:
    if invoice["status"] == "VOIDED":
        return "0.00"
    due = Decimal(invoice["total"]) - Decimal(invoice["paid"]) - Decimal(invoice["credited"])
    return f"{due:.2f}"


def _record_invoices(
    key: Key,
    records: dict[Key, Any],
    relations: list[list[Any]],
    invoices_by_address: dict[str, Any],
    *,
    matches_email_domain: bool,
) -> dict[str, tuple[str, str]]:
    invoices: dict[str, tuple[str, str]] = {}
    for holder in _matching_records(key, records, relations):
        domain = records[holder].get("email_domain")
        domains = [f"domain {domain}"] if matches_email_domain and domain and domain not in PUBLIC_DOMAINS else []
        addresses = [*(normalized(email) for email in records[holder]["emails"]), *domains]
        for email in [*addresses, f"link {holder[0]} {holder[1]}"]:
            invoices |= invoices_by_address.get(email, {})
    return invoices


def _related(key: Key, records: dict[Key, Any], relations: list[list[Any]]) -> set[Key]:
    related = {
        ("company", records[key]["company_id"]),
        ("person", records[key]["primary_contact_id"]),
    }
    for left_type, left_id, right_type, right_id in relations:
        if (left_type, left_id) == key:
            related.add((right_type, right_id))
        if (right_type, right_id) == key:
            related.add((left_type, left_id))
    return {end for end in related if end in records}


def _matching_records(key: Key, records: dict[Key, Any], relations: list[list[Any]]) -> set[Key]:
    """The leads and people whose email addresses match for a record, and the records whose links do."""
    record_type = key[0]
    if record_type in {"lead", "person"}:
        return {key}
    if record_type == "company":
        return {key} | {other for other in records if other[0] == "person" and records[other]["company_id"] == key[1]}
    related = _related(key, records, relations)
    holders = {key} | {end for end in related if end[0] == "person"}
    for end in related:
        if end[0] == "company":
            holders |= _matching_records(end, records, relations)
    return holders
