"""What Copper sends, parsed once, at the edge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, model_validator
from typing_extensions import override

from store.mirror import RecordRow, RelationRow
from store.models import RecordType
from worker.addresses import addresses_of
from worker.parsing import LongText, Moment, Name, RelatedId, RowId, WireRow, Word, as_list


class WireEmail(BaseModel):
    """An address with its category; plain text is an address without one."""

    email: LongText = ""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"email": value} if isinstance(value, str) else value


Emails = Annotated[list[WireEmail | None], BeforeValidator(as_list)]


class WireRecord(WireRow):
    """The fields that the four record types share."""

    id: RowId
    name: Name = ""
    updated_at: Moment = Field(alias="date_modified", default=None)
    date_created: Moment = None

    def addresses(self) -> Mapping[str, str]:
        """The record's own addresses as they are compared, with what was typed."""
        return {}

    def relations(self) -> tuple[RelationRow, ...]:
        """The relations that the record's own fields tell."""
        return ()

    def row(self) -> RecordRow:
        """The record as the mirror keeps it."""
        return RecordRow(
            record_id=self.id,
            name=self.name,
            updated_at=self.version,
            has_version=self.has_version,
            emails=self.addresses(),
            relations=self.relations(),
        )


def _typed(emails: list[WireEmail | None]) -> Mapping[str, str]:
    return addresses_of(*(entry.email for entry in emails if entry))


def _ends(**ids: int | None) -> tuple[RelationRow, ...]:
    return tuple(RelationRow(related_type=RecordType(kind), related_id=one) for kind, one in ids.items() if one)


class WireLead(WireRecord):
    """A lead: one address or none."""

    email: Emails = Field(default_factory=list)

    @override
    def addresses(self) -> Mapping[str, str]:
        return _typed(self.email)


class WirePerson(WireRecord):
    """A person: any number of addresses, at most one company."""

    emails: Emails = Field(default_factory=list)
    company_id: RelatedId = None

    @override
    def addresses(self) -> Mapping[str, str]:
        return _typed(self.emails)

    @override
    def relations(self) -> tuple[RelationRow, ...]:
        return _ends(company=self.company_id)


class WireCompany(WireRecord):
    """A company: it has no addresses of its own to match."""


class WireOpportunity(WireRecord):
    """An opportunity, with the one company and the one person that its own fields name."""

    company_id: RelatedId = None
    primary_contact_id: RelatedId = None

    @override
    def relations(self) -> tuple[RelationRow, ...]:
        return _ends(company=self.company_id, person=self.primary_contact_id)


WIRE: dict[RecordType, type[WireRecord]] = {
    RecordType.LEAD: WireLead,
    RecordType.PERSON: WirePerson,
    RecordType.COMPANY: WireCompany,
    RecordType.OPPORTUNITY: WireOpportunity,
}


class WireRelated(BaseModel):
    """One line of `GET /{type}/{id}/related`; tasks and projects come along and are left out."""

    id: RowId
    type: Word = ""

    def row(self) -> RelationRow | None:
        """The far end, if it is a person or a company."""
        kind = self.type.lower()
        if kind not in {"person", "company"}:
            return None
        return RelationRow(related_type=RecordType(kind), related_id=self.id)


class WireAccount(BaseModel):
    """`GET /account`."""

    id: RowId
    name: Name = ""


class WireTeam(BaseModel):
    """A team (Copper calls it a group) of a user."""

    id: RowId
    name: Name = ""


class WireUser(BaseModel):
    """`GET /users/me` and one of `POST /users/search`."""

    id: RowId
    name: Name = ""
    given_groups: Annotated[list[WireTeam | None], BeforeValidator(as_list)] = Field(
        alias="groups", default_factory=list
    )

    @property
    def groups(self) -> list[WireTeam]:
        """The user's teams."""
        return [team for team in self.given_groups if team]


class WireSubscription(BaseModel):
    """A webhook subscription as `GET /webhooks` lists it."""

    id: RowId
    target: LongText = ""
    type: Word = ""
    event: Word = ""
