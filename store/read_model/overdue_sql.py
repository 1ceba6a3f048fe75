"""SQL fragments: which invoices await payment, and which are overdue. This is their only definition.

A credit that is approved and not used up counts as open, under its own type. It is never overdue: it has no due date.

Overdue goes by each organisation's own calendar day and the database's clock. The functions are in the migrations:
`local_date(time_zone, at)` is the date in a zone; `organisation_today(time_zones, organisation_id, at)` is the date of
one of an account's organisations (UTC if its zone is not known); `overdue_days(status, balance, due_date, today)` is
the number of days since the due date while the invoice awaits payment, otherwise 0. An invoice that is due today is
not overdue.

The fragments are for statements that name the account `a` and the invoice rows `r`.
"""

from __future__ import annotations

AWAITS_PAYMENT = "r.status = 'AUTHORISED' AND r.balance > 0"
TODAY = "organisation_today(a.time_zones, r.organisation_id, now())"


def overdue_days(today: str) -> str:
    """How many days an invoice is overdue on a day, which is an SQL expression."""
    return f"overdue_days(r.status, r.balance, r.due_date, {today})"


OVERDUE_DAYS = overdue_days(TODAY)
IS_OVERDUE = f"{OVERDUE_DAYS} > 0"
