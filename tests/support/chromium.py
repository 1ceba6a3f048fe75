"""A headless Chromium for browser tests: Debian's, Chrome, or Playwright's own.

A package of browser tests imports the fixtures in its conftest: imported in a module, they would last until the end of
the process.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Error, Page, ViewportSize, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDE: ViewportSize = {"width": 1000, "height": 800}
NARROW: ViewportSize = {"width": 360, "height": 720}


@contextmanager
def launched() -> Iterator[Browser]:
    """The installed browser; without one, the test is skipped with a hint."""
    path = next((path_ for name in NAMES if (path_ := shutil.which(name))), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        except Error:
            pytest.skip("no Chromium: install Debian's (apt-get install chromium) or run `playwright install chromium`")
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture(scope="package")
def running_browser() -> Iterator[Browser]:
    """One browser for consecutive tests of a package, because starting it takes longer than most of them.

    It ends with the last of them, because Playwright occupies the event loop of the main thread.
    """
    with launched() as running_browser:
        yield running_browser


@pytest.fixture
def browser(running_browser: Browser) -> Iterator[Browser]:
    """A browser without contexts, so without pages, cookies and storage of other tests."""
    yield running_browser
    for context in running_browser.contexts:
        context.close()


def opened(browser: Browser, base: str, *, scripts: bool = False) -> Page:
    """A page in a new context, without JavaScript by default, because our pages do not need it."""
    context = browser.new_context(base_url=base, viewport=WIDE, java_script_enabled=scripts)
    page = context.new_page()
    page.set_default_timeout(15_000)
    return page


def accessibility_faults(page: Page, *, rules: Sequence[str] = (), within: str = "") -> list[str]:
    """Everything that axe-core objects to, of every grade: the rule and the element, or its selector in a frame.

    `rules` limits it to some rules, `within` to elements whose selector contains it. The test injects axe-core,
    because the content security policy blocks it.
    """
    options = {"runOnly": list(rules)} if rules else None
    return [
        f"{violation['id']} ({violation['impact']}): {node['html']}"
        for violation in Axe().run(page, options=options).response["violations"]
        for node in violation["nodes"]
        if within in str(node["target"])
    ]
