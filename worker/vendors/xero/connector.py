"""A Xero organisation as a connector: what events name is fetched by id, with what a change of it moves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from store.accounts import xero_grants, xero_organisations
from store.accounts.xero_organisations import Organisation
from store.db.database import Session, transaction
from store.db.enums import CreditResource
from store.ingest.inbox import LeasedEvent, SyncSource
from store.mirror import mirror
from store.sync.runs import Run
from worker.vendors.connector import RunRequest, SyncCoverage
from worker.vendors.errors import EndpointRefusedError
from worker.vendors.rate_limit.budget import Budget, Priority
from worker.vendors.sync_types import PageResult, RunKind, run_kind_of, write_nothing
from worker.vendors.xero import stages as xero_stages
from worker.vendors.xero.client import IDS_PER_CALL, PAGE_SIZE, Page, XeroClient
from worker.vendors.xero.schemas import XeroContact

CREDIT_CATEGORIES = {
    "CREDITNOTE": CreditResource.CREDIT_NOTES,
    "PREPAYMENT": CreditResource.PREPAYMENTS,
    "OVERPAYMENT": CreditResource.OVERPAYMENTS,
}
CREATED_CATEGORIES = {"INVOICE", *CREDIT_CATEGORIES}
# More credits than this are fetched as a page of those that changed.
MAX_CREDITS_BY_ID = 3


@dataclass
class XeroFetchResult:
    """The contacts, and the invoices and credits (`documents`), of some events; `created` has their created dates."""

    source: SyncSource
    contacts: list[Page[XeroContact]] = field(default_factory=list)
    documents: list[Page[Any]] = field(default_factory=list)
    created: dict[UUID, datetime] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)

    def write(self, session: Session) -> None:
        """Write all rows to the mirror: contacts before documents."""
        scope = (self.source.account_id, self.source.organisation_id)
        for contacts in self.contacts:
            rows = (contact.to_row() for contact in contacts.items)
            mirror.upsert_contacts(session, *scope, rows, contacts.fetched_at)
        for documents in self.documents:
            document_rows = (document.to_row() for document in documents.items)
            mirror.upsert_invoices(session, *scope, document_rows, documents.fetched_at)
        mirror.set_created_dates(session, *scope, self.created)


@dataclass
class XeroConnector:
    """A Xero organisation of an account."""

    source: SyncSource
    _run_client: XeroClient | None = field(default=None, init=False, repr=False, compare=False)

    def budget(self, session: Session) -> Budget | None:
        """The budget of the organisation's calls; None if it was removed."""
        organisation = xero_organisations.find(session, self.source.account_id, self.source.organisation_id)
        return Budget.for_xero(organisation) if organisation else None

    def ping(self) -> bool:
        """Fetch the organisation's details; False if it was removed."""
        client = self._create_client(Priority.EVENTS)
        return bool(client and client.get_organisation())

    def batch_size(self, category: str) -> int:
        """As many ids as a call can have; a page of credits, because many are fetched as those that changed."""
        return PAGE_SIZE if category in CREDIT_CATEGORIES else IDS_PER_CALL

    def fetch_events(self, events: Sequence[LeasedEvent]) -> XeroFetchResult:
        """Fetch what the events name, the unknown contacts of documents, and the documents of merge targets.

        A credit may have changed any invoice that it is applied to, so the changed invoices are fetched too.
        """
        result = XeroFetchResult(self.source)
        client = self._create_client(Priority.EVENTS)
        if client is not None:
            _fetch_events(client, events, result)
        return result

    def run_requests(self) -> Sequence[RunRequest]:
        """A catch-up: an event of any other category says that invoices may have changed."""
        return (RunRequest(RunKind.CATCH_UP, None),)

    def stages(self, run_kind: RunKind) -> tuple[str, ...]:
        """The stages of a run of this kind."""
        return xero_stages.stages(run_kind)

    def fetch_page(self, run: Run) -> PageResult:
        """Fetch the run's next page; an empty last page if the organisation was removed."""
        if self._run_client is None:
            self._run_client = self._create_client(run_kind_of(run).priority)
        if self._run_client is None:
            return PageResult(write_nothing, None, 0)
        return xero_stages.fetch(run, self._run_client)

    def coverage(self, session: Session) -> SyncCoverage:
        """FULL once all invoices were read, which come last; EXCEPT_REFUSED if only contacts may be read."""
        organisation = xero_organisations.find(session, self.source.account_id, self.source.organisation_id)
        if organisation is None:
            return SyncCoverage.INCOMPLETE
        if organisation.invoices_synced_through is not None:
            return SyncCoverage.FULL
        is_refused = "Invoices" in organisation.refused and organisation.contacts_synced_through is not None
        return SyncCoverage.EXCEPT_REFUSED if is_refused else SyncCoverage.INCOMPLETE

    def _create_client(self, priority: Priority) -> XeroClient | None:
        """A client with the organisation's grant; None if the organisation was removed."""
        account_id = self.source.account_id
        with transaction() as session:
            organisation = xero_organisations.find(session, account_id, self.source.organisation_id)
            if organisation is None:
                return None
            grant = xero_grants.get(session, account_id, organisation.grant_id)
        return XeroClient(organisation, priority, grant)


