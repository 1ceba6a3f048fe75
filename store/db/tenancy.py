"""Account locks: no row of an account is added once the account's own row is deleted.

Most tables refer to the account by a foreign key. Tables that also hold rows of no account (0), and tables that are
rewritten as a whole, have none: their writers lock the account's row until they commit.
`store.accounts.deprovisioning` deletes that row last, when nobody locks it and no data is left, so that neither can
miss the other.
"""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.orm import Session

from store.db.database import AccountClosedError

# Shared with other writers and with changes of the account's settings, but not with its deletion.
LOCK_ACCOUNT = "SELECT id FROM account WHERE id = {account} AND closed_at IS NULL FOR KEY SHARE"
LOCK = text(LOCK_ACCOUNT.format(account=":account"))
# For a statement that writes rows of an account, or (0) of the installation.
IS_WRITABLE = f"(CAST(:account AS bigint) = 0 OR EXISTS ({LOCK_ACCOUNT.format(account=':account')}))"
IS_OPEN = text("SELECT EXISTS (SELECT FROM account WHERE id = :account AND closed_at IS NULL)")


def lock_account(session: Session, account_id: int) -> None:
    """Keep an account from being deleted until the transaction ends; raises `AccountClosedError` if it is closed."""
    if session.execute(LOCK, {"account": account_id}).scalar_one_or_none() is None:
        raise AccountClosedError(f"account {account_id} is closed")


def is_open(session: Session, account_id: int) -> bool:
    """Whether the account exists and is not closed."""
    return bool(session.execute(IS_OPEN, {"account": account_id}).scalar_one())
