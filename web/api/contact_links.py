"""`GET /v1/unmatched` and `/v1/links`: unmatched contacts with suggestions, and links between contacts and records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, Field

from runtime.numbers import MAX_ID
from services import manual_links
from services.manual_links import MAX_BATCH
from store.db.enums import RecordType
from store.db.read_replica import read_transaction
from store.read_model import suggestions, unmatched_contacts
from store.read_model.contact_links import Link
from store.read_model.suggestions import Similarity, Suggestion
from store.read_model.unmatched_contacts import ContactQuery, RankedContact, UnmatchedReason
from web.api import cursors
from web.api.record_paths import RecordReference
from web.auth.api_keys import BEARER_SECURITY, AdminCaller
from web.presentation import links
from web.presentation.currencies import format_amount
from web.presentation.problems import WRONG_SCOPE, problem_responses
from web.state import web_state

router = APIRouter(prefix="/v1")
MAX_LIMIT = 50
Reason = Literal["no_address", "unknown_address"]
SimilarityName = Literal["address", "phone", "name", "domain"]
SIMILARITY_NAMES: dict[Similarity, SimilarityName] = {
    Similarity.ADDRESS: "address",
    Similarity.PHONE: "phone",
    Similarity.NAME: "name",
    Similarity.DOMAIN: "domain",
}


class SuggestionReasonSchema(BaseModel):
    """One thing that the contact and the record have in common."""

    similarity: SimilarityName
    detail: str = Field(description="the record's address, or the shared domain; '' otherwise")


class SuggestionSchema(BaseModel):
    """A record that the contact may belong to."""

    record: RecordReference
    name: str
    reasons: list[SuggestionReasonSchema] = Field(description="the most telling first")


class ContactAmountSchema(BaseModel):
    """The contact's sales invoices in one currency. Amounts are strings."""

    currency: str = Field(description="'' if the invoices have no currency")
    invoices: int
    open: str
    overdue: str


class UnmatchedContactSchema(BaseModel):
    """A Xero contact with sales invoices that are on no record."""

    organisation_id: int = Field(description="pass it to `POST /v1/links`")
    organisation: str
    contact_id: UUID
    name: str
    emails: list[str]
    reason: Reason
    amounts: list[ContactAmountSchema] = Field(description="the largest outstanding amount first")
    suggestions: list[SuggestionSchema] = Field(description="at most 3, the most likely first")
    url: str


class UnmatchedPageSchema(BaseModel):
    """Unmatched contacts, those who owe most in one currency first."""

    total: int = Field(description="the number of contacts on all pages")
    contacts: list[UnmatchedContactSchema]
    next: str | None = Field(description="pass as `after`; null on the last page")


class LinkSchema(BaseModel):
    """A contact and the record to link it to."""

    organisation_id: Annotated[int, Field(ge=1, le=MAX_ID)]
    contact_id: UUID
    record_type: RecordType
    record_id: Annotated[int, Field(ge=0, le=MAX_ID)]

    def to_link(self) -> Link:
        """The link that the item describes."""
        return Link(self.organisation_id, self.contact_id, self.record_type, self.record_id)


class LinksSchema(BaseModel):
    """Links to make at once."""

    links: Annotated[list[LinkSchema], Field(min_length=1, max_length=MAX_BATCH)]


class LinkResultSchema(LinkSchema):
    """What became of one link."""

    status: Literal["linked", "already linked", "unknown contact", "unknown record"]


class LinkBatchSchema(BaseModel):
    """What became of the links, in the order of the request."""

    batch_id: UUID = Field(description="removes exactly the new links: `DELETE /v1/links/{batch_id}`")
    linked: int
    results: list[LinkResultSchema]


class RemovedLinksSchema(BaseModel):
    """How many links of a batch were removed; 0 if there were none any more."""

    removed: int


