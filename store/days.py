"""Today and overdue, by one definition: an organisation's own calendar day, by the database's clock.

The functions are in the migrations: `local_date(time_zone, at)` is the date in a zone, `organisation_today(time_zones,
organisation_id, at)` the same for one of an account's organisations (UTC where its zone is not known), and
`overdue_days(status, balance, due_date, today)` how late an invoice is: days since the due date while it is authorised
and something is owed, otherwise 0. An invoice that is due today is not overdue.
"""

from __future__ import annotations

# For statements that name the account `a`, and rows with an organisation `r`.
TODAY = "organisation_today(a.time_zones, r.organisation_id, now())"
OVERDUE_DAYS = f"overdue_days(r.status, r.balance, r.due_date, {TODAY})"
IS_OVERDUE = f"{OVERDUE_DAYS} > 0"
