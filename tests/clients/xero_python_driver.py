"""Calls a base URL with Xero's own SDK for Python, and prints the results as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

from xero_python.accounting import AccountingApi
from xero_python.api_client import ApiClient
from xero_python.api_client.configuration import Configuration
from xero_python.api_client.oauth2 import OAuth2Token, TokenApi
from xero_python.exceptions import HTTPStatusException
from xero_python.identity import IdentityApi


def numbers(response: Any) -> list[str]:
    return [invoice.invoice_number for invoice in response.invoices]


def refused(call: Callable[[], Any]) -> str:
    try:
        call()
    except HTTPStatusException as error:
        return f"{error.status} {type(error).__name__}"
    return "not refused"


def main(base: str, token: dict[str, Any], since: str) -> dict[str, Any]:
    TokenApi.refresh_token_url = f"{base}/xero/connect/token"
    TokenApi.revoke_token_url = f"{base}/xero/connect/revocation"
    stored_token = dict(token)
    settings = Configuration(oauth2_token=OAuth2Token(client_id="sandbox-client", client_secret="sandbox-secret"))
    client = ApiClient(settings, oauth2_token_getter=lambda: stored_token, oauth2_token_saver=stored_token.update)
    books = AccountingApi(client, base_url=f"{base}/xero/api.xro/2.0")
    identity = IdentityApi(client, base_url=f"{base}/xero")
    connections = identity.get_connections()
    tenant = connections[0].tenant_id
    page = books.get_invoices(tenant, page=1, page_size=2, order="InvoiceNumber ASC")
    (half_paid,) = books.get_invoices(tenant, invoice_numbers=["INV-1"]).invoices
    first = stored_token["access_token"]
    client.refresh_oauth2_token()
    return {
        "connections": [
            [connection.tenant_name, connection.auth_event_id == connections[0].auth_event_id]
            for connection in connections
        ],
        "of_this_consent": len(identity.get_connections(auth_event_id=connections[0].auth_event_id)),
        "organisation": [
            (organisation := books.get_organisations(tenant).organisations[0]).name,
            organisation.timezone.value,
            organisation.version,
        ],
        "page": [numbers(page), page.pagination.item_count],
        "drafts": numbers(books.get_invoices(tenant, where='Status=="DRAFT"')),
        "by_contact": numbers(books.get_invoices(tenant, where='Contact.Name=="Acme Ltd"', order="Date DESC")),
        "by_status": sorted(numbers(books.get_invoices(tenant, statuses=["PAID"]))),
        "changed": numbers(books.get_invoices(tenant, if_modified_since=datetime.fromisoformat(since))),
        "made_by_app": numbers(books.get_invoices(tenant, created_by_my_app=True)),
        "payments": [str(payment.amount) for payment in half_paid.payments],
        "due": str(half_paid.amount_due),
        "summary": books.get_invoices(tenant, summary_only=True, page=1).invoices[0].line_items,
        "single": books.get_invoice(tenant, "INV-1").invoices[0].contact.email_address,
        "history": [line.changes for line in books.get_invoice_history(tenant, half_paid.invoice_id).history_records],
        "credits": [
            [credit.credit_note_number, str(credit.remaining_credit), credit.allocations[0].invoice.invoice_number]
            for credit in books.get_credit_notes(tenant, where='Status=="AUTHORISED"', page=1).credit_notes
        ],
        "prepayments": [
            [prepayment.type, str(prepayment.remaining_credit)]
            for prepayment in books.get_prepayments(tenant).prepayments
        ],
        "overpayments": [
            books.get_overpayment(tenant, overpayment.overpayment_id).overpayments[0].contact.email_address
            for overpayment in books.get_overpayments(tenant, order="Date DESC").overpayments
        ],
        "contacts": [
            contact.name for contact in books.get_contacts(tenant, where='EmailAddress=="ann@acme.test"').contacts
        ],
        "refused": [
            refused(lambda: books.get_invoice(tenant, "00000000-0000-4000-8000-000000000000")),
            refused(lambda: books.get_invoices(tenant, where="Nonsense==1")),
            refused(lambda: books.get_invoices(tenant, page=0)),
            refused(lambda: books.get_quotes(tenant)),
            refused(lambda: books.get_organisations("00000000-0000-4000-8000-000000000000")),
        ],
        "refreshed": stored_token["access_token"] != first and books.get_organisations(tenant).organisations[0].name,
    }


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