def list_sources(session: Session, account_id: int) -> list[SyncSource]:
    """The account's connected organisations."""
    organisations = xero_organisations.list_connected(session, account_id)
    return [SyncSource(account_id, organisation.id) for organisation in organisations]


def _fetch_events(client: XeroClient, events: Sequence[LeasedEvent], result: XeroFetchResult) -> None:
    invoice_ids = _resource_ids(events, "INVOICE")
    contact_ids = _resource_ids(events, "CONTACT")
    if invoice_ids:
        result.documents.append(client.invoices_by_id(sorted(invoice_ids)))
    if contact_ids:
        result.contacts.append(client.contacts_by_id(sorted(contact_ids)))
        merge_targets = {contact.merged_to for contact in result.contacts[0].items if contact.merged_to}
        if merge_targets:
            with suppress(EndpointRefusedError):
                result.documents.extend(xero_stages.list_documents_of(client, sorted(merge_targets)))
    for category, resource in CREDIT_CATEGORIES.items():
        credit_events = [event for event in events if event.category == category]
        if credit_events:
            result.documents.extend(_fetch_credits(client, resource, credit_events))
            result.documents.extend(_fetch_changed_invoices(client, credit_events))
    unknown_ids = _unknown_contacts(client.organisation, result.documents, contact_ids)
    if unknown_ids:
        with suppress(EndpointRefusedError):
            result.contacts.append(client.contacts_by_id(unknown_ids))
    _add_created_dates(result, events)
    for documents in result.documents:
        result.unreadable.update(documents.unreadable)
    for contacts in result.contacts:
        result.unreadable.update(contacts.unreadable)


def _resource_ids(events: Iterable[LeasedEvent], category: str) -> set[UUID]:
    """Return the ids that events of a category name; `webhooks.payloads` stores no others."""
    return {UUID(event.resource_id) for event in events if event.category == category}


def _fetch_credits(client: XeroClient, resource: CreditResource, events: Sequence[LeasedEvent]) -> list[Page[Any]]:
    """Fetch the credits of events if the account shows them: a few by id, many as the credits that changed since."""
    if resource not in client.organisation.shown_credits:
        return []
    ids = {UUID(event.resource_id) for event in events}
    since = _changed_since(events, client.organisation.credits_synced_through.get(resource))
    try:
        pages: list[Page[Any]] = []
        if since is not None and len(ids) > MAX_CREDITS_BY_ID:
            pages.extend(xero_stages.list_pages(partial(client.list_credits, resource, since=since)))
            ids -= {credit.credit_id for page in pages for credit in page.items}
        return [*pages, client.credits_by_id(resource, sorted(ids))]
    except EndpointRefusedError:
        return []


def _fetch_changed_invoices(client: XeroClient, events: Sequence[LeasedEvent]) -> list[Page[Any]]:
    """Fetch the invoices that changed since the events: Xero may send no event for an invoice that a credit changed."""
    since = _changed_since(events, client.organisation.invoices_synced_through)
    if since is None:
        return []
    with suppress(EndpointRefusedError):
        return list(xero_stages.list_pages(partial(client.list_invoices, since=since)))
    return []


def _changed_since(events: Sequence[LeasedEvent], synced_through: datetime | None) -> datetime | None:
    """Return the time since when changes are to be fetched: that of the first event, or of the latest sync if later.

    None if there is neither.
    """
    occurred_at = [event.occurred_at for event in events]
    first = min((time for time in occurred_at if time), default=None) if None not in occurred_at else None
    known_times = [time for time in (first, synced_through) if time]
    return max(known_times) - xero_stages.OVERLAP if known_times else None


def _unknown_contacts(organisation: Organisation, documents: Iterable[Page[Any]], contact_ids: set[UUID]) -> list[UUID]:
    """Return the contacts of documents that are neither in the mirror nor among `contact_ids`."""
    invoiced_ids = {document.contact_id for page in documents for document in page.items if document.contact_id}
    with transaction() as session:
        return mirror.list_unknown_contacts(
            session, organisation.account_id, organisation.id, invoiced_ids - contact_ids
        )


def _add_created_dates(result: XeroFetchResult, events: Sequence[LeasedEvent]) -> None:
    """Take the created date of an invoice or a credit from its CREATE event: Xero's data does not have it."""
    for event in events:
        if event.category in CREATED_CATEGORIES and event.event_type == "CREATE" and event.occurred_at:
            resource_id = UUID(event.resource_id)
            result.created[resource_id] = min(result.created.get(resource_id, event.occurred_at), event.occurred_at)
