"""Fixtures of the tests with vendors' clients: a browser."""

from __future__ import annotations

from tests.support.chromium import browser as browser
from tests.support.chromium import running_browser as running_browser
