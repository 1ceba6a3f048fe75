"""How soon a salesperson sees invoices: from the request of the panel until its first row is in the page.

The panel is in a frame of another site, as in Copper. Needs Chromium, as the browser tests do.
"""

from __future__ import annotations

from playwright.sync_api import Browser, Page
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from bench import environment
from bench.figures import Figure, at_most
from runtime.settings import override_settings
from services import access
from tests.support import chromium
from tests.support.serving import serving

ROWS, RECORDS = 100_000, 100
OPENINGS_PER_ROUND = 4
GOAL_MS = 150.0
RECORD = 1
# Answers the panel's question for the current record, as Copper's page does.
HOST = """<!doctype html><title>Copper</title><iframe style="width: 1000px; height: 600px"></iframe><script>
  const frame = document.querySelector("iframe");
  addEventListener("message", ({ data }) => {
    if (data.type !== "getContext") return;
    const context = { entityType: "person", entityData: { id: RECORD } };
    frame.contentWindow.postMessage({ type: "getContext", id: data.id, data: context }, "*");
  });
  frame.src = new URLSearchParams(location.search).get("panel") + `&origin=${location.origin}&instanceId=1`;
</script>""".replace("RECORD", str(RECORD))
# In every frame: when the first row is there, in milliseconds since the frame's document was requested.
NOTE_FIRST_ROW = """new MutationObserver((_, observer) => {
  if (!document.querySelector("tr[data-number]")) return;
  window.firstRow = performance.now();
  observer.disconnect();
}).observe(document, { childList: true, subtree: true })"""


async def _host(_: Request) -> HTMLResponse:
    return HTMLResponse(HOST)


def measure(rounds: int) -> list[Figure]:
    """A panel that the browser has never seen, and one that is opened again."""
    cold_ms: list[float] = []
    warm_ms: list[float] = []
    with environment.populated_database():
        environment.fill_rows(ROWS)
        environment.fill_mirror(contacts=RECORDS, invoices=RECORDS)
        token = access.create_key(1, "panel", ["panel"])
        with serving(Starlette(routes=[Route("/", _host)])) as host_url, chromium.launched() as browser:
            site = host_url.replace("127.0.0.1", "localhost")
            override_settings({"PANEL_ORIGINS": site})
            with environment.start_web("cli", "web") as url:
                address = f"{site}/?panel={url}/panel?token={token}"
                _open(browser, address)
                for _ in range(rounds * OPENINGS_PER_ROUND):
                    cold, warm = _open(browser, address)
                    cold_ms.append(cold)
                    warm_ms.append(warm)
    return [
        at_most("first row of a panel that the browser has never seen", cold_ms, GOAL_MS, "ms"),
        at_most("first row of a panel that is opened again", warm_ms, GOAL_MS, "ms"),
    ]


def _open(browser: Browser, address: str) -> tuple[float, float]:
    """Milliseconds to the first row, with an empty cache and then again."""
    context = browser.new_context()
    context.add_init_script(NOTE_FIRST_ROW)
    page = context.new_page()
    try:
        return _first_row_ms(page, address), _first_row_ms(page, address)
    finally:
        context.close()


def _first_row_ms(page: Page, address: str) -> float:
    page.goto(address)
    page.frame_locator("iframe").locator("tr[data-number]").first.wait_for()
    milliseconds: float = page.frames[-1].evaluate("window.firstRow")
    return milliseconds
