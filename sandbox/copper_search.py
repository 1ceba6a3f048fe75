"""The bodies of Copper's searches by record type, and the meaning of each filter.

A filter that the sandbox does not support is refused by name, like every unknown key of a body.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sandbox.copper_records import (
    CONTACT_TYPES,
    LEAD_STATUSES,
    OPPORTUNITY_STATUSES,
    PIPELINE,
    STAGES,
    names_of,
    related_to,
)
from sandbox.custom_fields import RANGE_TYPES, UNSEARCHABLE_TYPES, CustomFieldError, with_timestamp
from sandbox.world import CopperAccount, CustomField, Record

Matcher = Callable[[Record], bool]
Ids = list[int] | None
NO_VALUE = -2


class CustomFieldFilter(BaseModel):
    """An item of `custom_fields`: a value, or a range of numbers or Unix timestamps.

    Of a MultiSelect field, `value` is an option, or a list of options of which a record must have any.
    """

    model_config = ConfigDict(extra="forbid")

    custom_field_definition_id: int
    value: Any = None
    minimum_value: float | None = None
    maximum_value: float | None = None
    allow_empty: bool = False


class Page(BaseModel):
    """The paging parameters of every search."""

    model_config = ConfigDict(extra="forbid")

    page_number: int = Field(1, ge=1, le=10**9)
    page_size: int = Field(20, ge=1, le=200)


class Search(Page):
    """The parameters common to all four record types."""

    sort_by: str | None = None
    sort_direction: Literal["asc", "desc"] = "asc"
    fields: list[str] | None = None
    ids: list[int] | None = Field(None, max_length=200)
    name: str | None = None
    assignee_ids: Ids = None
    tags: list[str] | None = None
    minimum_created_date: int | None = None
    maximum_created_date: int | None = None
    minimum_modified_date: int | None = None
    maximum_modified_date: int | None = None
    minimum_interaction_count: int | None = None
    maximum_interaction_count: int | None = None
    minimum_interaction_date: int | None = None
    maximum_interaction_date: int | None = None
    custom_fields: list[CustomFieldFilter] | None = None


class ContactDetailsSearch(Search):
    """The parameters common to people, leads and companies."""

    phone_number: str | None = None
    city: str | None = None
    state: str | None = None
    postal_code: str | None = None
    country: str | None = None


class PeopleSearch(ContactDetailsSearch):
    """`POST /people/search`."""

    emails: list[str] | None = None
    company_ids: Ids = None
    opportunity_ids: Ids = None
    contact_type_ids: Ids = None


class LeadSearch(ContactDetailsSearch):
    """`POST /leads/search`; `emails` is a single string. Converted leads are deleted, so none can be included."""

    emails: str | None = None
    status_ids: Ids = None
    customer_source_ids: Ids = None
    include_converted_leads: Literal[False] | None = None
    minimum_monetary_value: Decimal | None = None
    maximum_monetary_value: Decimal | None = None


class CompanySearch(ContactDetailsSearch):
    """`POST /companies/search`."""

    email_domains: list[str] | None = None
    primary_contact_ids: Ids = None
    contact_type_ids: Ids = None


class OpportunitySearch(Search):
    """`POST /opportunities/search`."""

    company_ids: Ids = None
    primary_contact_ids: Ids = None
    pipeline_ids: Ids = None
    pipeline_stage_ids: Ids = None
    status_ids: Ids = None
    customer_source_ids: Ids = None
    loss_reason_ids: Ids = None
    minimum_monetary_value: Decimal | None = None
    maximum_monetary_value: Decimal | None = None
    minimum_close_date: int | None = None
    maximum_close_date: int | None = None


SEARCHES: dict[str, type[Search]] = {
    "people": PeopleSearch,
    "leads": LeadSearch,
    "companies": CompanySearch,
    "opportunities": OpportunitySearch,
}
DEFAULT_SORTS = {"people": "first_name", "leads": "name", "companies": "date_modified", "opportunities": "name"}


def _is_in(ids: Iterable[int], value: Callable[[Record], int | None]) -> Matcher:
    """Match a field against ids; -2 matches an empty field."""
    values = {None if key == NO_VALUE else key for key in ids}
    return lambda record: value(record) in values


def _ranges(name: str, value: Callable[[Record], Any]) -> dict[str, Callable[[Any, CopperAccount], Matcher]]:
    """The filters `minimum_…` and `maximum_…` of a value; an empty value is in no range."""

    def at_least(bound: Any, _: CopperAccount) -> Matcher:
        return lambda record: value(record) is not None and value(record) >= bound

    def at_most(bound: Any, _: CopperAccount) -> Matcher:
        return lambda record: value(record) is not None and value(record) <= bound

    return {f"minimum_{name}": at_least, f"maximum_{name}": at_most}


def _id_filter(value: Callable[[Record], int | None]) -> Callable[[Any, CopperAccount], Matcher]:
    return lambda ids, _: _is_in(ids, value)


def _address_filter(part: str) -> Callable[[Any, CopperAccount], Matcher]:
    return lambda text, _: lambda record: record.address.get(part, "").casefold() == text.casefold()


def _emails(addresses: list[str] | str, _: CopperAccount) -> Matcher:
    emails = {email.casefold() for email in ([addresses] if isinstance(addresses, str) else addresses)}
    return lambda record: not emails.isdisjoint(map(str.casefold, record.emails))


def _domains(domains: list[str], _: CopperAccount) -> Matcher:
    casefolded = {domain.casefold() for domain in domains}
    return lambda record: (record.email_domain or "").casefold() in casefolded


def _of_opportunities(ids: list[int], account: CopperAccount) -> Matcher:
    """Match people related to any of the opportunities, including their primary contacts."""
    existing_ids = [key for key in ids if key in account.records["opportunity"]]
    people = {
        end_id
        for opportunity_id in existing_ids
        for end_type, end_id in related_to(account, "opportunity", opportunity_id)
        if end_type == "person"
    }
    return lambda record: record.id in people


def _phone(text: str, _: CopperAccount) -> Matcher:
    digits = "".join(filter(str.isdigit, text))
    return lambda record: any(digits and digits in "".join(filter(str.isdigit, phone)) for phone in record.phones)


def _tags(tags: list[str], _: CopperAccount) -> Matcher:
    casefolded = {tag.casefold() for tag in tags}
    return lambda record: not casefolded.isdisjoint(map(str.casefold, record.tags))


def _custom_fields(filters: list[CustomFieldFilter], account: CopperAccount) -> Matcher:
    matchers = [_custom_field(item, account) for item in filters]
    return lambda record: all(matches(record) for matches in matchers)


def _custom_field(item: CustomFieldFilter, account: CopperAccount) -> Matcher:
    field = account.custom_fields.get(item.custom_field_definition_id)
    if field is None or field.data_type in UNSEARCHABLE_TYPES:
        raise CustomFieldError(f"custom_fields: {item.custom_field_definition_id} cannot be searched")
    has_range = item.minimum_value is not None or item.maximum_value is not None
    if has_range and field.data_type not in RANGE_TYPES:
        raise CustomFieldError(f"custom_fields: {field.id} is a {field.data_type} field and has no range")
    return lambda record: _has_value(item, field, record)


def _has_value(item: CustomFieldFilter, field: CustomField, record: Record) -> bool:
    value = record.custom_values.get(field.id)
    if value is None:
        return item.allow_empty
    number = with_timestamp(field, value)
    if item.value is not None and item.value not in (value, number) and not _has_option(item.value, value):
        return False
    low = item.minimum_value is None or number >= item.minimum_value
    return low and (item.maximum_value is None or number <= item.maximum_value)


def _has_option(option: Any, value: Any) -> bool:
    """Whether a list of options has an option, or any of a list of options."""
    options = option if isinstance(option, list) else [option]
    return isinstance(value, list) and any(item in value for item in options)


def _status_id(record: Record) -> int | None:
    return (LEAD_STATUSES if record.type == "lead" else OPPORTUNITY_STATUSES).get(record.status)


def _close_date(record: Record) -> float | None:
    day = record.close_date
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() if day else None


FILTERS: dict[str, Callable[[Any, CopperAccount], Matcher]] = {
    "ids": lambda ids, _: lambda record: record.id in ids,
    "name": lambda text, _: lambda record: text.casefold() in record.name.casefold(),
    "assignee_ids": _id_filter(lambda record: record.assignee_id),
    "contact_type_ids": _id_filter(lambda record: record.contact_type_id),
    "company_ids": _id_filter(lambda record: record.company_id),
    "primary_contact_ids": _id_filter(lambda record: record.primary_contact_id),
    "pipeline_ids": _id_filter(lambda _: int(str(PIPELINE["id"]))),
    "pipeline_stage_ids": _id_filter(lambda record: record.stage_id),
    "status_ids": _id_filter(_status_id),
    "customer_source_ids": _id_filter(lambda _: None),
    "loss_reason_ids": _id_filter(lambda _: None),
    "include_converted_leads": lambda _, __: lambda ___: True,
    "opportunity_ids": _of_opportunities,
    "emails": _emails,
    "email_domains": _domains,
    "phone_number": _phone,
    "tags": _tags,
    "custom_fields": _custom_fields,
    **{part: _address_filter(part) for part in ("city", "state", "postal_code", "country")},
    **_ranges("created_date", lambda record: record.created),
    **_ranges("modified_date", lambda record: record.modified),
    **_ranges("interaction_count", lambda _: 0),
    **_ranges("interaction_date", lambda _: None),
    **_ranges("monetary_value", lambda record: record.monetary_value),
    **_ranges("close_date", _close_date),
}


def matcher(search: Search, account: CopperAccount) -> Matcher:
    """A function that tells whether a record matches all filters of a search."""
    values = {name: getattr(search, name) for name in type(search).model_fields if name in FILTERS}
    matchers = [FILTERS[name](value, account) for name, value in values.items() if value is not None]
    return lambda record: all(matches(record) for matches in matchers)


SortKey = Callable[[Record, CopperAccount], Any]


def _assignee(record: Record, account: CopperAccount) -> str | None:
    return next((user.name for user in account.users if user.id == record.assignee_id), None)


def _company(record: Record, account: CopperAccount) -> str | None:
    company = account.records["company"].get(record.company_id or 0)
    return company.name.casefold() if company else record.company_name


SORTS: dict[str, SortKey] = {
    "name": lambda record, _: record.name.casefold(),
    "first_name": lambda record, _: names_of(record)[0].casefold(),
    "last_name": lambda record, _: (names_of(record)[1] or "").casefold(),
    "title": lambda record, _: record.title,
    "email": lambda record, _: record.emails[0].casefold() if record.emails else None,
    "phone": lambda record, _: record.phones[0] if record.phones else None,
    "city": lambda record, _: record.address.get("city"),
    "state": lambda record, _: record.address.get("state"),
    "country": lambda record, _: record.address.get("country"),
    "zip": lambda record, _: record.address.get("postal_code"),
    "contact_type": lambda record, _: CONTACT_TYPES.get(record.contact_type_id or 0),
    "assignee": _assignee,
    "company_name": _company,
    "status": lambda record, _: record.status,
    "value": lambda record, _: record.monetary_value,
    "monetary_value": lambda record, _: record.monetary_value,
    "priority": lambda record, _: record.priority,
    "stage": lambda record, _: STAGES[record.stage_id][1] if record.stage_id in STAGES else None,
    "close_date": lambda record, _: record.close_date,
    "primary_contact": lambda record, _: record.primary_contact_id,
    "customer_source": lambda _, __: None,
    "socials": lambda _, __: None,
    "last_interaction": lambda _, __: None,
    "inactive_days": lambda record, _: -record.modified,
    "stage_change_date": lambda record, _: record.created,
    "date_created": lambda record, _: record.created,
    "date_modified": lambda record, _: record.modified,
}
PERSON_SORTS = {"first_name", "last_name", "title", "email", "company_name"}
CONTACT_SORTS = {"phone", "city", "state", "country", "zip", "socials"}
VALUE_SORTS = {"status", "monetary_value", "customer_source"}
COMMON_SORTS = {"name", "assignee", "inactive_days", "last_interaction", "date_created", "date_modified"}
SORTS_OF: dict[str, set[str]] = {
    "people": COMMON_SORTS | PERSON_SORTS | CONTACT_SORTS | {"contact_type"},
    "leads": COMMON_SORTS | PERSON_SORTS | CONTACT_SORTS | VALUE_SORTS | {"value"},
    "companies": COMMON_SORTS | CONTACT_SORTS | {"contact_type"},
    "opportunities": COMMON_SORTS
    | VALUE_SORTS
    | {"company_name", "priority", "stage", "close_date", "primary_contact", "stage_change_date"},
}


def sort_records(records: Iterable[Record], sort_by: str, account: CopperAccount) -> list[Record]:
    """Records sorted by a key, empty values first, then by id."""
    key = SORTS[sort_by]

    def sort_key(record: Record) -> tuple[bool, Any, int]:
        value = key(record, account)
        return (value is not None, 0 if value is None else value, record.id)

    return sorted(records, key=sort_key)


def select_fields(payload: dict[str, Any], search: Search) -> dict[str, Any]:
    """The fields of a record that the search requests, always including the id."""
    if search.fields is None:
        return payload
    return {name: value for name, value in payload.items() if name == "id" or name in search.fields}
