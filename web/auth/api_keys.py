"""API-key authentication."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request

from store.accounts import api_keys
from store.accounts.api_keys import KeyOwner
from store.db.crypto import digest
from store.db.database import transaction
from store.db.read_replica import read_transaction, replica_lag
from web.auth import rate_limits
from web.middleware.refusals import RefusalReason
from web.presentation.problems import ProblemError
from web.state import web_state

BEARER_SECURITY: dict[str, Any] = {"security": [{"bearer": []}]}
"""For the OpenAPI description of an endpoint that needs an API key."""
API_SCOPES = ("read", "admin")
"""A key with neither opens a panel only, and is unknown to the API."""


def bearer_token(request: Request) -> str:
    """The API key of the request; raises a 401 problem if there is none."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise ProblemError(401, "Send your API key as: Authorization: Bearer pat_…")
    return key.strip()


def unknown_key(request: Request) -> ProblemError:
    """The 401 problem for a key that does not exist; delayed for an address that has sent many of them."""
    is_delayed = rate_limits.count_unknown_key(request)
    return ProblemError(401, "This API key is unknown or was revoked.", is_delayed=is_delayed)


@dataclass(frozen=True)
class Caller:
    """The account of an API key, the prefix by which people know the key, and whether it has the scope `admin`."""

    account_id: int
    prefix: str
    is_admin: bool

    @property
    def name(self) -> str:
        """The caller as the audit log names it."""
        return f"API key {self.prefix}"


def require_scopes(*scopes: str) -> Callable[[Request], Caller]:
    """A dependency that returns the caller if the key has one of `scopes`; raises a 401 or 403 problem otherwise."""

    def caller(request: Request) -> Caller:
        key = bearer_token(request)
        key_digest = digest(key)
        rate_limits.limit_api_call(request, key_digest)
        owner = _find_owner(key)
        if owner is None or owner.scopes.isdisjoint(API_SCOPES):
            raise unknown_key(request)
        rate_limits.count_known_key(key_digest)
        if owner.scopes.isdisjoint(scopes):
            detail = f"This needs a key with the scope {' or '.join(scopes)}; this one has another."
            raise ProblemError(403, detail, reason=RefusalReason.SCOPE)
        web_state(request).key_usage.record(key_digest)
        return Caller(owner.account_id, key[:12], is_admin="admin" in owner.scopes)

    return caller


def _find_owner(key: str) -> KeyOwner | None:
    """The key's owner; the primary is asked about a key that a standby may not know yet."""
    with read_transaction() as session:
        owner = api_keys.find_owner(session, key)
    if owner is None and replica_lag().prefers_replica:
        with transaction() as session:
            owner = api_keys.find_owner(session, key)
    return owner


ReadCaller = Annotated[Caller, Depends(require_scopes(*API_SCOPES))]
AdminCaller = Annotated[Caller, Depends(require_scopes("admin"))]
