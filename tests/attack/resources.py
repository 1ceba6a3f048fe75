"""Whether one tenant, or a stranger, can use up what all share: threads, connections, statements, counters."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import psutil

from tests.attack import bulk
from tests.attack.evidence import Evidence
from tests.attack.flood import Order, carry_out, flooding
from tests.attack.settings import API_MINUTE_LIMIT
from tests.attack.site import Site, Tenant, at_once, slowest
from tests.serving import wait_until

SLOW_COPPER_SECONDS = 15.0
SIGN_INS, HELD, PAGES = 45, 1_500, 30
# On a machine that is busy with other things as well, what was usual counts.
MOST_SECONDS, MOST_TIMES = 2.0, 4.0
FLOOD_SECONDS, FLOOD_RATE, FLOOD_TOGETHER = 15, 3_000, 50
MOST_MORE_CPU = 5.0
# Files that the web process has open while nobody is connected, and then some.
CALM_FILES = 200


def panel_path(tenant: Tenant) -> str:
    """The part of the panel that shows the tenant's person."""
    return f"/panel/records/person/{tenant.person}"


def cookies_of(site: Site, tenant: Tenant) -> dict[str, str]:
    """A session of the tenant's admin, as a header."""
    browser = site.admin(tenant).http
    return {"cookie": "; ".join(f"{one.name}={one.value}" for one in browser.cookies.jar)}


def _requests(site: Site) -> dict[str, tuple[str, dict[str, str]]]:
    """What another tenant asks for meanwhile: its panel, and a page of the API that takes a thread."""
    tenant = site.ours
    return {
        "panel": (panel_path(tenant), tenant.panel_headers),
        "match": (f"/v1/people/{tenant.person}/match", tenant.admin_headers),
        "export": (f"/v1/people/{tenant.person}/invoices.csv", tenant.key_headers),
    }


def _watch(site: Site, evidence: Evidence, during: str, *names: str, seconds: float = 3.0) -> None:
    """Note how long another tenant waits for what it asks for, one after the other, for some seconds each."""
    for name in names:
        longest, troubles = _wait_for(site, name, seconds)
        quick = longest < max(MOST_SECONDS, MOST_TIMES * site.usual.get(name, 0.0))
        said = f"{during}: another tenant's {name} takes {longest:.2f} s at most {troubles[:3] or ''}"
        evidence.expect(quick and not troubles, said.strip())


def _wait_for(site: Site, name: str, seconds: float) -> tuple[float, list[str]]:
    path, headers = _requests(site)[name]
    with site.client() as client:
        return slowest(lambda: client.get(path, headers=headers), seconds=seconds)


def _learn(site: Site) -> None:
    """How long these take on this machine while nobody attacks, once."""
    for name in _requests(site):
        if name not in site.usual:
            site.usual[name] = _wait_for(site, name, 1.0)[0]


def slow_copper_does_not_hold_pages(site: Site) -> Evidence:
    """Try to sign in from 45 addresses at once while Copper takes fifteen seconds to answer."""
    evidence = Evidence()
    _learn(site)
    slow = {"vendor": "copper", "kind": "latency", "path": "users/me", "seconds": SLOW_COPPER_SECONDS}
    order = Order(site.url, 10, sign_ins=SIGN_INS)
    before = site.sandbox.calls("users/me")
    with site.faults(slow), flooding(order):
        wait_until(lambda: site.sandbox.calls("users/me") > before, seconds=20, what="a sign-in at Copper")
        time.sleep(1)
        _watch(site, evidence, f"{SIGN_INS} sign-ins while Copper is slow", "panel", "match")
    return evidence


def _let_connect(site: Site, wanted: int, seconds: float = 20.0) -> int:
    """Wait until so many connections are open, or no more come; returns how many the web process holds."""
    process = site.web_process
    assert process is not None
    before, until = -1, time.monotonic() + seconds
    while time.monotonic() < until:
        count = process.num_fds()
        if count >= wanted or (count <= before and count > CALM_FILES):
            break
        before = count
        time.sleep(1.5)
    return process.num_fds()


