"""What Copper sends, parsed once, at the edge."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field
from typing_extensions import override

from store.mirror import RecordRow, RelationRow
from store.models import RecordType
from worker.addresses import all_of
from worker.xero.wire import Text


def unix_seconds(value: Any) -> Any:
    """Copper's times are whole seconds since 1970, UTC."""
    return datetime.fromtimestamp(value, UTC) if isinstance(value, int) else value


UnixTime = Annotated[datetime, BeforeValidator(unix_seconds)]


class WireEmail(BaseModel):
    """An address with its category."""

    email: Text | None = None


class WireRecord(BaseModel):
    """The fields that the four record types share."""

    id: int = Field(gt=0, lt=2**63)
    name: Text | None = None
    date_modified: UnixTime
    date_created: UnixTime | None = None

    def addresses(self) -> frozenset[str]:
        """The record's own addresses, normalised."""
        return frozenset()

    def relations(self) -> tuple[RelationRow, ...]:
        """The relations that the record's own fields tell."""
        return ()

    def row(self) -> RecordRow:
        """The record as the mirror keeps it."""
        return RecordRow(
            record_id=self.id,
            name=(self.name or "")[:500],
            updated_at=self.date_modified,
            emails=self.addresses(),
            relations=self.relations(),
        )


def _ends(**ids: int | None) -> tuple[RelationRow, ...]:
    return tuple(RelationRow(related_type=RecordType(kind), related_id=one) for kind, one in ids.items() if one)


class WireLead(WireRecord):
    """A lead: one address or none."""

    email: WireEmail | None = None

    @override
    def addresses(self) -> frozenset[str]:
        return all_of(self.email.email) if self.email else frozenset()


class WirePerson(WireRecord):
    """A person: any number of addresses, at most one company."""

    emails: list[WireEmail] = Field(default_factory=list)
    company_id: int | None = None

    @override
    def addresses(self) -> frozenset[str]:
        return all_of(*(one.email for one in self.emails))

    @override
    def relations(self) -> tuple[RelationRow, ...]:
        return _ends(company=self.company_id)


class WireCompany(WireRecord):
    """A company: it has no addresses of its own to match."""


class WireOpportunity(WireRecord):
    """An opportunity, with the one company and the one person that its own fields name."""

    company_id: int | None = None
    primary_contact_id: int | None = None

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

    id: int
    type: str

    def row(self) -> RelationRow | None:
        """The far end, if it is a person or a company."""
        if self.type not in {"person", "company"}:
            return None
        return RelationRow(related_type=RecordType(self.type), related_id=self.id)


class WireAccount(BaseModel):
    """`GET /account`."""

    id: int
    name: Text


class WireTeam(BaseModel):
    """A team (Copper calls it a group) of a user."""

    id: int
    name: Text = ""


class WireUser(BaseModel):
    """`GET /users/me` and one of `POST /users/search`."""

    id: int
    name: Text = ""
    groups: list[WireTeam] = Field(default_factory=list)


class WireSubscription(BaseModel):
    """A webhook subscription as `GET /webhooks` lists it."""

    id: int
    target: str
    type: str
    event: Literal["new", "update", "delete"] | str
