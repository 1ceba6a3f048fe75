"""Which OAuth scope opens which of Xero's endpoints, and which of those that are needed were not granted."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection
from typing import Any

from runtime.settings import settings
from store.accounts import GrantIdentity

# Any one of an endpoint's scopes opens it; each exists without `.read`, too (Xero docs: OAuth 2.0 scopes).
NEEDED = {
    "Invoices": ("accounting.invoices.read", "accounting.transactions.read"),
    "Contacts": ("accounting.contacts.read",),
    "Organisation": ("accounting.settings.read",),
}
NOUNS = {"Invoices": "invoices", "Contacts": "contacts", "Organisation": "organisation details"}
TOKEN_LENGTH = 20_000


def missing(scopes: Collection[str] | None) -> tuple[str, ...]:
    """The needed endpoints that `scopes` do not open; none where the scopes are not known."""
    if scopes is None:
        return ()
    given = {scope.removesuffix(".read") for scope in scopes}
    return tuple(
        endpoint for endpoint, names in NEEDED.items() if given.isdisjoint(name.removesuffix(".read") for name in names)
    )


def permission(endpoint: str) -> str:
    """The scope to allow for an endpoint: of several, the one that this installation asks for."""
    names, asked = NEEDED.get(endpoint, (endpoint,)), settings().xero_scopes.split()
    return next((name for name in names if name in asked), names[0])


def identity(token: dict[str, Any]) -> GrantIdentity:
    """What a token answer says of the user, the authorisation and the scopes.

    The access token is a JWT (Xero docs: token types) that came from Xero itself over TLS, so its signature is not
    checked, and nobody is let in by it. Of a token that is none, only the answer's own `scope` is known.
    """
    claims = _claims(str(token.get("access_token", "")))
    scopes = token.get("scope") or claims.get("scope")
    if isinstance(scopes, str):
        scopes = scopes.split()
    known = tuple(str(scope) for scope in scopes) if isinstance(scopes, (list, tuple, set)) else None
    user = _text(claims.get("xero_userid")) or _text(claims.get("sub"))
    return GrantIdentity(user, _text(claims.get("authentication_event_id")), known)


def _claims(token: str) -> dict[str, Any]:
    parts = token.split(".")
    if len(parts) != 3 or len(token) > TOKEN_LENGTH:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _text(value: object) -> str | None:
    return value.lower() if isinstance(value, str) and 0 < len(value) <= 100 and value.isprintable() else None
