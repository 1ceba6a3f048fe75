"""Leads, people, companies and opportunities as Copper's developer API returns them, and their relations."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import orjson

from sandbox.custom_fields import computed_value
from sandbox.world import CopperAccount, CustomField, Record

LEAD_STATUSES = {"New": 208_231, "Contacted": 208_232, "Qualified": 208_233, "Unqualified": 208_234}
OPPORTUNITY_STATUSES = {"Open": 0, "Won": 1, "Lost": 2, "Abandoned": 3}
CONTACT_TYPES = {451_490: "Potential Customer", 451_492: "Current Customer", 451_494: "Other"}
PIPELINE = {"id": 213_214, "name": "Sales"}
# The stages of the pipeline: id, name, win probability in per cent.
STAGES = {987_790: ("Qualified", 5), 987_791: ("Proposal", 40), 987_792: ("Negotiation", 75)}
ADDRESS_PARTS = ("street", "city", "state", "postal_code", "country")


def names_of(record: Record) -> tuple[str, str | None]:
    """The first and the last name of a person or lead."""
    first, _, last = record.name.rpartition(" ")
    return (first, last) if first else (last, None)


def us_date(day: date | None) -> str | None:
    """A date in Copper's format: `1/23/2017`."""
    return f"{day.month}/{day.day}/{day.year}" if day else None


def amount(value: Decimal | None) -> orjson.Fragment | None:
    """An amount as an exact JSON number."""
    return None if value is None else orjson.Fragment(f"{value:f}")


def custom_fields_of(account: CopperAccount, record_type: str) -> list[CustomField]:
    """The custom fields of a record type."""
    return [field for field in account.custom_fields.values() if record_type in field.available_on]


def _common(record: Record) -> dict[str, Any]:
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
    }


def _custom_values(record: Record, account: CopperAccount, *, computed: bool) -> list[dict[str, Any]]:
    """The values of all custom fields of the record's type; `computed`: with the names of options."""
    payload = []
    for field in custom_fields_of(account, record.type):
        value = record.custom_values.get(field.id)
        value = computed_value(field, value) if computed else value
        payload.append({"custom_field_definition_id": field.id, "value": value})
    return payload


def _contact_details(record: Record) -> dict[str, Any]:
    """The fields of people, leads and companies: address, phone numbers, web sites."""
    address = {part: record.address.get(part, "") for part in ADDRESS_PARTS} if record.address else None
    return {
        "address": address,
        "phone_numbers": [{"number": number, "category": "work"} for number in record.phones],
        "socials": [],
        "websites": [{"url": url, "category": "work"} for url in record.websites],
    }


def _name_fields(record: Record) -> dict[str, Any]:
    first, last = names_of(record)
    names = {"prefix": None, "first_name": first, "middle_name": None, "last_name": last, "suffix": None}
    return {**names, "title": record.title}


def _amount_fields(record: Record) -> dict[str, Any]:
    return {
        "customer_source_id": None,
        "monetary_unit": "USD" if record.monetary_value is not None else None,
        "monetary_value": amount(record.monetary_value),
        "converted_unit": None,
        "converted_value": None,
    }


def _company_fields(record: Record, account: CopperAccount) -> dict[str, Any]:
    company = account.records["company"].get(record.company_id or 0)
    return {"company_id": record.company_id, "company_name": company.name if company else None}


def _person(record: Record, account: CopperAccount) -> dict[str, Any]:
    return {
        **_name_fields(record),
        **_contact_details(record),
        **_company_fields(record, account),
        "contact_type_id": record.contact_type_id,
        "emails": [{"email": email, "category": "work"} for email in record.emails],
        "leads_converted_from": [],
        "date_lead_created": None,
    }


def _lead(record: Record, _: CopperAccount) -> dict[str, Any]:
    return {
        **_name_fields(record),
        **_contact_details(record),
        **_amount_fields(record),
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
        **_contact_details(record),
        "contact_type_id": record.contact_type_id,
        "primary_contact_id": record.primary_contact_id,
        "email_domain": record.email_domain,
    }


def _opportunity(record: Record, account: CopperAccount) -> dict[str, Any]:
    return {
        **_company_fields(record, account),
        **_amount_fields(record),
        "close_date": us_date(record.close_date),
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


RENDERERS = {"person": _person, "lead": _lead, "company": _company, "opportunity": _opportunity}


def record_json(record: Record, account: CopperAccount, *, computed: bool = False) -> dict[str, Any]:
    """A record as JSON, with the fields of its type; `computed`: with the names of options in its custom fields."""
    return {
        **_common(record),
        "custom_fields": _custom_values(record, account, computed=computed),
        **RENDERERS[record.type](record, account),
    }


def related_to(account: CopperAccount, record_type: str, record_id: int) -> list[tuple[str, int]]:
    """The existing records related to a record, in either direction, including those that its own fields name."""
    related: set[tuple[str, int]] = set()
    for left_type, left_id, right_type, right_id in account.relations:
        if (left_type, left_id) == (record_type, record_id):
            related.add((right_type, right_id))
        if (right_type, right_id) == (record_type, record_id):
            related.add((left_type, left_id))
    source = account.records[record_type][record_id]
    ends = {("company", source.company_id), ("person", source.primary_contact_id)}
    related |= {(end_type, end_id) for end_type, end_id in ends if end_id}
    for other_type in ("person", "opportunity") if record_type in {"company", "person"} else ():
        for record in account.records[other_type].values():
            if (record_type, record_id) in {("company", record.company_id), ("person", record.primary_contact_id)}:
                related.add((other_type, record.id))
    return sorted(end for end in related if end[1] in account.records[end[0]])
