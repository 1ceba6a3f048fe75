"""API-key authentication."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request

from store.accounts import api_keys
from store.db.crypto import digest
from store.db.database import transaction
from web.auth import rate_limits
from web.middleware.refusals import RefusalReason
from web.presentation.problems import ProblemError
from web.state import web_state

BEARER_SECURITY: dict[str, Any] = {"security": [{"bearer": []}]}
"""For the OpenAPI description of an endpoint that needs an API key."""


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
    """The account of an API key, and the prefix by which people know the key."""

    account_id: int
    prefix: str

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
        with transaction() as session:
            account_id = api_keys.find_account(session, key, scopes)
            exists = account_id is not None or api_keys.find_account(session, key, ("read", "admin")) is not None
        if exists:
            rate_limits.count_known_key(key_digest)
        if account_id is None:
            if exists:
                detail = f"This needs a key with the scope {' or '.join(scopes)}; this one has another."
                raise ProblemError(403, detail, reason=RefusalReason.SCOPE)
            raise unknown_key(request)
        web_state(request).key_usage.record(key_digest)
        return Caller(account_id, key[:12])

    return caller


ReadCaller = Annotated[Caller, Depends(require_scopes("read", "admin"))]
AdminCaller = Annotated[Caller, Depends(require_scopes("admin"))]
