"""Whose API key a request carries, and what it opens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from pydantic import BaseModel

from store import access
from store.database import transaction
from store.secrets import digest
from web import throttle
from web.problems import ProblemError
from web.refusals import Reason


class ProblemView(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


def problems(**texts: str) -> dict[int | str, dict[str, Any]]:
    """The description of an endpoint's errors, by `_404="no such …"`; those that every one has come along."""
    described = {
        "_400": "a parameter is malformed",
        "_401": "no API key, or one that is unknown or revoked",
        "_429": "too many calls of this key or from this address, or too many of its account at the same time;"
        " Retry-After says how long to wait",
        "_503": "busy, or the database does not answer",
        **texts,
    }
    return {
        int(status[1:]): {
            "description": text,
            "content": {"application/problem+json": {"schema": ProblemView.model_json_schema()}},
        }
        for status, text in sorted(described.items())
    }


KEYED: dict[str, Any] = {"security": [{"bearer": []}]}


def bearer(request: Request) -> str:
    """The API key of the request; raises a 401 problem when there is none."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise ProblemError(401, "Send your API key as: Authorization: Bearer pat_…")
    return key.strip()


@dataclass(frozen=True)
class Caller:
    """A key's account."""

    account_id: int
    prefix: str


def keyed(*scopes: str) -> Callable[[Request], Caller]:
    """A dependency: the account of the request's key, if it has one of `scopes`; 401 or 403 problems otherwise."""

    def caller(request: Request) -> Caller:
        key = bearer(request)
        hashed = digest(key)
        throttle.api(request, hashed)
        with transaction() as session:
            account_id = access.account_of_key(session, key, scopes)
            known = account_id is not None or access.account_of_key(session, key, ("read", "admin")) is not None
        if known:
            throttle.known_key(hashed)
        if account_id is None:
            if known:
                said = f"This needs a key with the scope {' or '.join(scopes)}; this one has another."
                raise ProblemError(403, said, reason=Reason.SCOPE)
            raise ProblemError(401, "This API key is unknown or was revoked.")
        request.app.state.looks.used(hashed)
        return Caller(account_id, key[:12])

    return caller
