"""Look up the created dates of the newest invoices in Xero's history, from the background budget only.

Each invoice costs one call, so only those without a CREATE event are looked up, a few at a time.
"""

from __future__ import annotations

import structlog

from runtime.settings import settings
from store.accounts import xero_organisations
from store.db.database import transaction
from store.mirror import mirror
from store.sync import refresh_candidates
from worker.sync.projector import project
from worker.vendors.errors import VendorError
from worker.vendors.rate_limit.budget import Priority
from worker.vendors.xero.client import XeroClient

log = structlog.get_logger()


def backfill(account_id: int, organisation_id: int) -> int:
    """Look up the created dates of an organisation's newest invoices; return the number of invoices looked up."""
    config = settings()
    with transaction() as session:
        organisation = xero_organisations.find(session, account_id, organisation_id)
        invoice_ids = refresh_candidates.invoices_without_created_date(
            session,
            account_id,
            organisation_id,
            config.created_date_lookup_max_age_days,
            config.created_date_lookup_max_calls,
        )
    if organisation is None:
        return 0
    client, count = XeroClient(organisation, Priority.BACKGROUND), 0
    try:
        for invoice_id in invoice_ids:
            created_at = client.oldest_history_time(invoice_id)
            with transaction() as session:
                mirror.set_history_created_date(session, account_id, organisation_id, invoice_id, created_at)
            count += 1
    except VendorError as error:
        log.info("created_dates.deferred", account=account_id, organisation=organisation_id, error=str(error))
    if count:
        project(account_id)
        log.info("created_dates.fetched", account=account_id, organisation=organisation_id, invoices=count)
    return count
