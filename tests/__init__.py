"""The tests' settings. `services` in conftest adds the address of Redis, and each test its database's."""

import uuid

from runtime.settings import override_settings
from sandbox import server
from tests.support import databases

KEY = "4Zf0m3Qn0mX1s1x4m5hY4mU0c0pM2o1o7h0lJ7S0p1E="

override_settings(
    {
        "PATINA_HOME": str(databases.HOME),
        "REDIS_NAMESPACE": f"test-{uuid.uuid4().hex[:12]}",
        "ENCRYPTION_KEYS": KEY,
        "LOG_LEVEL": "error",
        "LOG_FORMAT": "json",
        "LEASE_SECONDS": "10",
        "SWEEP_INTERVAL_SECONDS": "0.3",
        "CONNECT_TIMEOUT": "2",
        "READ_TIMEOUT": "5",
        "XERO_CALLS_PER_MINUTE": "1000",
        "XERO_MAX_CONCURRENT_CALLS": "100",
        "XERO_CALLS_PER_DAY": "1000000",
        "COPPER_CALLS_PER_MINUTE": "10000",
        **server.environment("http://127.0.0.1:9"),
    }
)
