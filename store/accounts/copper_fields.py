"""Which custom fields an account keeps up to date in Copper, and their definitions there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.orm import Session

from store.db.enums import FieldMeasure, FieldState, FieldWriting, RecordType

KEY_PREFIX = "patina_xero_"
MAX_ERROR_LENGTH = 500

SELECT_SETTINGS = text("""
    SELECT state, record_types, version, extract(epoch FROM now() - checked_at)::float8 AS check_age,
           not_before <= now() AS is_due, error
    FROM copper_field_settings WHERE account_id = :account
""")
SAVE_SETTINGS = text("""
    INSERT INTO copper_field_settings (account_id, state, record_types) VALUES (:account, :state, :record_types)
    ON CONFLICT (account_id) DO UPDATE SET state = EXCLUDED.state, record_types = EXCLUDED.record_types,
        version = copper_field_settings.version + 1, checked_at = NULL, not_before = now(), error = NULL
""")
SELECT_FIELDS = text("""
    SELECT field_key, measure, currency, is_selected, definition_id, state FROM copper_field
    WHERE account_id = :account ORDER BY field_key
""")
SELECT_ONLY = text("""
    WITH selected AS (
        SELECT * FROM unnest(CAST(:keys AS text[]), CAST(:measures AS text[]), CAST(:currencies AS text[]))
             AS s(field_key, measure, currency)),
    deselected AS (
        UPDATE copper_field SET is_selected = false
        WHERE account_id = :account AND field_key NOT IN (SELECT field_key FROM selected))
    INSERT INTO copper_field (account_id, field_key, measure, currency)
    SELECT :account, field_key, measure, currency FROM selected
    ON CONFLICT (account_id, field_key) DO UPDATE SET is_selected = true
""")
SAVE_DEFINITION = text("""
    UPDATE copper_field SET definition_id = :definition, state = :state
    WHERE account_id = :account AND field_key = :key
""")
# A field that was deleted or retyped in Copper is created or looked up again.
RESET_DEFINITIONS = text("""
    UPDATE copper_field SET definition_id = NULL, state = 'new'
    WHERE account_id = :account AND state IN ('missing', 'retyped')
""")
RECORD_CHECK = text("""
    UPDATE copper_field_settings SET checked_at = now(), error = :error,
        not_before = now() + make_interval(secs => :delay)
    WHERE account_id = :account AND version = :version
""")
FINISH_CLEARING = text("""
    UPDATE copper_field_settings SET state = 'off', error = NULL
    WHERE account_id = :account AND state = 'clearing' RETURNING account_id
""")
TAKE_LEASE = text("""
    UPDATE copper_field_settings SET lease_id = :lease, leased_until = now() + make_interval(secs => :seconds)
    WHERE account_id = :account AND (leased_until IS NULL OR leased_until < now()) RETURNING account_id
""")
RENEW_LEASE = text("""
    UPDATE copper_field_settings SET leased_until = now() + make_interval(secs => :seconds)
    WHERE account_id = :account AND lease_id = :lease RETURNING account_id
""")
RELEASE_LEASE = text("""
    UPDATE copper_field_settings SET lease_id = NULL, leased_until = NULL
    WHERE account_id = :account AND lease_id = :lease
""")
CURRENCIES = text("""
    SELECT DISTINCT currency FROM xero_invoice WHERE account_id = :account AND currency <> ''
    ORDER BY currency LIMIT 200
