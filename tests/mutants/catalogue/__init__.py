"""The mutants: one deliberate defect each, and the tests that must catch it.

They stand for mistakes that a change could bring in unnoticed. Each replaces a text that occurs exactly once in its
file, so a mutant whose place was rewritten is reported, and never silently skipped.
"""

from __future__ import annotations

from tests.mutants.catalogue import (
    access,
    availability,
    columns,
    credits,
    customer_links,
    erasure,
    fields,
    invoices,
    matching,
    operation,
    pages,
    panel,
    reading,
    receivables,
    resources,
    schema,
    store,
    webhooks,
    worker,
)
from tests.mutants.catalogue.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    *availability.AVAILABILITY,
    *(*store.MIRROR, *store.PROJECTION, *store.INBOX, *store.RUNS),
    *(*schema.DAYS, *schema.MIGRATIONS),
    *(*reading.VALUES, *reading.ADDRESSES, *webhooks.WEBHOOKS),
    *(*worker.BUDGET, *worker.EVENTS, *worker.CONNECTIONS),
    *(*access.SIGNATURES_AND_SECRETS, *access.LIMITS),
    *(*pages.FORMS, *pages.TEMPLATES, *panel.SCRIPTS),
    *resources.CAPACITY,
    *(*credits.CREDITS, *receivables.RECEIVABLES, *invoices.INVOICES, *columns.COLUMNS),
    *(*customer_links.CUSTOMER_LINKS, *customer_links.BASE_TOTALS),
    *fields.FIELDS,
    *(*erasure.ERASURE, *matching.MATCHING),
    *(*operation.HEALTH, *operation.COMMANDS, *operation.SERVERS),
)
