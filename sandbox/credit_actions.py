"""Actions of Xero's users on credits: credit notes, prepayments and overpayments, and their use for invoices."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any, Literal
from uuid import uuid4

from sandbox.action_base import ActionError, ContactRef, CreditRef, InvoiceRef, XeroActionBase
from sandbox.world import Allocation, Credit, Invoice, Organisation


def check_match(credit: Credit, invoice: Invoice) -> None:
    """Raise `ActionError` unless the credit can be applied to the invoice."""
    if credit.contact_id != invoice.contact_id:
        raise ActionError("the credit and the invoice belong to different contacts")
    if credit.is_sale != invoice.is_sale:
        raise ActionError(f"a credit of type {credit.type} cannot be applied to an invoice of type {invoice.type}")
    if credit.currency != invoice.currency:
        raise ActionError(f"the credit is in {credit.currency}, but the invoice in {invoice.currency}")
    if credit.status != "AUTHORISED" or invoice.status != "AUTHORISED":
        raise ActionError(
            "only an approved credit can be applied, and only to an approved invoice; "
            f"the credit is {credit.status}, the invoice {invoice.status}"
        )


class CreditActions(XeroActionBase):
    """Simulates a user of Xero who works with credits."""

    def create_credit_note(
        self,
        contact: ContactRef,
        total: Decimal,
        type: Literal["ACCRECCREDIT", "ACCPAYCREDIT"] = "ACCRECCREDIT",
        status: Literal["DRAFT", "SUBMITTED", "AUTHORISED"] = "AUTHORISED",
        number: str | None = None,
        reference: str = "",
        currency: str | None = None,
        issued: date | None = None,
        webhook: bool = True,
    ) -> dict[str, Any]:
        """Create a credit note for a customer, or enter a supplier's; `webhook=false` sends no webhook."""
        organisation, credit = self._new_credit(contact, total, type, reference, currency, issued)
        credit.status = status
        if number is None:
            number = organisation.allocate_credit_number() if credit.is_sale else ""
        credit.number = number
        return self._add_credit(organisation, credit, webhook=webhook)

    def create_prepayment(
        self,
        contact: ContactRef,
        total: Decimal,
        type: Literal["RECEIVE-PREPAYMENT", "SPEND-PREPAYMENT"] = "RECEIVE-PREPAYMENT",
        reference: str = "",
        currency: str | None = None,
        issued: date | None = None,
        webhook: bool = True,
    ) -> dict[str, Any]:
        """Record a prepayment by a customer, or to a supplier; `webhook=false` sends no webhook."""
        organisation, credit = self._new_credit(contact, total, type, reference, currency, issued)
        return self._add_credit(organisation, credit, webhook=webhook)

    def create_overpayment(
        self,
        contact: ContactRef,
        total: Decimal,
        type: Literal["RECEIVE-OVERPAYMENT", "SPEND-OVERPAYMENT"] = "RECEIVE-OVERPAYMENT",
        reference: str = "",
        currency: str | None = None,
        issued: date | None = None,
        webhook: bool = True,
    ) -> dict[str, Any]:
        """Record an overpayment by a customer, or to a supplier. Xero has no webhook for overpayments."""
        organisation, credit = self._new_credit(contact, total, type, reference, currency, issued)
        return self._add_credit(organisation, credit, webhook=webhook)

    def apply_credit(
        self,
        credit: CreditRef,
        invoice: InvoiceRef,
        amount: Decimal | None = None,
        webhook: bool = True,
        invoice_webhook: bool = True,
    ) -> dict[str, Any]:
        """Apply a credit to an invoice, as much as possible unless an amount is given.

        `webhook=false` sends no webhook; `invoice_webhook=false` sends the credit's, but not the invoice's.
        """
        organisation, xero_credit = self._credit(credit)
        _, xero_invoice = self._invoice(invoice)
        check_match(xero_credit, xero_invoice)
        limit = min(xero_credit.remaining, xero_invoice.due)
        applied = limit if amount is None else amount
        if not 0 < applied <= limit:
            raise ActionError(f"the amount must be more than 0 and at most {limit}")
        allocation = Allocation(uuid4(), xero_invoice.id, applied, self._world.clock.now().date())
        organisation.allocate(xero_credit, xero_invoice, allocation)
        self._credit_changed(organisation, xero_credit, "UPDATE", webhook=webhook)
        self._invoice_changed(organisation, xero_invoice, "UPDATE", "Credited", webhook=webhook and invoice_webhook)
        return _amounts_left(xero_credit, xero_invoice)

    def remove_allocation(
        self, credit: CreditRef, invoice: InvoiceRef, webhook: bool = True, invoice_webhook: bool = True
    ) -> dict[str, Any]:
        """Undo the application of a credit to an invoice.

        `webhook=false` sends no webhook; `invoice_webhook=false` sends the credit's, but not the invoice's.
        """
        organisation, xero_credit = self._credit(credit)
        _, xero_invoice = self._invoice(invoice)
        if not xero_credit.applied_to(xero_invoice.id):
            raise ActionError("the credit is not applied to the invoice")
        organisation.deallocate(xero_credit, xero_invoice)
        self._credit_changed(organisation, xero_credit, "UPDATE", webhook=webhook)
        self._invoice_changed(
            organisation, xero_invoice, "UPDATE", "Credit removed", webhook=webhook and invoice_webhook
        )
        return _amounts_left(xero_credit, xero_invoice)

    def credit_invoice(self, invoice: InvoiceRef, amount: Decimal, webhook: bool = True) -> dict[str, Any]:
        """Create a credit note and apply all of it to an approved invoice; `webhook=false` sends no webhook."""
        _, xero_invoice = self._invoice(invoice)
        if xero_invoice.status != "AUTHORISED" or not 0 < amount <= xero_invoice.due:
            raise ActionError("only the amount due on an approved invoice can be credited")
        credit = self.create_credit_note(
            str(xero_invoice.contact_id),
            amount,
            "ACCRECCREDIT" if xero_invoice.is_sale else "ACCPAYCREDIT",
            currency=xero_invoice.currency,
            webhook=webhook,
        )
        applied = self.apply_credit(credit["credit"], str(xero_invoice.id), webhook=webhook)
        return {"invoice": applied["invoice"], "due": applied["due"]}

    def approve_credit_note(self, credit: CreditRef) -> dict[str, Any]:
        """Approve a draft or submitted credit note."""
        organisation, xero_credit = self._credit(credit)
        if xero_credit.status not in {"DRAFT", "SUBMITTED"}:
            raise ActionError(f"a {xero_credit.status} credit cannot be approved")
        xero_credit.status = "AUTHORISED"
        self._credit_changed(organisation, xero_credit, "UPDATE")
        return {"credit": str(xero_credit.id)}

    def void_credit(self, credit: CreditRef) -> dict[str, Any]:
        """Void an approved credit that is not applied to an invoice."""
        organisation, xero_credit = self._credit(credit)
        if xero_credit.status != "AUTHORISED" or xero_credit.allocations:
            raise ActionError("only an approved credit that is not applied to an invoice can be voided")
        xero_credit.status = "VOIDED"
        self._credit_changed(organisation, xero_credit, "UPDATE")
        return {"credit": str(xero_credit.id)}

    def delete_credit_note(self, credit: CreditRef) -> dict[str, Any]:
        """Delete a draft or submitted credit note."""
        organisation, xero_credit = self._credit(credit)
        if xero_credit.status not in {"DRAFT", "SUBMITTED"}:
            raise ActionError("only a draft or submitted credit note can be deleted")
        xero_credit.status = "DELETED"
        self._credit_changed(organisation, xero_credit, "UPDATE")
        return {"credit": str(xero_credit.id)}

    def _new_credit(
        self,
        contact: str,
        total: Decimal,
        credit_type: str,
        reference: str,
        currency: str | None,
        issued: date | None,
    ) -> tuple[Organisation, Credit]:
        """An approved credit that is not in Xero yet."""
        organisation, xero_contact = self._unmerged_contact(contact)
        if total <= 0:
            raise ActionError("the total of a credit must be more than 0")
        now = self._world.clock.now()
        credit = Credit(
            uuid4(),
            credit_type,
            xero_contact.id,
            "AUTHORISED",
            total,
            currency or organisation.currency,
            issued or now.date(),
            now,
            reference=reference,
        )
        return organisation, credit

    def _add_credit(self, organisation: Organisation, credit: Credit, *, webhook: bool) -> dict[str, Any]:
        organisation.credits[credit.id] = credit
        self._credit_changed(organisation, credit, "CREATE", webhook=webhook)
        return {"credit": str(credit.id), "number": credit.number}


def _amounts_left(credit: Credit, invoice: Invoice) -> dict[str, Any]:
    return {
        "credit": str(credit.id),
        "remaining": str(credit.remaining),
        "invoice": str(invoice.id),
        "due": str(invoice.due),
    }
