"""Fixtures of browser tests: a browser of all of them, and a folder for screenshots."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.support import chromium

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"


@pytest.fixture(scope="package")
def running_browser() -> Iterator[Browser]:
    """One browser for consecutive tests, because starting it takes longer than most of them.

    It ends with the last of them, because Playwright occupies the event loop of the main thread.
    """
    with chromium.launched() as running_browser:
        yield running_browser


@pytest.fixture
def browser(running_browser: Browser) -> Iterator[Browser]:
    """A browser without contexts, so without pages, cookies and storage of other tests."""
    yield running_browser
    for context in running_browser.contexts:
        context.close()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """The folder for screenshots: a temporary one, or with PATINA_SCREENSHOTS=1 the documentation's."""
    return IMAGES if os.environ.get("PATINA_SCREENSHOTS") else tmp_path
