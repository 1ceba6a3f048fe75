"""Write the custom fields of an account's records to Copper, where they differ from what they should be.

Nothing is written unless all definitions are as expected. Where Copper has a call for many records, a call writes ten;
a call that it refuses as a whole is halved until the guilty record is alone.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

import structlog

from runtime import metrics
from runtime.numbers import count_noun
from runtime.settings import settings
from store.accounts import audit, copper_fields, refused_endpoints
from store.accounts.copper_fields import CopperField, FieldSettings
from store.db.database import transaction
from store.db.enums import FieldState, FieldWriting, RecordType
from store.read_model import field_values
from store.read_model.field_values import PendingRecord
from store.read_model.projection import lock_account
from worker.sync import lease_keeper
from worker.vendors.copper import fields as field_definitions
from worker.vendors.copper.client import (
    BULK_INTERVAL_SECONDS,
    BULK_SIZE,
    CopperClient,
    CustomValues,
    client_for_account,
)
from worker.vendors.copper.schemas import CopperFieldDefinition
from worker.vendors.errors import (
    AuthorizationLostError,
    EndpointRefusedError,
    InvalidRequestError,
    NotFoundError,
    TransientError,
    VendorError,
)
from worker.vendors.rate_limit.budget import Priority

log = structlog.get_logger()
ACTOR = "Patina"
SETTLE_SECONDS = 2.0
CHECK_INTERVAL_SECONDS = 86_400.0
RECHECK_INTERVAL_SECONDS = 60.0
REFUSED_DELAY_SECONDS = 3_600.0
DEFAULT_DELAY_SECONDS = 5.0
# Whether companies and opportunities have it is not documented: it is tried, and then remembered for a day.
NO_BULK = "bulk_update"
SIZE_LIMIT = re.compile(r"limit is (\d{1,3})")
NOT_FOUND = re.compile(r"not.?found", re.IGNORECASE)


@dataclass
class Outcomes:
    """What became of some records: written, refused by Copper with its reason, or deleted there."""

    written: list[PendingRecord] = field(default_factory=list)
    refused: dict[PendingRecord, str] = field(default_factory=dict)
    deleted: list[PendingRecord] = field(default_factory=list)


def write(account_id: int, seconds: float) -> float | None:
    """Write what is due for about `seconds`; return the seconds until more is due, or None if nothing is known to be.

    One process at a time writes for an account. A crash loses nothing: what was written is written again.
    """
    with transaction() as session:
        current = copper_fields.get_settings(session, account_id)
        is_idle = current.state is FieldWriting.OFF or not current.is_due
        lease = None if is_idle else copper_fields.take_lease(session, account_id, settings().lease_seconds)
    if lease is None:
        return None
    with lease_keeper.renewing(partial(_renew, account_id, lease), partial(_release, account_id, lease)):
        delay = _write_or_defer(account_id, current, lease, seconds)
    _release(account_id, lease)
    return delay


def _renew(account_id: int, lease: UUID) -> bool:
    with transaction() as session:
        return copper_fields.renew_lease(session, account_id, lease, settings().lease_seconds)


def _release(account_id: int, lease: UUID) -> None:
    with transaction() as session:
        copper_fields.release_lease(session, account_id, lease)


def _write_or_defer(account_id: int, current: FieldSettings, lease: UUID, seconds: float) -> float | None:
    try:
        return _write_leased(account_id, current, lease, seconds)
    except TransientError as error:
        log.info("fields.deferred", account=account_id, error=str(error))
        return error.retry_after or DEFAULT_DELAY_SECONDS
    except (AuthorizationLostError, LeaseLostError):
        return None
    except VendorError as error:
        detail = error.detail if isinstance(error, EndpointRefusedError) else ""
        _record_check(account_id, current.version, detail or str(error))
        return None


def _write_leased(account_id: int, current: FieldSettings, lease: UUID, seconds: float) -> float | None:
    interval = float(settings().field_write_interval_seconds)
    deadline = time.monotonic() + seconds
    while _refresh(account_id, interval) and time.monotonic() < deadline:
        pass
    delay = _seconds_until_due(account_id, interval)
    if delay == 0 or not _is_checked(current):
        delay = _Writer(account_id, current, lease, interval).run(deadline)
    if current.state is FieldWriting.CLEARING and _seconds_until_due(account_id, interval) is None:
        _finish_clearing(account_id)
    return delay


def _is_checked(current: FieldSettings) -> bool:
    """Whether all definitions were found as expected within a day. Clearing begins without that."""
    if current.state is FieldWriting.CLEARING:
        return True
    return current.error is None and current.check_age is not None and current.check_age < CHECK_INTERVAL_SECONDS


def _seconds_until_due(account_id: int, interval: float) -> float | None:
    with transaction() as session:
        return field_values.seconds_until_due(session, account_id, interval)


def _refresh(account_id: int, interval: float) -> bool:
    """Compute the values of a batch of marked records; return whether there may be more."""
    with transaction() as session:
        count = field_values.refresh(
            session, account_id, interval_seconds=interval, settle_seconds=min(SETTLE_SECONDS, interval)
        )
    return count == field_values.REFRESH_BATCH_SIZE


def _record_check(account_id: int, version: int, error: str | None) -> None:
    with transaction() as session:
        copper_fields.record_check(session, account_id, version, error, REFUSED_DELAY_SECONDS if error else 0.0)
    if error:
        log.warning("fields.stopped", account=account_id, error=error)


def _finish_clearing(account_id: int) -> None:
    with transaction() as session:
        lock_account(session, account_id)
        is_off = copper_fields.finish_clearing(session, account_id)
        if is_off:
            field_values.forget_all(session, account_id)
            audit.record(session, account_id, ACTOR, "fields.cleared")
    log.info("fields.cleared", account=account_id, is_off=is_off)


class LeaseLostError(Exception):
    """Another writer has taken over."""


class _Writer:
    """Writes the due records of one account."""

    def __init__(self, account_id: int, current: FieldSettings, lease: UUID, interval: float) -> None:
        self._account_id = account_id
        self._settings = current
        self._lease = lease
        self._interval = interval
        self._client: CopperClient = client_for_account(account_id, Priority.FIELDS)
        self._check_age = current.check_age
        self._bulk_size = BULK_SIZE
        self._counts: Counter[RecordType] = Counter()

    def run(self, deadline: float) -> float | None:
        """Write batches until nothing is due or the deadline has passed; seconds until more is due, None if unknown."""
        if not _is_checked(self._settings) and not self._check_definitions():
            return None
        self._load_fields()
        try:
            while records := self._list_due():
                if self._has_unknown_field(records):
                    # An admin has just selected more: the next job compares the definitions first.
                    return DEFAULT_DELAY_SECONDS
                outcomes = Outcomes()
                try:
                    self._write_records(records, outcomes)
                    is_checked = self._check_age is not None and self._check_age < RECHECK_INTERVAL_SECONDS
                    if outcomes.refused and not is_checked:
                        # A definition may be the reason: the records are tried again once all definitions are known.
                        outcomes.refused.clear()
                        return 0.0 if self._check_definitions() else None
                finally:
                    self._record(outcomes)
                if time.monotonic() > deadline:
                    return 0.0
        finally:
            self._record_audit()
        return _seconds_until_due(self._account_id, self._interval)

    def _check_definitions(self) -> bool:
        """Create what is missing; return whether all definitions are as expected. If not, nothing is written."""
        is_on = self._settings.state is FieldWriting.ON
        error = check_definitions(
            self._account_id, self._client, self._settings.record_types, is_on=is_on, keep_lease=self._keep_lease
        )
        _record_check(self._account_id, self._settings.version, error)
        self._check_age = 0.0
        return error is None

    def _keep_lease(self) -> None:
        if not _renew(self._account_id, self._lease):
            raise LeaseLostError

    def _has_unknown_field(self, records: Sequence[PendingRecord]) -> bool:
        """Whether a value is to be written to a field without a definition."""
        return any(
            value is not None and (key not in self._fields or self._fields[key].definition_id is None)
            for record in records
            for key, value in record.changes.items()
        )

    def _load_fields(self) -> None:
        with transaction() as session:
            self._fields = {known.key: known for known in copper_fields.list_fields(session, self._account_id)}

    def _list_due(self) -> list[PendingRecord]:
        with transaction() as session:
            return field_values.list_due(session, self._account_id, self._bulk_size)

    def _write_records(self, records: Sequence[PendingRecord], outcomes: Outcomes) -> None:
        """Write records of one type; `outcomes` has what became of them, also if an error ends this."""
        unchanged = [record for record in records if not self._values(record)]
        outcomes.written += unchanged
        changed = [record for record in records if record not in unchanged]
        if not changed:
            return
        batches: list[Sequence[PendingRecord]] = [changed]
        while batches and self._has_bulk(changed[0].record_type):
            batch = batches.pop()
            self._keep_lease()
            try:
                batches += self._write_batch(batch, outcomes)
            except (AuthorizationLostError, TransientError):
                raise
            except VendorError:
                # Whether Copper has this call for the type is not documented, and it may depend on the plan.
                self._remember_no_bulk(batch[0].record_type)
                batches.append(batch)
        for batch in batches:
            self._write_singly(batch, outcomes)

    def _values(self, record: PendingRecord) -> CustomValues:
        return field_definitions.to_custom_values(record.changes, self._fields)

    def _write_batch(self, batch: Sequence[PendingRecord], outcomes: Outcomes) -> list[Sequence[PendingRecord]]:
        """Write a batch with one call; return the smaller batches to try instead if Copper refuses it as a whole."""
        values = {record.record_id: self._values(record) for record in batch}
        try:
            reasons = self._client.write_fields_in_bulk(batch[0].record_type, values)
        except (InvalidRequestError, TransientError) as error:
            if isinstance(error, TransientError) and not error.ambiguous:
                raise
            detail = error.detail if isinstance(error, InvalidRequestError) else ""
            limit = SIZE_LIMIT.search(detail)
            if limit and 0 < int(limit[1]) < len(batch):
                self._bulk_size = size = int(limit[1])
                return [batch[start : start + size] for start in range(0, len(batch), size)]
            if len(batch) > 1:
                middle = len(batch) // 2
                return [batch[:middle], batch[middle:]]
            outcomes.refused[batch[0]] = detail or str(error)
            return []
        finally:
            time.sleep(BULK_INTERVAL_SECONDS)
        for record in batch:
            reason = reasons[record.record_id]
            if reason is None:
                outcomes.written.append(record)
            elif NOT_FOUND.search(reason):
                # The call for one record says clearly whether it was deleted.
                self._write_singly([record], outcomes)
            else:
                outcomes.refused[record] = reason
        return []

    def _write_singly(self, records: Sequence[PendingRecord], outcomes: Outcomes) -> None:
        for record in records:
            self._keep_lease()
            try:
                self._client.write_fields(record.record_type, record.record_id, self._values(record))
            except NotFoundError:
                outcomes.deleted.append(record)
            except AuthorizationLostError:
                raise
            except TransientError as error:
                if not error.ambiguous:
                    raise
                outcomes.refused[record] = str(error)
            except VendorError as error:
                detail = error.detail if isinstance(error, (InvalidRequestError, EndpointRefusedError)) else ""
                outcomes.refused[record] = detail or str(error)
            else:
                outcomes.written.append(record)

    def _has_bulk(self, record_type: RecordType) -> bool:
        owner = self._client.owner
        return owner is None or not owner.is_refused(record_type.plural, NO_BULK)

    def _remember_no_bulk(self, record_type: RecordType) -> None:
        with transaction() as session:
            refused_endpoints.record(session, self._account_id, refused_endpoints.COPPER, record_type.plural, NO_BULK)
        self._client = client_for_account(self._account_id, Priority.FIELDS)

    def _record(self, outcomes: Outcomes) -> None:
        with transaction() as session:
            field_values.record_written(session, self._account_id, outcomes.written, self._interval)
            for record, reason in outcomes.refused.items():
                field_values.record_failure(session, self._account_id, record, reason)
            for record in outcomes.deleted:
                field_values.delete_record(session, self._account_id, record)
        self._counts.update(record.record_type for record in outcomes.written)
        for outcome, count in (("written", len(outcomes.written)), ("refused", len(outcomes.refused))):
            metrics.FIELD_WRITES.labels(outcome).inc(count)

    def _record_audit(self) -> None:
        if self._counts:
            counts = ", ".join(
                count_noun(count, record_type.value, record_type.plural) for record_type, count in self._counts.items()
            )
            with transaction() as session:
                audit.record(session, self._account_id, ACTOR, "fields.written", counts)
            log.info("fields.written", account=self._account_id, records=self._counts.total())


def check_definitions(
    account_id: int,
    client: CopperClient,
    record_types: Sequence[RecordType],
    *,
    is_on: bool,
    keep_lease: Callable[[], None],
) -> str | None:
    """Create the missing definitions and extend the others; return what an admin must know, None if all are usable.

    Of fields that are not selected, or all unless writing `is_on`, those that Copper no longer has are forgotten.
    """
    with transaction() as session:
        fields = copper_fields.list_fields(session, account_id)
    definitions = client.list_field_definitions()
    errors = []
    for known in fields:
        keep_lease()
        if known.is_selected and is_on:
            error = _check_definition(account_id, client, known, definitions, record_types)
            errors += [error] if error is not None else []
        elif known.definition_id is not None and known.definition_id not in {row.id for row in definitions}:
            with transaction() as session:
                copper_fields.save_definition(session, account_id, known.key, None, FieldState.NEW)
                field_values.forget_field(session, account_id, known.key)
    return " ".join(errors) or None


def _check_definition(
    account_id: int,
    client: CopperClient,
    known: CopperField,
    definitions: Sequence[CopperFieldDefinition],
    record_types: Sequence[RecordType],
) -> str | None:
    definition, state = field_definitions.find_definition(known, definitions)
    name = field_definitions.name_of(known)
    try:
        if state is FieldState.NEW:
            definition, state = field_definitions.create_definition(client, known, record_types), FieldState.READY
        elif state is FieldState.READY and definition is not None:
            field_definitions.extend_definition(client, definition, record_types)
    except (InvalidRequestError, EndpointRefusedError) as error:
        return field_definitions.refusal_text(known, error) + "."
    definition_id = definition.id if definition is not None and state is FieldState.READY else known.definition_id
    with transaction() as session:
        copper_fields.save_definition(session, account_id, known.key, definition_id, state)
        if definition_id != known.definition_id:
            field_values.forget_field(session, account_id, known.key)
    if state is FieldState.MISSING:
        return f"The field {name} was deleted in Copper."
    if state is FieldState.RETYPED:
        return (
            f"The field {name} has another type or currency in Copper. Delete it there, or give it another field key."
        )
    return None
