"""Calls a base URL with pyxero, and prints the results as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

from xero import Xero, auth
from xero.auth import OAuth2Credentials
from xero.exceptions import XeroBadRequest, XeroForbidden, XeroNotFound


def refused(call: Callable[[], Any]) -> str:
    try:
        call()
    except (XeroBadRequest, XeroForbidden, XeroNotFound) as error:
        return type(error).__name__
    return "not refused"


def numbers(invoices: list[dict[str, Any]]) -> list[str]:
    return sorted(invoice["InvoiceNumber"] for invoice in invoices)


def main(base: str, token: dict[str, Any], since: str) -> dict[str, Any]:
    auth.XERO_BASE_URL = f"{base}/xero"
    auth.XERO_OAUTH2_TOKEN_URL = f"{base}/xero/connect/token"
    credentials = OAuth2Credentials("sandbox-client", "sandbox-secret", token=token)
    tenants = credentials.get_tenants()
    credentials.tenant_id = tenants[0]["tenantId"]
    xero = Xero(credentials)
    first = credentials.token["access_token"]
    credentials.refresh()
    return {
        "tenants": [tenant["tenantName"] for tenant in tenants],
        "of_this_consent": len(credentials.get_tenants(auth_event_id=tenants[0]["authEventId"])),
        "organisation": xero.organisations.all()[0]["Timezone"],
        "drafts": numbers(xero.invoices.filter(Status="DRAFT")),
        "by_raw": numbers(xero.invoices.filter(raw='Total > 50 AND CurrencyCode != "JPY"')),
        "by_contact": numbers(xero.invoices.filter(Contact_Name__contains="Acme")),
        "by_date": numbers(xero.invoices.filter(Date__gte=datetime.fromisoformat("2026-02-01"))),
        "page": len(xero.invoices.filter(page=1, pageSize=2)),
        "changed": numbers(xero.invoices.filter(since=datetime.fromisoformat(since).replace(tzinfo=None))),
        "single": xero.invoices.get("INV-1")[0]["Contact"]["EmailAddress"],
        "history": [line["Changes"] for line in xero.invoices.get_history("INV-1")["HistoryRecords"]],
        "credits": [credit["CreditNoteNumber"] for credit in xero.creditnotes.filter(Status="AUTHORISED")],
        "prepayments": [str(prepayment["RemainingCredit"]) for prepayment in xero.prepayments.all()],
        "overpayments": [overpayment["Type"] for overpayment in xero.overpayments.all()],
        "contacts": [contact["Name"] for contact in xero.contacts.filter(EmailAddress="ann@acme.test")],
        "refused": [
            refused(lambda: xero.invoices.get("00000000-0000-4000-8000-000000000000")),
            refused(lambda: xero.invoices.filter(raw="Nonsense==1")),
            refused(lambda: xero.quotes.all()),
        ],
        "refreshed": credentials.token["access_token"] != first,
    }


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
