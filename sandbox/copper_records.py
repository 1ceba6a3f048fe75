"""Leads, people, companies and opportunities as Copper's developer API writes them, and what is related to what."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import orjson

from sandbox.world import CopperAccount, CustomField, Record

LEAD_STATUSES = {"New": 208_231, "Contacted": 208_232, "Qualified": 208_233, "Unqualified": 208_234}
OPPORTUNITY_STATUSES = {"Open": 0, "Won": 1, "Lost": 2, "Abandoned": 3}
CONTACT_TYPES = {451_490: "Potential Customer", 451_492: "Current Customer", 451_494: "Other"}
PIPELINE = {"id": 213_214, "name": "Sales"}
# The stages of the pipeline: id, name, chance to win in per cent.
STAGES = {987_790: ("Qualified", 5), 987_791: ("Proposal", 40), 987_792: ("Negotiation", 75)}
ADDRESS_PARTS = ("street", "city", "state", "postal_code", "country")


def names_of(record: Record) -> tuple[str, str | None]:
    """First and last name of a person or lead."""
    first, _, last = record.name.rpartition(" ")
    return (first, last) if first else (last, None)


def american(day: date | None) -> str | None:
    """A date as Copper writes it: `1/23/2017`."""
    return f"{day.month}/{day.day}/{day.year}" if day else None


def amount(value: Decimal | None) -> orjson.Fragment | None:
    """An amount with all its digits."""
    return None if value is None else orjson.Fragment(f"{value:f}")


def custom_fields_of(account: CopperAccount, kind: str) -> list[CustomField]:
    """The custom fields that records of a type have."""
    return [field for field in account.custom_fields.values() if kind in field.available_on]


def _common(record: Record, account: CopperAccount) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
        "assignee_id": record.assignee_id,
        "details": record.details,
        "tags": record.tags,
        "interaction_count": 0,
        "date_created": record.created,
        "date_modified": record.modified,
        "date_last_contacted": None,
        "custom_fields": [
            {"custom_field_definition_id": field.id, "value": record.custom_values.get(field.id)}
            for field in custom_fields_of(account, record.type)
        ],
    }


def _reachable(record: Record) -> dict[str, Any]:
    """What people, leads and companies have: address, phone numbers, web sites."""
    address = {part: record.address.get(part, "") for part in ADDRESS_PARTS} if record.address else None
    return {
        "address": address,
        "phone_numbers": [{"number": number, "category": "work"} for number in record.phones],
        "socials": [],
        "websites": [{"url": url, "category": "work"} for url in record.websites],
    }


def _named(record: Record) -> dict[str, Any]:
    first, last = names_of(record)
    names = {"prefix": None, "first_name": first, "middle_name": None, "last_name": last, "suffix": None}
    return {**names, "title": record.title}


def _money(record: Record) -> dict[str, Any]:
    return {
        "customer_source_id": None,
        "monetary_unit": "USD" if record.monetary_value is not None else None,
        "monetary_value": amount(record.monetary_value),
        "converted_unit": None,
        "converted_value": None,
    }


def _company_of(record: Record, account: CopperAccount) -> dict[str, Any]:
    company = account.records["company"].get(record.company_id or 0)
    return {"company_id": record.company_id, "company_name": company.name if company else None}


def _person(record: Record, account: CopperAccount) -> dict[str, Any]:
    return {
        **_named(record),
        **_reachable(record),
        **_company_of(record, account),
        "contact_type_id": record.contact_type_id,
        "emails": [{"email": email, "category": "work"} for email in record.emails],
        "leads_converted_from": [],
        "date_lead_created": None,
    }


def _lead(record: Record, _: CopperAccount) -> dict[str, Any]:
    return {
        **_named(record),
        **_reachable(record),
        **_money(record),
        "email": {"email": record.emails[0], "category": "work"} if record.emails else None,
        "company_name": record.company_name,
        "status": record.status,
        "status_id": LEAD_STATUSES.get(record.status),
        "converted_opportunity_id": None,
        "converted_contact_id": None,
        "converted_at": None,
    }


def _company(record: Record, _: CopperAccount) -> dict[str, Any]:
    return {
        **_reachable(record),
        "contact_type_id": record.contact_type_id,
        "primary_contact_id": record.primary_contact_id,
        "email_domain": record.email_domain,
    }


def _opportunity(record: Record, account: CopperAccount) -> dict[str, Any]:
    return {
        **_company_of(record, account),
        **_money(record),
        "close_date": american(record.close_date),
        "loss_reason_id": None,
        "pipeline_id": PIPELINE["id"],
        "pipeline_stage_id": record.stage_id,
        "pipeline_is_revenue": True,
        "pipeline_type": "sales",
        "primary_contact_id": record.primary_contact_id,
        "priority": record.priority,
        "status": record.status,
        "win_probability": STAGES[record.stage_id][1] if record.stage_id in STAGES else None,
        "date_stage_changed": record.created,
        "leads_converted_from": [],
        "date_lead_created": None,
    }


SHAPES = {"person": _person, "lead": _lead, "company": _company, "opportunity": _opportunity}


def record_json(record: Record, account: CopperAccount) -> dict[str, Any]:
    """A record with the fields of its type."""
    return {**_common(record, account), **SHAPES[record.type](record, account)}


def related_to(account: CopperAccount, kind: str, record_id: int) -> list[tuple[str, int]]:
    """The living records related to one, either way round, those of its own fields included."""
    found: set[tuple[str, int]] = set()
    for left_kind, left, right_kind, right in account.relations:
        if (left_kind, left) == (kind, record_id):
            found.add((right_kind, right))
        if (right_kind, right) == (kind, record_id):
            found.add((left_kind, left))
    own = account.records[kind][record_id]
    ends = {("company", own.company_id), ("person", own.primary_contact_id)}
    found |= {(end, key) for end, key in ends if key}
    for other in ("person", "opportunity") if kind in {"company", "person"} else ():
        for record in account.records[other].values():
            if (kind, record_id) in {("company", record.company_id), ("person", record.primary_contact_id)}:
                found.add((other, record.id))
    return sorted(end for end in found if end[1] in account.records[end[0]])
