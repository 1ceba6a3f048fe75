"""What the sync engine relies on, whichever vendor a source belongs to."""

from __future__ import annotations

import pytest

from store.ingest import inbox
from store.ingest.inbox import SyncSource
from worker.vendors.connectors import CONNECTORS, connector_for
from worker.vendors.sync_types import PROJECT_STAGE, RunKind

SOURCES = (SyncSource(1, 0), SyncSource(1, 7))


def test_every_vendor_has_a_connector() -> None:
    assert {source.vendor for source in SOURCES} == set(CONNECTORS)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.vendor)
@pytest.mark.parametrize("run_kind", list(RunKind))
def test_a_run_has_different_stages_and_leaves_the_projection_to_the_engine(
    source: SyncSource, run_kind: RunKind
) -> None:
    stages = connector_for(source).stages(run_kind)
    assert stages
    assert len(set(stages)) == len(stages)
    assert PROJECT_STAGE not in stages


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.vendor)
def test_every_category_that_is_fetched_has_batches(source: SyncSource) -> None:
    categories = inbox.COPPER_CATEGORIES if source.is_copper else inbox.XERO_CATEGORIES
    assert all(connector_for(source).batch_size(category) > 0 for category in categories)


def test_copper_events_beyond_the_quota_request_a_reconciliation_before_a_catch_up() -> None:
    copper, xero = (connector_for(source).run_requests() for source in SOURCES)
    assert {request.category for request in copper} == set(inbox.OVERFLOW_CATEGORIES)
    assert [request.run_kind for request in copper] == [RunKind.RECONCILIATION, RunKind.CATCH_UP]
    assert [(request.run_kind, request.category) for request in xero] == [(RunKind.CATCH_UP, None)]
