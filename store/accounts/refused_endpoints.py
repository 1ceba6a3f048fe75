"""Endpoints, or parameters of them, that a vendor refuses to an account although its credentials are valid.

Xero refuses what the granted scopes do not cover; Copper what the plan or the key's owner may not use. A refusal is
trusted for a while, so that no calls are wasted. The row stays until a sync run has read what was missed in the
meantime.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

COPPER = 0
"""The organisation id that stands for an account's Copper."""
# An admin can change a Xero user's role at any time; a Copper plan rarely changes.
XERO_TRUST_SECONDS = 3_600.0
COPPER_TRUST_SECONDS = 86_400.0

RECORD = text("""
    INSERT INTO refused_endpoint (account_id, organisation_id, endpoint, parameter)
    VALUES (:account, :organisation, :endpoint, :parameter)
    ON CONFLICT (account_id, organisation_id, endpoint, parameter) DO UPDATE SET refused_at = now()
""")
LIST = text("""
    SELECT organisation_id, endpoint, parameter, extract(epoch FROM now() - refused_at)
    FROM refused_endpoint
    WHERE account_id = :account AND organisation_id = :organisation ORDER BY endpoint, parameter
""")
CLEAR = text("""
    DELETE FROM refused_endpoint
    WHERE account_id = :account AND organisation_id = :organisation
      AND (CAST(:endpoint AS text) IS NULL OR endpoint = :endpoint AND parameter = '')
""")


@dataclass(frozen=True)
class Refusal:
    """An endpoint that a vendor refuses; `parameter` '' means all of it. `age` is seconds since the last refusal."""

    organisation_id: int
    endpoint: str
    parameter: str
    age: float


def record(session: Session, account_id: int, organisation_id: int, endpoint: str, parameter: str = "") -> None:
    """Record that the vendor has just refused an endpoint, or one parameter of it."""
    params = {"account": account_id, "organisation": organisation_id, "endpoint": endpoint, "parameter": parameter}
    session.execute(RECORD, params)


def list_refusals(session: Session, account_id: int, organisation_id: int) -> list[Refusal]:
    """The refusals of one connection of an account; organisation 0 is Copper."""
    rows = session.execute(LIST, {"account": account_id, "organisation": organisation_id})
    return [Refusal(row[0], row[1], row[2], float(row[3])) for row in rows]


def clear(session: Session, account_id: int, organisation_id: int, endpoint: str | None = None) -> None:
    """Delete the refusal of one endpoint, or (None) all of a connection's after an admin has reconnected it."""
    session.execute(CLEAR, {"account": account_id, "organisation": organisation_id, "endpoint": endpoint})
