"""Identify the owner of a Copper key or token. Only Copper's response tells whose budget the call belongs to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from store.accounts import accounts
from store.db.database import transaction
from worker.vendors.copper.client import CopperClient
from worker.vendors.copper.schemas import CopperAccount, CopperUser
from worker.vendors.http import CallContext, CallCounter
from worker.vendors.rate_limit.budget import Budget, Priority


@dataclass(frozen=True)
class CopperIdentity:
    """A Copper user and their account. `uncounted_calls` belong to no budget yet, because the account is new here."""

    user: CopperUser
    account: CopperAccount
    uncounted_calls: int = 0


def identify_owner(make_client: Callable[[CallCounter], CopperClient]) -> CopperIdentity:
    """The user and the account of the credentials that the client from `make_client` uses.

    The first call is not counted before it is sent, because only its response tells whose budget it belongs to. It is
    counted right after, and the second one like any other call. Raises `AuthorizationLostError` for an invalid key.
    """
    counter = CallCounter()
    client = make_client(counter)
    account = client.get_account()
    with transaction() as session:
        account_id = accounts.find_by_copper_account_id(session, account.id)
    if account_id is None:
        return CopperIdentity(client.get_current_user(), account, counter.calls)
    budget = Budget.for_copper(account_id)
    budget.add(Priority.INTERACTIVE, counter.calls)
    client.use_budget(CallContext(budget, Priority.INTERACTIVE))
    return CopperIdentity(client.get_current_user(), account)
