"""History look-ups: the true created date of the newest invoices, from spare budget only.

One call an invoice, so only for those whose CREATE event never came, a few at a time.
"""

from __future__ import annotations

import structlog

from runtime.settings import settings
from store import accounts, due, mirror
from store.database import transaction
from worker.budget import Purpose
from worker.errors import VendorError
from worker.projecting import project
from worker.xero.client import XeroClient

log = structlog.get_logger()


def look_up(account_id: int, organisation_id: int) -> int:
    """Look up the newest invoices of an organisation; returns how many were."""
    chosen = settings()
    with transaction() as session:
        organisation = accounts.organisation(session, account_id, organisation_id)
        ids = due.without_history(session, account_id, organisation_id, chosen.history_days, chosen.history_calls)
    if organisation is None:
        return 0
    client, done = XeroClient(organisation, Purpose.SPARE), 0
    try:
        for one in ids:
            created = client.history(one)
            with transaction() as session:
                mirror.set_history(session, account_id, organisation_id, one, created)
            done += 1
    except VendorError as error:
        log.info("history.put_off", account=account_id, organisation=organisation_id, error=str(error))
    if done:
        project(account_id)
        log.info("history.looked_up", account=account_id, organisation=organisation_id, invoices=done)
    return done