@router.get(
    "/unmatched",
    tags=["unmatched"],
    response_model=UnmatchedPageSchema,
    responses=problem_responses(_403=WRONG_SCOPE),
    summary="Unmatched contacts with suggestions",
    openapi_extra=BEARER_SECURITY,
)
async def list_unmatched(
    request: Request,
    caller: AdminCaller,
    reason: Annotated[Reason | None, Query(description="only contacts that match nothing for this reason")] = None,
    search: Annotated[str | None, Query(max_length=320, description="part of a name or an email address")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = MAX_LIMIT,
    after: Annotated[str | None, Query(max_length=200, description="`next` of the previous page")] = None,
) -> UnmatchedPageSchema:
    """Xero contacts with sales invoices that no record matches, each with the records that it may belong to."""
    query = ContactQuery(
        search.strip().replace("\x00", "") if search else None,
        UnmatchedReason(reason) if reason else None,
        cursors.decode_contact(after) if after else None,
        limit + 1,
    )
    pages = web_state(request).capacity.pages
    return await pages.run(caller.account_id, _read_unmatched, caller.account_id, query)


def _read_unmatched(account_id: int, query: ContactQuery) -> UnmatchedPageSchema:
    limit = query.limit - 1
    with read_transaction(account_id) as session:
        page = unmatched_contacts.list_page(session, account_id, query)
        contacts = page.contacts[:limit]
        suggested = suggestions.suggest(session, account_id, [contact.key for contact in contacts])
    has_more = len(page.contacts) > limit
    return UnmatchedPageSchema(
        total=page.counts[query.reason] if query.reason else sum(page.counts.values()),
        contacts=[_contact_schema(contact, suggested.get(contact.key, ())) for contact in contacts],
        next=cursors.encode_contact(contacts[-1].position) if has_more else None,
    )


def _contact_schema(contact: RankedContact, suggested: Sequence[Suggestion]) -> UnmatchedContactSchema:
    return UnmatchedContactSchema(
        organisation_id=contact.organisation_id,
        organisation=contact.organisation_name,
        contact_id=contact.contact_id,
        name=contact.name,
        emails=list(contact.emails),
        reason=contact.reason.value,
        amounts=[
            ContactAmountSchema(
                currency=amount.currency,
                invoices=amount.invoices,
                open=format_amount(amount.open, amount.currency),
                overdue=format_amount(amount.overdue, amount.currency),
            )
            for amount in contact.amounts
        ],
        suggestions=[_suggestion_schema(suggestion) for suggestion in suggested],
        url=links.contact(contact.contact_id, contact.short_code),
    )


def _suggestion_schema(suggestion: Suggestion) -> SuggestionSchema:
    return SuggestionSchema(
        record=RecordReference(type=suggestion.record_type.value, id=suggestion.record_id),
        name=suggestion.name,
        reasons=[
            SuggestionReasonSchema(similarity=SIMILARITY_NAMES[reason.similarity], detail=reason.detail)
            for reason in suggestion.reasons
        ],
    )


@router.post(
    "/links",
    tags=["links"],
    response_model=LinkBatchSchema,
    responses=problem_responses(_403=WRONG_SCOPE),
    summary="Link contacts to records",
    openapi_extra=BEARER_SECURITY,
)
async def create_links(request: Request, caller: AdminCaller, body: LinksSchema) -> LinkBatchSchema:
    """Link up to 50 contacts to records; a link whose contact or record does not exist is left out.

    Repeating the request changes nothing.
    """
    pages = web_state(request).capacity.pages
    return await pages.run(caller.account_id, _create_links, caller.account_id, caller.name, body)


def _create_links(account_id: int, actor: str, body: LinksSchema) -> LinkBatchSchema:
    batch = manual_links.create_batch(account_id, [item.to_link() for item in body.links], actor=actor)
    return LinkBatchSchema(
        batch_id=batch.id,
        linked=len(batch.linked),
        results=[
            LinkResultSchema(
                organisation_id=outcome.link.organisation_id,
                contact_id=outcome.link.contact_id,
                record_type=outcome.link.record_type,
                record_id=outcome.link.record_id,
                status=outcome.status.value,
            )
            for outcome in batch.outcomes
        ],
    )


@router.delete(
    "/links/{batch_id}",
    tags=["links"],
    response_model=RemovedLinksSchema,
    responses=problem_responses(_403=WRONG_SCOPE),
    summary="Remove links that were made together",
    openapi_extra=BEARER_SECURITY,
)
async def remove_links(
    request: Request,
    caller: AdminCaller,
    batch_id: Annotated[UUID, Path(description="from the response of `POST /v1/links`")],
) -> RemovedLinksSchema:
    """Remove the links that one request made, as far as they still exist."""
    pages = web_state(request).capacity.pages
    return await pages.run(caller.account_id, _remove_links, caller.account_id, caller.name, batch_id)


def _remove_links(account_id: int, actor: str, batch_id: UUID) -> RemovedLinksSchema:
    return RemovedLinksSchema(removed=manual_links.undo_batch(account_id, batch_id, actor=actor))
