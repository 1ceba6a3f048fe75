"""Schemas of Copper's API. Responses are parsed once, at the edge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, model_validator
from typing_extensions import override

from store.db.enums import RecordType
from store.mirror.rows import RecordRow, RelationRow
from worker.vendors.addresses import extract_addresses, normalise_domain
from worker.vendors.parsing import Instant, LongText, Name, RelatedId, RowId, ShortText, VersionedRow, as_list
from worker.vendors.phones import normalise_phones


class CopperEmail(BaseModel):
    """An e-mail address with its category. A plain string is an address without a category."""

    email: LongText = ""

    @model_validator(mode="before")
    @classmethod
    def _accept_plain_string(cls, value: Any) -> Any:
        return {"email": value} if isinstance(value, str) else value


Emails = Annotated[list[CopperEmail | None], BeforeValidator(as_list)]


class CopperPhone(BaseModel):
    """A phone number with its category. A plain string is a number without a category."""

    number: LongText = ""

    @model_validator(mode="before")
    @classmethod
    def _accept_plain_string(cls, value: Any) -> Any:
        return {"number": value} if isinstance(value, str) else value


Phones = Annotated[list[CopperPhone | None], BeforeValidator(as_list)]


class CopperRecord(VersionedRow):
    """The fields that the four record types share; opportunities have no phone numbers."""

    id: RowId
    name: Name = ""
    updated_at: Instant = Field(alias="date_modified", default=None)
    date_created: Instant = None
    assignee_id: RelatedId = None
    phone_numbers: Phones = Field(default_factory=list)
    custom_fields: Any = None

    def addresses(self) -> Mapping[str, str]:
        """The record's own normalised addresses, each with the text that was typed."""
        return {}

    def domain(self) -> str | None:
        """The normalised domain whose addresses belong to the record."""
        return None

    def relations(self) -> tuple[RelationRow, ...]:
        """The relations that the record's own fields contain."""
        return ()

    def to_row(self) -> RecordRow:
        """The record as the mirror stores it."""
        return RecordRow(
            record_id=self.id,
            name=self.name,
            assignee_id=self.assignee_id,
            updated_at=self.version,
            has_version=self.has_version,
            email_domain=self.domain(),
            emails=self.addresses(),
            phones=normalise_phones(*(phone.number for phone in self.phone_numbers if phone)),
            relations=self.relations(),
        )


def _addresses_of(emails: list[CopperEmail | None]) -> Mapping[str, str]:
    return extract_addresses(*(entry.email for entry in emails if entry))


def _relations_to(**ids: int | None) -> tuple[RelationRow, ...]:
    return tuple(
        RelationRow(related_type=RecordType(record_type), related_id=record_id)
        for record_type, record_id in ids.items()
        if record_id
    )


class CopperLead(CopperRecord):
    """A lead: it has one address or none."""

    email: Emails = Field(default_factory=list)

    @override
    def addresses(self) -> Mapping[str, str]:
        return _addresses_of(self.email)


class CopperPerson(CopperRecord):
    """A person: it has any number of addresses and at most one company."""

    emails: Emails = Field(default_factory=list)
    company_id: RelatedId = None

    @override
    def addresses(self) -> Mapping[str, str]:
        return _addresses_of(self.emails)

    @override
    def relations(self) -> tuple[RelationRow, ...]:
        return _relations_to(company=self.company_id)


class CopperCompany(CopperRecord):
    """A company: it has no addresses of its own, and at most one email domain."""

    email_domain: LongText = ""

    @override
    def domain(self) -> str | None:
        return normalise_domain(self.email_domain)


class CopperOpportunity(CopperRecord):
    """An opportunity, with the company and the person that its own fields contain."""

    company_id: RelatedId = None
    primary_contact_id: RelatedId = None

    @override
    def relations(self) -> tuple[RelationRow, ...]:
        return _relations_to(company=self.company_id, person=self.primary_contact_id)


RECORD_SCHEMAS: dict[RecordType, type[CopperRecord]] = {
    RecordType.LEAD: CopperLead,
    RecordType.PERSON: CopperPerson,
    RecordType.COMPANY: CopperCompany,
    RecordType.OPPORTUNITY: CopperOpportunity,
}


class CopperRelatedRecord(BaseModel):
    """An entry of `GET /{type}/{id}/related`, which also lists tasks and projects."""

    id: RowId
    type: ShortText = ""

    def to_row(self) -> RelationRow | None:
        """The related person or company; None for any other type."""
        record_type = self.type.lower()
        if record_type not in {"person", "company"}:
            return None
        return RelationRow(related_type=RecordType(record_type), related_id=self.id)


class CopperAccount(BaseModel):
    """The account (`GET /account`)."""

    id: RowId
    name: Name = ""


class CopperTeam(BaseModel):
    """A team of a user. Copper calls it a group."""

    id: RowId
    name: Name = ""


class CopperUser(BaseModel):
    """A user (`GET /users/me`, `POST /users/search`)."""

    id: RowId
    name: Name = ""
    raw_groups: Annotated[list[CopperTeam | None], BeforeValidator(as_list)] = Field(
        alias="groups", default_factory=list
    )

    @property
    def teams(self) -> list[CopperTeam]:
        """The user's teams."""
        return [team for team in self.raw_groups if team]


class CopperFieldDefinition(BaseModel):
    """The definition of a custom field (`GET /custom_field_definitions`); `key` is its canonical name, '' if none."""

    id: RowId
    name: Name = ""
    key: ShortText = Field(alias="canonical_name", default="")
    data_type: ShortText = ""
    currency: ShortText = ""
    raw_available_on: Annotated[list[ShortText | None], BeforeValidator(as_list)] = Field(
        alias="available_on", default_factory=list
    )

    @property
    def available_on(self) -> set[str]:
        """The types of records that have the field."""
        return {name.lower() for name in self.raw_available_on if name}


class CopperSubscription(BaseModel):
    """A webhook subscription as `GET /webhooks` lists it."""

    id: RowId
    target: LongText = ""
    type: ShortText = ""
    event: ShortText = ""