@contextmanager
def changing(site: Site, tenant: Tenant) -> Iterator[None]:
    """The tenant's invoice changes once a second until the block ends."""
    stop = Event()

    def change() -> None:
        total = 200
        while not stop.wait(1):
            total += 1
            site.sandbox.act("change_invoice", invoice=tenant.invoice, total=f"{total}.00")

    thread = Thread(target=change, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def held_panels_do_not_slow_others(site: Site) -> Evidence:
    """Hold 1,500 answers of one's own panel back, and change what they show every second."""
    evidence, tenant = Evidence(), site.theirs
    _learn(site)
    order = Order(site.url, 45, held=HELD, panel_path=panel_path(tenant), panel_headers=tenant.panel_headers)
    with flooding(order), changing(site, tenant):
        held = _let_connect(site, HELD)
        evidence.expect(True, f"{held} connections held")
        _watch(site, evidence, f"{HELD} held requests and a change a second", "panel", "match", seconds=5)
    return evidence


def pages_and_exports_do_not_starve_others(site: Site) -> Evidence:
    """Ask for 30 large pages at once; then for exports, of which some are never read."""
    evidence, tenant = Evidence(), site.theirs
    _learn(site)
    bulk.fill(site, tenant)
    session = cookies_of(site, tenant)
    with flooding(Order(site.url, 12, pages=PAGES, session_headers=session)):
        time.sleep(2)
        _watch(site, evidence, f"{PAGES} pages at once", "panel", "match")
    for exports, unread in ((4, 4), (12, 0)):
        with flooding(Order(site.url, 12, exports=exports, unread=unread, session_headers=session)):
            time.sleep(2)
            _watch(site, evidence, f"{exports} exports of which {unread} are not read", "export", seconds=4)
    return evidence


def _cpu(site: Site, seconds: float = 3.0) -> float:
    """Per cent of a core that the web process takes for twenty reads a second."""
    tenant, process = site.ours, site.web_process
    assert process is not None
    with site.client() as client:
        path = f"/v1/people/{tenant.person}/invoices"
        client.get(path, headers=tenant.key_headers)
        began, spent = time.monotonic(), sum(process.cpu_times()[:2])
        while time.monotonic() - began < seconds:
            client.get(path, headers=tenant.key_headers)
            time.sleep(0.05)
        return 100 * (sum(process.cpu_times()[:2]) - spent) / (time.monotonic() - began)


def _memory(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 1e6


def made_up_keys_cost_nothing(site: Site) -> Evidence:
    """Call the API with another made-up key each time; afterwards reads must cost what they did."""
    evidence = Evidence()
    process = site.web_process
    assert process is not None
    before, held = _cpu(site), _memory(process)
    order = Order(site.url, FLOOD_SECONDS, keys=FLOOD_RATE, keys_together=FLOOD_TOGETHER)
    answers = carry_out(order)
    after = _cpu(site)
    said = f"after {sum(answers.values())} made-up keys reads take {after:.1f} % of a core, before {before:.1f} %"
    evidence.expect(after < before + MOST_MORE_CPU, f"{said}; memory {held:.0f} -> {_memory(process):.0f} MB")
    # On a machine that is too busy to send as many as an address may, none is refused for that.
    enough = answers.get("key 429", 0) > 0 or sum(answers.values()) <= API_MINUTE_LIMIT
    evidence.expect(enough, f"answers {answers}")
    return evidence


def panel_viewers_do_not_share_a_limit(site: Site) -> Evidence:
    """Use up the panel's calls of a minute at one address; a colleague's panel at another one must still answer."""
    evidence, tenant = Evidence(), site.theirs
    # A record of no type: counted as any other, and answered with little work.
    path = "/panel/records/nothing/1"
    calls = API_MINUTE_LIMIT // 6 + 3
    with site.client() as greedy, site.client() as colleague:
        asked = at_once(6, lambda _: [greedy.get(path, headers=tenant.panel_headers).status_code for _ in range(calls)])
        refused = [status for statuses in asked for status in statuses].count(429)
        status = colleague.get(panel_path(tenant), headers=tenant.panel_headers).status_code
    evidence.expect(refused > 0, f"{refused} of {6 * calls} calls of one address are refused")
    evidence.expect(status == 200, f"a colleague at another address is then answered {status}")
    return evidence
