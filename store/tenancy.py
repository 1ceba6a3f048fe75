"""An account's row keeps its data company: no row of an account is added once that one is gone.

Most tables refer to it by a foreign key. Those that also keep rows of no account (0), or that are rewritten as a whole,
have none: whoever adds to them holds the account's row instead, until the commit. `store.closing` deletes that row
last, when nobody holds it and nothing is left; so neither can miss the other.
"""

from __future__ import annotations

from sqlalchemy import text
from sqlmodel import Session

from store.database import AccountClosedError

# Shared with every other writer, and with whoever changes the account's settings; not with who deletes it.
HOLD_ACCOUNT = "SELECT id FROM account WHERE id = {account} AND closed_at IS NULL FOR KEY SHARE"
HOLD = text(HOLD_ACCOUNT.format(account=":account"))
# For a statement that writes rows of an account, or (0) of the installation.
IS_WRITABLE = f"(CAST(:account AS bigint) = 0 OR EXISTS ({HOLD_ACCOUNT.format(account=':account')}))"
IS_OPEN = text("SELECT EXISTS (SELECT FROM account WHERE id = :account AND closed_at IS NULL)")


def hold(session: Session, account_id: int) -> None:
    """Keep an account from being deleted until the transaction ends; raises `AccountClosedError` when it is closed."""
    if session.execute(HOLD, {"account": account_id}).scalar_one_or_none() is None:
        raise AccountClosedError(f"account {account_id} is closed")


def is_open(session: Session, account_id: int) -> bool:
    """Whether the account exists and was not closed."""
    return bool(session.execute(IS_OPEN, {"account": account_id}).scalar_one())
