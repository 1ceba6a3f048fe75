"""What the actions of Xero's users have in common: how they refer to Xero's data, and how changes are recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar
from uuid import UUID

from pydantic import Field

from sandbox.delivery import Delivery, XeroCategory
from sandbox.world import Contact, Credit, CreditResource, HistoryEntry, Invoice, Organisation, World

# An id, or a name that people use, if it is unique.
InvoiceRef = Annotated[str, Field(description="the invoice's id or number")]
CreditRef = Annotated[str, Field(description="the credit's id, or the number of a credit note")]
ContactRef = Annotated[str, Field(description="the contact's id, name or email address")]
TenantRef = Annotated[str, Field(description="the organisation's tenant id or name")]
# Overpayments have no webhook yet.
CREDIT_CATEGORIES: dict[CreditResource, XeroCategory] = {
    CreditResource.CREDIT_NOTES: "CREDITNOTE",
    CreditResource.PREPAYMENTS: "PREPAYMENT",
}

Entity = TypeVar("Entity", Contact, Invoice, Credit)
Match = TypeVar("Match", Contact, Invoice, Credit, Organisation)


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _contact_names(contact: Contact) -> set[str]:
    """A contact that was merged into another is only referred to by its id."""
    return set() if contact.merged_to else {contact.name.casefold(), contact.email.strip().casefold()}


def _numbers(document: Invoice | Credit) -> set[str]:
    return {document.number.casefold()} - {""}


def unique_match(noun: str, reference: str, matches: list[tuple[Organisation, Match]]) -> tuple[Organisation, Match]:
    """The only match; raises `ActionError` if there is none or more than one."""
    if not matches:
        raise ActionError(f"there is no {noun} {reference}")
    if len(matches) > 1:
        organisation_names = ", ".join(sorted({organisation.name for organisation, _ in matches}))
        raise ActionError(f"{len(matches)} are called {reference} ({organisation_names}): use the {noun}'s id")
    return matches[0]


class ActionError(Exception):
    """The action is not possible; the message says why."""


class XeroActionBase:
    """Finds what an action refers to, and sends the webhooks of its changes."""

    def __init__(self, world: World, delivery: Delivery) -> None:
        self._world = world
        self._delivery = delivery

    def _organisation(self, tenant: str | None) -> Organisation:
        organisations = self._world.organisations
        if tenant is None and organisations:
            return next(iter(organisations.values()))
        name, tenant_id = (tenant or "").casefold(), _uuid(tenant or "")
        matches = [
            (organisation, organisation)
            for organisation in organisations.values()
            if organisation.tenant_id == tenant_id or organisation.name.casefold() == name
        ]
        return unique_match("organisation", tenant or "yet", matches)[1]

    def _find(
        self,
        noun: str,
        reference: str,
        rows_of: Callable[[Organisation], dict[UUID, Entity]],
        names_of: Callable[[Entity], set[str]],
    ) -> tuple[Organisation, Entity]:
        """The only row with this id or, if the reference is no id, with this name."""
        row_id, name = _uuid(reference), reference.strip().casefold()
        matches = [
            (organisation, row)
            for organisation in self._world.organisations.values()
            for row in rows_of(organisation).values()
            if (row.id == row_id if row_id is not None else name in names_of(row))
        ]
        return unique_match(noun, reference, matches)

    def _contact(self, contact: str) -> tuple[Organisation, Contact]:
        return self._find("contact", contact, lambda organisation: organisation.contacts, _contact_names)

    def _unmerged_contact(self, contact: str) -> tuple[Organisation, Contact]:
        organisation, xero_contact = self._contact(contact)
        if xero_contact.merged_to:
            raise ActionError("the contact was merged into another")
        return organisation, xero_contact

    def _invoice(self, invoice: str) -> tuple[Organisation, Invoice]:
        return self._find("invoice", invoice, lambda organisation: organisation.invoices, _numbers)

    def _credit(self, credit: str) -> tuple[Organisation, Credit]:
        return self._find("credit", credit, lambda organisation: organisation.credits, _numbers)

    def _contact_changed(self, organisation: Organisation, contact: Contact, event_type: str) -> None:
        organisation.touch(contact, self._world.clock.now())
        self._delivery.xero_event(organisation.tenant_id, "CONTACT", event_type, contact.id, contact.updated)

    def _invoice_changed(
        self, organisation: Organisation, invoice: Invoice, event_type: str, change: str | None, *, webhook: bool = True
    ) -> None:
        organisation.touch(invoice, self._world.clock.now())
        if change:
            invoice.history.append(HistoryEntry(change, invoice.updated))
        if webhook:
            self._delivery.xero_event(organisation.tenant_id, "INVOICE", event_type, invoice.id, invoice.updated)

    def _credit_changed(
        self, organisation: Organisation, credit: Credit, event_type: str, *, webhook: bool = True
    ) -> None:
        organisation.touch(credit, self._world.clock.now())
        category = CREDIT_CATEGORIES.get(credit.resource)
        if category is None or not webhook:
            return
        data = {"Type": credit.type, "Status": credit.status}
        if category == "PREPAYMENT":
            # ISO 8601, as the element of this name in the API (Xero-OpenAPI, pull requests 823 and 824).
            data["UpdatedDateUTCString"] = credit.updated.strftime("%Y-%m-%dT%H:%M:%SZ")
        self._delivery.xero_event(organisation.tenant_id, category, event_type, credit.id, credit.updated, data)
