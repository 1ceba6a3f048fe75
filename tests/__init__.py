"""The tests' settings, in force before anything else is imported: importing the jobs binds a process to its broker."""

import uuid

from runtime.settings import override
from sandbox import server
from tests import databases

KEY = "4Zf0m3Qn0mX1s1x4m5hY4mU0c0pM2o1o7h0lJ7S0p1E="

override(
    {
        "PATINA_HOME": str(databases.HOME),
        "REDIS_URL": databases.redis_address(),
        "REDIS_NAMESPACE": f"test-{uuid.uuid4().hex[:12]}",
        "ENCRYPTION_KEYS": KEY,
        "LOG_LEVEL": "error",
        "LOG_FORMAT": "json",
        "LEASE_SECONDS": "10",
        "SWEEP_SECONDS": "0.3",
        "CONNECT_TIMEOUT": "2",
        "READ_TIMEOUT": "5",
        "XERO_MINUTE_LIMIT": "1000",
        "XERO_CONCURRENT_LIMIT": "100",
        "XERO_DAY_LIMIT": "1000000",
        "COPPER_MINUTE_LIMIT": "10000",
        **server.environment("http://127.0.0.1:9"),
    }
)
