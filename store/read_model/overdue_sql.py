"""SQL fragments: which invoices await payment, which are overdue, and for how long. This is their only definition.

A credit that is approved and not used up counts as open, under its own type. It is never overdue: it has no due date.

Overdue goes by each organisation's own calendar day and the database's clock. The functions are in the migrations:
`local_date(time_zone, at)` is the date in a zone; `organisation_today(time_zones, organisation_id, at)` is the date of
one of an account's organisations (UTC if its zone is not known); `overdue_days(status, balance, due_date, today)` is
the number of days since the due date while the invoice awaits payment, otherwise 0. An invoice that is due today is
not overdue, and one without a due date never is.

The fragments are for statements that name the account `a` and the invoice rows `r`.
"""

from __future__ import annotations

from dataclasses import dataclass

AWAITS_PAYMENT = "r.status = 'AUTHORISED' AND r.balance > 0"
TODAY = "organisation_today(a.time_zones, r.organisation_id, now())"


@dataclass(frozen=True)
class AgeingBucket:
    """A range of days overdue, with both of its ends (None: no end); `column` is its amount in a row of balances."""

    column: str
    first_day: int
    last_day: int | None


AGEING_BUCKETS = (
    AgeingBucket("overdue_1_to_30", 1, 30),
    AgeingBucket("overdue_31_to_60", 31, 60),
    AgeingBucket("overdue_61_to_90", 61, 90),
    AgeingBucket("overdue_over_90", 91, None),
)
AGEING_COLUMNS = tuple(bucket.column for bucket in AGEING_BUCKETS)


def overdue_days(today: str) -> str:
    """How many days an invoice is overdue on a day, which is an SQL expression."""
    return f"overdue_days(r.status, r.balance, r.due_date, {today})"


def sum_by_age(amount: str, days: str) -> str:
    """The overdue sum of `amount` and its part in each bucket, as columns; both parameters are SQL expressions."""
    sums = [f"coalesce(sum({amount}) FILTER (WHERE {days} > 0), 0) AS overdue"]
    for bucket in AGEING_BUCKETS:
        condition = f"{days} >= {bucket.first_day}" + (f" AND {days} <= {bucket.last_day}" if bucket.last_day else "")
        sums.append(f"coalesce(sum({amount}) FILTER (WHERE {condition}), 0) AS {bucket.column}")
    return ", ".join(sums)


OVERDUE_DAYS = overdue_days(TODAY)
IS_OVERDUE = f"{OVERDUE_DAYS} > 0"
