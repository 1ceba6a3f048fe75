"""Fixtures of browser tests: a browser, and a folder for screenshots."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.chromium import browser as browser
from tests.support.chromium import running_browser as running_browser

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """The folder for screenshots: a temporary one, or with PATINA_SCREENSHOTS=1 the documentation's."""
    return IMAGES if os.environ.get("PATINA_SCREENSHOTS") else tmp_path
