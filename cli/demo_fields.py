"""The demo's custom fields in Copper: turning them on, and reading them as somebody in Copper sees them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from cli.demo_environment import DemoEnvironment
from cli.errors import DemoError
from runtime.numbers import count_noun
from services import copper_fields
from store.accounts.copper_fields import make_field
from store.db.enums import FieldMeasure, RecordType
from worker.jobs import actors
from worker.jobs.enqueue import enqueue_once

ACTOR = "the demo"
MEASURES = (FieldMeasure.OVERDUE, FieldMeasure.OUTSTANDING)
# Ten people cost one call, other records one each, and Copper allows 180 a minute.
RECORD_TYPES = (RecordType.PERSON,)
TIMEOUT_SECONDS = 180.0
POLL_SECONDS = 0.02


class DemoFields:
    """Fields in the sandbox's Copper, read from the sandbox's data."""

    def __init__(self, environment: DemoEnvironment, account_id: int, read_world: Callable[[], dict[str, Any]]) -> None:
        self._environment = environment
        self._account_id = account_id
        self._read_world = read_world

    def turn_on(self, *currencies: str) -> str:
        """Write fields in these currencies, and wait until every record has its values; returns how many have."""
        copper_fields.turn_on(self._account_id, MEASURES, currencies, RECORD_TYPES, actor=ACTOR)
        enqueue_once(actors.write_fields, self._account_id)
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            status = copper_fields.get_status(self._account_id)
            if status.progress.pending == 0 and status.settings.check_age is not None:
                return count_noun(status.progress.records, "record")
            self._wait(deadline)

    def outstanding(self, person_id: int, currency: str) -> str:
        """What a person's field says that they owe in a currency."""
        key = make_field(FieldMeasure.OUTSTANDING, currency).key
        fields = copper_fields.get_status(self._account_id).fields
        definition_id = next(field.definition_id for field in fields if field.key == key)
        # Calls of Copper's API would count against its limit.
        people = self._read_world()["records"]["person"]
        values = next(person["custom_values"] for person in people if person["id"] == person_id)
        value = values.get(str(definition_id))
        return f"{currency} {value or 0:.2f}"

    def wait_for_change(self, person_id: int, currency: str, before: str) -> tuple[str, float]:
        """What the field says once it differs, and how many seconds that took."""
        started = time.monotonic()
        while (current := self.outstanding(person_id, currency)) == before:
            self._wait(started + TIMEOUT_SECONDS)
        return current, time.monotonic() - started

    def _wait(self, deadline: float) -> None:
        self._environment.check()
        if time.monotonic() > deadline:
            raise DemoError(f"the fields in Copper were not written within {TIMEOUT_SECONDS:.0f} s")
        # Copper sends no notification that could be awaited: what it returns is polled.
        time.sleep(POLL_SECONDS)