""")


@dataclass(frozen=True)
class FieldSettings:
    """Whether fields are written, and on which record types.

    `version` grows with each change by an admin. `check_age` is how many seconds ago the definitions were compared with
    Copper's, None if never. `error` is what was wrong with them; until the next attempt is due, nothing is written.
    """

    state: FieldWriting = FieldWriting.OFF
    record_types: tuple[RecordType, ...] = ()
    version: int = 0
    check_age: float | None = None
    is_due: bool = False
    error: str | None = None


@dataclass(frozen=True)
class CopperField:
    """A custom field, by its key; `currency` is '' for dates and counts."""

    key: str
    measure: FieldMeasure
    currency: str
    is_selected: bool = True
    definition_id: int | None = None
    state: FieldState = FieldState.NEW


def make_field(measure: FieldMeasure, currency: str = "") -> CopperField:
    """The field of a measure, which for an amount needs a currency."""
    suffix = f"_{currency.lower()}" if measure.is_amount else ""
    return CopperField(f"{KEY_PREFIX}{measure}{suffix}", measure, currency if measure.is_amount else "")


def get_settings(session: Session, account_id: int) -> FieldSettings:
    """The account's settings."""
    row = session.execute(SELECT_SETTINGS, {"account": account_id}).one_or_none()
    if row is None:
        return FieldSettings()
    record_types = tuple(map(RecordType, row.record_types))
    return FieldSettings(FieldWriting(row.state), record_types, row.version, row.check_age, row.is_due, row.error)


def save_settings(session: Session, account_id: int, state: FieldWriting, record_types: Sequence[RecordType]) -> None:
    """Change whether fields are written, and where. The next write first compares the definitions with Copper's."""
    params = {"account": account_id, "state": state.value, "record_types": [name.value for name in record_types]}
    session.execute(SAVE_SETTINGS, params)


def list_fields(session: Session, account_id: int) -> list[CopperField]:
    """All fields that the account has or had, by key."""
    return [
        CopperField(
            row.field_key,
            FieldMeasure(row.measure),
            row.currency,
            row.is_selected,
            row.definition_id,
            FieldState(row.state),
        )
        for row in session.execute(SELECT_FIELDS, {"account": account_id})
    ]


def select_fields(session: Session, account_id: int, fields: Sequence[CopperField]) -> None:
    """Select these fields and no others."""
    params = {
        "account": account_id,
        "keys": [field.key for field in fields],
        "measures": [field.measure.value for field in fields],
        "currencies": [field.currency for field in fields],
    }
    session.execute(SELECT_ONLY, params)


def save_definition(session: Session, account_id: int, key: str, definition_id: int | None, state: FieldState) -> None:
    """Store what is known of a field's definition in Copper."""
    params = {"account": account_id, "key": key, "definition": definition_id, "state": state.value}
    session.execute(SAVE_DEFINITION, params)


def reset_definitions(session: Session, account_id: int) -> None:
    """Let the deleted and the retyped fields be created again."""
    session.execute(RESET_DEFINITIONS, {"account": account_id})


def record_check(session: Session, account_id: int, version: int, error: str | None, delay: float = 0.0) -> None:
    """Record that the definitions were compared with Copper's, and what is wrong with them; then wait `delay` s.

    Nothing is recorded if an admin has changed the settings since this version of them.
    """
    shortened = error[:MAX_ERROR_LENGTH] if error else None
    params = {"account": account_id, "version": version, "error": shortened, "delay": delay}
    session.execute(RECORD_CHECK, params)


def finish_clearing(session: Session, account_id: int) -> bool:
    """Turn off, unless an admin has turned writing on again in the meantime; return whether it is off."""
    return session.execute(FINISH_CLEARING, {"account": account_id}).one_or_none() is not None


def take_lease(session: Session, account_id: int, seconds: float) -> UUID | None:
    """The exclusive right to write for two minutes; None if another writer has it."""
    lease = uuid4()
    params = {"account": account_id, "lease": lease, "seconds": seconds}
    return lease if session.execute(TAKE_LEASE, params).one_or_none() is not None else None


def renew_lease(session: Session, account_id: int, lease: UUID, seconds: float) -> bool:
    """Keep the lease for `seconds` from now; return whether it was not lost."""
    params = {"account": account_id, "lease": lease, "seconds": seconds}
    return session.execute(RENEW_LEASE, params).one_or_none() is not None


def release_lease(session: Session, account_id: int, lease: UUID) -> None:
    """Give the lease back."""
    session.execute(RELEASE_LEASE, {"account": account_id, "lease": lease})


def list_currencies(session: Session, account_id: int) -> list[str]:
    """The currencies of the account's invoices, at most 200."""
    return list(session.execute(CURRENCIES, {"account": account_id}).scalars())
