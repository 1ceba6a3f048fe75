"""Whose Copper key or token it is: asked before anybody can know from which account's budget the calls go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from store import accounts
from store.database import transaction
from worker.budget import Budget, Purpose
from worker.copper.client import CopperClient
from worker.copper.wire import WireAccount, WireUser
from worker.vendor import CallTally, Spender


@dataclass(frozen=True)
class CopperIdentity:
    """A Copper user and the account they belong to; `calls` are not counted yet, as the account is new here."""

    user: WireUser
    account: WireAccount
    calls: int = 0


def of_caller(client_with: Callable[[CallTally], CopperClient]) -> CopperIdentity:
    """Who calls with the client that `client_with` makes.

    The first question goes out uncounted, as only its answer says whose budget it belongs to; it is counted there
    at once, and the second one like any other call. Raises `ReconnectNeededError` for a key that is refused.
    """
    tally = CallTally()
    client = client_with(tally)
    account = client.account()
    with transaction() as session:
        account_id = accounts.account_of_copper(session, account.id)
    if account_id is None:
        return CopperIdentity(client.me(), account, tally.calls)
    budget = Budget.of_copper(account_id)
    budget.add(Purpose.PERSON, tally.calls)
    client.count_by(Spender(budget, Purpose.PERSON))
    return CopperIdentity(client.me(), account)
