"""SQL fragments by which the projection says whose custom fields in Copper may have changed."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.orm import Session

# Evaluated once, before any row: nothing is marked for an account that writes no fields.
RECORD_TYPES = """
    CAST((SELECT record_types FROM copper_field_settings WHERE account_id = :account AND state = 'on') AS text[])
"""


def mark_fields(*changed_records: str) -> str:
    """A data-modifying CTE that marks the records of other CTEs, which have a `record_type` and a `record_id`."""
    records = " UNION ALL ".join(f"SELECT record_type, record_id FROM {name}" for name in changed_records)
    return f"""
    marked AS (
        INSERT INTO copper_field_value AS v (account_id, record_type, record_id)
        SELECT DISTINCT CAST(:account AS bigint), c.record_type, c.record_id FROM ({records}) AS c
        WHERE c.record_type = ANY({RECORD_TYPES})
        ON CONFLICT (account_id, record_type, record_id) DO UPDATE SET is_stale = true WHERE NOT v.is_stale)
    """


MARK_ALL = text(f"""
    WITH marked AS (UPDATE copper_field_value SET is_stale = true WHERE account_id = :account AND NOT is_stale)
    INSERT INTO copper_field_value (account_id, record_type, record_id)
    SELECT DISTINCT account_id, record_type, record_id FROM record_invoice r
    WHERE r.account_id = :account AND r.record_type = ANY({RECORD_TYPES})
    ON CONFLICT DO NOTHING
""")


def mark_all(session: Session, account_id: int) -> None:
    """Mark all records of the account, because a setting or a rebuild may have changed any of them.

    The caller holds the projection's lock of the account.
    """
    session.execute(MARK_ALL, {"account": account_id})
