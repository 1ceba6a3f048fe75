"""Changes of Copper's records: each moves `date_modified` and sends a notification, whoever makes it."""

from __future__ import annotations

from typing import Any

from sandbox.custom_fields import with_timestamp
from sandbox.delivery import Delivery
from sandbox.world import CopperAccount, Record, World


class RecordChanges:
    """Records what changes; `revision` counts the changes, so that nothing outdated is returned from a cache."""

    def __init__(self, world: World, delivery: Delivery) -> None:
        self.revision = 0
        self._world = world
        self._delivery = delivery

    def seconds(self) -> int:
        """The current time as a Unix timestamp."""
        return int(self._world.clock.now().timestamp())

    def updated(self, account: CopperAccount, record: Record, changed: dict[str, Any]) -> None:
        """Record an update; `changed` has the old and the new value of each attribute that changed."""
        record.modified = max(self.seconds(), record.modified)
        self.notify(account, record, "update", changed if account.write_rules.updated_attributes else {})

    def notify(self, account: CopperAccount, record: Record, event: str, changed: dict[str, Any]) -> None:
        """Send the notification of an event."""
        self.revision += 1
        self._delivery.copper_event(account, record.type, event, record.id, changed)


def set_custom_values(account: CopperAccount, record: Record, values: dict[int, Any]) -> dict[str, Any]:
    """Set values of custom fields by the id of the field; returns what changed, for the notification."""
    changed = {}
    for key, value in values.items():
        before = record.custom_values.get(key)
        if before != value:
            definition = account.custom_fields[key]
            changed[str(key)] = [with_timestamp(definition, before), with_timestamp(definition, value)]
            record.custom_values[key] = value
    return {"custom_fields": changed} if changed else {}
