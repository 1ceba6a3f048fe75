"""How soon a salesperson sees invoices: from the request of the panel until its first row is in the page.

The panel is in a frame of another site, as in Copper. Needs Chromium, as the browser tests do.
"""

from __future__ import annotations

from typing import NamedTuple

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

TIMES = """() => [window.firstRow, performance.getEntriesByType("resource")
  .find((entry) => entry.name.includes("/panel/records/")).startTime]"""


async def _host(_: Request) -> HTMLResponse:
    return HTMLResponse(HOST)


def measure(rounds: int) -> list[Figure]:
    """From the request of the rows, and all of a panel that the browser has never seen or opens again."""
    openings: list[tuple[Opening, Opening]] = []
    with environment.populated_database():
        environment.fill_rows(ROWS)
        environment.fill_mirror(contacts=RECORDS, invoices=RECORDS)
        token = access.create_key(1, "panel", ["panel"])
        with serving(Starlette(routes=[Route("/", _host)])) as host_url, chromium.launched() as browser:
            site = host_url.replace("127.0.0.1", "localhost")
            override_settings({"PANEL_ORIGINS": site})
            with environment.start_web("cli", "web") as url:
                address = f"{site}/?panel={url}/panel?token={token}"
                _open_twice(browser, address)
                openings += [_open_twice(browser, address) for _ in range(rounds * OPENINGS_PER_ROUND)]
    note = "most of it is Chromium's: a process for the frame, and the script"
    return [
        at_most(
            "first row of the panel after the request for a record's rows",
            (opening.since_request for pair in openings for opening in pair),
            GOAL_MS,
            "ms",
        ),
        _without_goal("all of the panel, never seen before", [cold.total for cold, _ in openings], note),
        _without_goal("all of the panel, opened again", [warm.total for _, warm in openings], note),
    ]


class Opening(NamedTuple):
    """Milliseconds until the first row: since the request for the record's rows, and since that for the panel."""

    since_request: float
    total: float


def _without_goal(name: str, values: list[float], note: str) -> Figure:
    return Figure(name, tuple(values), "ms", note=note)


def _open_twice(browser: Browser, address: str) -> tuple[Opening, Opening]:
    """Open the panel with an empty cache, and then again."""
    context = browser.new_context()
    context.add_init_script(NOTE_FIRST_ROW)
    page = context.new_page()
    try:
        return _open(page, address), _open(page, address)
    finally:
        context.close()


def _open(page: Page, address: str) -> Opening:
    page.goto(address)
    page.frame_locator("iframe").locator("tr[data-number]").first.wait_for()
    total, requested_at = page.frames[-1].evaluate(TIMES)
    return Opening(total - requested_at, total)
