"""Custom fields in Copper: which ones an account keeps up to date, and how far that is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from runtime.numbers import count_noun
from store.accounts import audit, copper_fields, refused_endpoints
from store.accounts.copper_fields import CopperField, FieldSettings, make_field
from store.db.database import Session, account_transaction
from store.db.enums import FieldMeasure, FieldWriting, RecordType
from store.read_model import field_marks, field_values
from store.read_model.field_values import FailedRecord, Progress
from store.read_model.projection import lock_account
from worker.vendors.copper.client import BULK_SIZE, BULK_TYPES, FIELD_CHANGES, FIELD_DEFINITIONS
from worker.vendors.copper.fields import name_of
from worker.vendors.rate_limit.budget import calls_per_minute_for_fields

MAX_FAILED = 50


@dataclass(frozen=True)
class FieldsStatus:
    """An account's fields, how far writing them is, and the records that Copper refuses to write."""

    settings: FieldSettings
    fields: Sequence[CopperField]
    progress: Progress
    failed: Sequence[FailedRecord]


def get_status(account_id: int) -> FieldsStatus:
    """The account's fields and their progress."""
    with account_transaction(account_id) as session:
        return FieldsStatus(
            copper_fields.get_settings(session, account_id),
            copper_fields.list_fields(session, account_id),
            field_values.count(session, account_id),
            field_values.list_failed(session, account_id, MAX_FAILED),
        )


def list_currencies(account_id: int) -> list[str]:
    """The currencies that an admin can choose: those of invoices, and those that are selected already."""
    with account_transaction(account_id) as session:
        fields = copper_fields.list_fields(session, account_id)
        selected = {field.currency for field in fields if field.is_selected and field.currency}
        return sorted({*copper_fields.list_currencies(session, account_id), *selected})


def count_candidates(account_id: int) -> dict[RecordType, int]:
    """How many records of each type would get values."""
    with account_transaction(account_id) as session:
        return field_values.count_candidates(session, account_id)


def estimate_minutes(record_type: RecordType, records: int) -> int:
    """How many minutes the first values of some records take: ten people or leads a call, one other record a call."""
    calls = -(-records // BULK_SIZE) if record_type in BULK_TYPES else records
    return -(-calls // calls_per_minute_for_fields())


def turn_on(
    account_id: int,
    measures: Collection[FieldMeasure],
    currencies: Collection[str],
    record_types: Collection[RecordType],
    *,
    actor: str,
) -> None:
    """Keep these fields up to date on records of these types, and empty those that were deselected."""
    selected = [
        make_field(measure, currency)
        for measure in FieldMeasure
        if measure in measures
        for currency in (sorted(currencies) if measure.is_amount else [""])
    ]
    on = [record_type for record_type in RecordType if record_type in record_types]
    with account_transaction(account_id) as session:
        lock_account(session, account_id)
        copper_fields.select_fields(session, account_id, selected)
        _restart(session, account_id, FieldWriting.ON, on)
        field_marks.mark_all(session, account_id)
        detail = f"{', '.join(map(name_of, selected))} on {', '.join(record_type.plural for record_type in on)}"
        audit.record(session, account_id, actor, "fields.changed", detail)


def turn_off(account_id: int, *, is_cleared: bool, actor: str) -> None:
    """Stop writing fields; `is_cleared`: empty first what was written."""
    with account_transaction(account_id) as session:
        lock_account(session, account_id)
        record_types = copper_fields.get_settings(session, account_id).record_types
        if is_cleared:
            _restart(session, account_id, FieldWriting.CLEARING, record_types)
            field_values.clear_all(session, account_id)
        else:
            copper_fields.save_settings(session, account_id, FieldWriting.OFF, record_types)
            field_values.forget_all(session, account_id)
        detail = "the fields are being emptied" if is_cleared else "the fields keep their last values"
        audit.record(session, account_id, actor, "fields.turned_off", detail)


def retry(account_id: int, *, actor: str) -> None:
    """Try again what Copper refused: definitions that are missing or were changed there, and single records."""
    with account_transaction(account_id) as session:
        lock_account(session, account_id)
        current = copper_fields.get_settings(session, account_id)
        copper_fields.reset_definitions(session, account_id)
        _restart(session, account_id, current.state, current.record_types)
        count = field_values.retry_failed(session, account_id)
        audit.record(session, account_id, actor, "fields.retried", count_noun(count, "refused record"))


def _restart(session: Session, account_id: int, state: FieldWriting, record_types: Sequence[RecordType]) -> None:
    """Let the next write happen now, whatever Copper refused before."""
    copper_fields.save_settings(session, account_id, state, record_types)
    for endpoint in (FIELD_DEFINITIONS, FIELD_CHANGES):
        refused_endpoints.clear(session, account_id, refused_endpoints.COPPER, endpoint)
