"""The settings of an installation under attack, set before any other import."""

from __future__ import annotations

from datetime import UTC, datetime

from runtime import embedded
from runtime.service_urls import start_missing_servers_with
from runtime.settings import override_settings
from sandbox import server
from tests.chaos import ROOT, free_port

HOME = ROOT / ".patina" / "attack"
API_REQUESTS_PER_MINUTE = 1_500
# The host name in the documented nginx configuration.
HOST = "patina.example.com"


def settle() -> None:
    """Set the settings of a typical installation without scheduled tasks."""
    web, vendors = free_port(), free_port()
    values = {
        **server.environment(f"http://127.0.0.1:{vendors}"),
        # The sandbox's settings admit every account; here strangers need an invitation.
        "COPPER_ACCOUNTS": "",
        "ALLOWED_HOSTS": HOST,
        "PATINA_HOME": str(HOME),
        "EMBEDDED_SERVICES": "true",
        "DATABASE_URL": "",
        "REDIS_URL": "",
        "REDIS_NAMESPACE": "attack",
        "PORT": str(web),
        "PUBLIC_URL": f"http://127.0.0.1:{web}",
        "WORKER_PROCESSES": "1",
        "WORKER_THREADS": "4",
        "CONNECT_TIMEOUT": "5",
        "READ_TIMEOUT": "30",
        "SWEEP_INTERVAL_SECONDS": "1",
        "CATCH_UP_INTERVAL_SECONDS": "86400",
        "RECONCILE_HOUR": str((datetime.now(UTC).hour + 12) % 24),
        "RELATIONS_REFRESH_INTERVAL_SECONDS": "86400",
        "CREATED_DATE_LOOKUP_MAX_CALLS": "0",
        # A rate limit window of two seconds, so that no attack waits for it.
        "RATE_LIMIT_WINDOW_SECONDS": "2",
        "COPPER_CALLS_PER_MINUTE": "5000",
        "XERO_CALLS_PER_MINUTE": "1000",
        "API_REQUESTS_PER_MINUTE": str(API_REQUESTS_PER_MINUTE),
        # nginx is the only proxy; every other client has its own address.
        "TRUSTED_PROXIES": "127.0.0.1",
        "METRICS_TOKEN": "the-token-of-the-attack",
        "LOG_LEVEL": "info",
        "LOG_FORMAT": "json",
    }
    override_settings(values)
    start_missing_servers_with(embedded.use)
