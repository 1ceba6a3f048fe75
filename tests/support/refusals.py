"""Counts of rejected requests."""

from __future__ import annotations

from prometheus_client import REGISTRY

from web.middleware.refusals import RefusalReason


def refused(reason: RefusalReason) -> float:
    """How many requests this process has rejected for a reason."""
    return REGISTRY.get_sample_value("patina_requests_refused_total", {"reason": reason.value}) or 0.0
