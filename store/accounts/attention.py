"""The accounts that may need a person, found without looking at every account by itself."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.orm import Session

# Every account with a finding of `services.health` is among them, except that a process is down, which concerns all.
# A watermark is at most as late as the run that advanced it, so a source that is out of date has an old one.
CANDIDATES = text("""
    SELECT a.id
    FROM (SELECT id FROM account a
          WHERE synced_at < now() - make_interval(secs => :stale_seconds)
             OR NOT EXISTS (SELECT FROM copper_credential c WHERE c.account_id = a.id)
             OR NOT EXISTS (SELECT FROM xero_organisation o WHERE o.account_id = a.id AND o.status <> 'removed')
          UNION
          SELECT account_id FROM copper_credential
          WHERE status = 'needs_reauth' OR records_synced_through IS NULL
             OR records_synced_through < now() - make_interval(secs => :stale_seconds)
          UNION
          SELECT o.account_id
          FROM xero_organisation o JOIN xero_grant g ON g.account_id = o.account_id AND g.id = o.grant_id
          WHERE o.status <> 'removed'
            AND ('needs_reauth' IN (o.status, g.status) OR o.invoices_synced_through IS NULL
                 OR o.invoices_synced_through < now() - make_interval(secs => :stale_seconds))
          UNION
          SELECT account_id FROM refused_endpoint
          UNION
          SELECT account_id FROM sync_run WHERE state = 'failed'
          UNION
          SELECT account_id FROM inbox WHERE state = 'failed'
          UNION
          SELECT account_id FROM copper_field_settings WHERE error IS NOT NULL AND state <> 'off') candidate
    JOIN account a ON a.id = candidate.id AND a.closed_at IS NULL
    ORDER BY a.id
""")


def list_candidates(session: Session, stale_seconds: float) -> list[int]:
    """The accounts that may need a person, among them all that do; a source is out of date after `stale_seconds`."""
    return list(session.execute(CANDIDATES, {"stale_seconds": stale_seconds}).scalars())
