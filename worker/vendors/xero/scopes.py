"""The OAuth scopes that Xero's endpoints require, and which of them were not granted."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection
from typing import Any

from runtime.settings import settings
from store.accounts.xero_grants import GrantIdentity
from store.db.enums import CreditResource

# Each of an endpoint's scopes is sufficient, and so is the same scope without `.read` (Xero docs: OAuth 2.0 scopes).
ENDPOINT_SCOPES = {
    "Invoices": ("accounting.invoices.read", "accounting.transactions.read"),
    "Contacts": ("accounting.contacts.read",),
    "Organisation": ("accounting.settings.read",),
    "CreditNotes": ("accounting.invoices.read", "accounting.transactions.read"),
    # With granular scopes, which of these Xero requires is not documented.
    "Prepayments": ("accounting.payments.read", "accounting.transactions.read", "accounting.banktransactions.read"),
    "Overpayments": ("accounting.payments.read", "accounting.transactions.read", "accounting.banktransactions.read"),
}
REQUIRED_ENDPOINTS = ("Invoices", "Contacts", "Organisation")
# These are required only if the account shows the credits.
CREDIT_ENDPOINTS = {
    CreditResource.CREDIT_NOTES: "CreditNotes",
    CreditResource.PREPAYMENTS: "Prepayments",
    CreditResource.OVERPAYMENTS: "Overpayments",
}
ENDPOINT_LABELS = {
    "Invoices": "invoices",
    "Contacts": "contacts",
    "Organisation": "organisation details",
    "CreditNotes": "credit notes",
    "Prepayments": "prepayments",
    "Overpayments": "overpayments",
}
MAX_TOKEN_LENGTH = 20_000


def missing_endpoints(scopes: Collection[str] | None) -> tuple[str, ...]:
    """The required endpoints that `scopes` do not cover; none if the scopes are unknown."""
    if scopes is None:
        return ()
    granted = {scope.removesuffix(".read") for scope in scopes}
    return tuple(
        endpoint
        for endpoint in REQUIRED_ENDPOINTS
        if granted.isdisjoint(name.removesuffix(".read") for name in ENDPOINT_SCOPES[endpoint])
    )


def needed_endpoints(shown_credits: Collection[CreditResource]) -> tuple[str, ...]:
    """The endpoints that an account with these settings calls."""
    return (*REQUIRED_ENDPOINTS, *(CREDIT_ENDPOINTS[resource] for resource in shown_credits))


def required_scope(endpoint: str) -> str:
    """The scope that an endpoint requires: if several are sufficient, the one that this installation requests."""
    names = ENDPOINT_SCOPES.get(endpoint, (endpoint,))
    return next(filter(is_requested, names), names[0])


def is_requested(scope: str) -> bool:
    """Whether this installation requests a scope; if not, reconnecting does not grant it."""
    return scope in settings().xero_scopes.split()


def grant_identity(token: dict[str, Any]) -> GrantIdentity:
    """The user, the authorisation and the scopes of a token response.

    The access token is a JWT (Xero docs: token types). Its signature is not checked, because it came from Xero itself
    over TLS and authenticates nobody here. If it is not a JWT, only the `scope` of the response is known.
    """
    claims = _claims(str(token.get("access_token", "")))
    scopes = token.get("scope") or claims.get("scope")
    if isinstance(scopes, str):
        scopes = scopes.split()
    scope_names = tuple(str(scope) for scope in scopes) if isinstance(scopes, (list, tuple, set)) else None
    user = _claim_text(claims.get("xero_userid")) or _claim_text(claims.get("sub"))
    return GrantIdentity(user, _claim_text(claims.get("authentication_event_id")), scope_names)


def _claims(token: str) -> dict[str, Any]:
    parts = token.split(".")
    if len(parts) != 3 or len(token) > MAX_TOKEN_LENGTH:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _claim_text(value: object) -> str | None:
    return value.lower() if isinstance(value, str) and 0 < len(value) <= 100 and value.isprintable() else None
