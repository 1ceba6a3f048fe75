"""What the actions of Copper's users have in common: how they refer to Copper's data, and how records change."""

from __future__ import annotations

from typing import Literal

from sandbox.action_base import ActionError
from sandbox.copper_changes import RecordChanges
from sandbox.world import CopperAccount, Record, World

RecordType = Literal["lead", "person", "company", "opportunity"]


class CopperActionBase:
    """Finds what an action refers to. Changes go through `_changes`, which send the notifications."""

    def __init__(self, world: World, changes: RecordChanges) -> None:
        self._world = world
        self._changes = changes

    def _account(self, account: int | None) -> CopperAccount:
        if account is None and self._world.accounts:
            return next(iter(self._world.accounts.values()))
        if account is None or account not in self._world.accounts:
            raise ActionError(f"there is no account {account}")
        return self._world.accounts[account]

    def _record(self, record_type: str, record_id: int, account: int | None) -> tuple[CopperAccount, Record]:
        copper_account = self._account(account)
        record = copper_account.records.get(record_type, {}).get(record_id)
        if record is None:
            raise ActionError(f"there is no {record_type} {record_id}")
        return copper_account, record
