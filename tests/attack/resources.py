"""Attacks on shared resources: threads, connections, statements, counters."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import psutil

from tests.attack import bulk
from tests.attack.evidence import Evidence
from tests.attack.flood import Order, carry_out, flooding
from tests.attack.settings import API_REQUESTS_PER_MINUTE
from tests.attack.site import Site, Tenant, at_once, slowest
from tests.support.serving import wait_until

SLOW_COPPER_SECONDS = 15.0
SIGN_INS, HELD, PAGES = 45, 1_500, 30
# On a busy machine, the usual latency is the reference.
MOST_SECONDS, MOST_TIMES = 2.0, 4.0
FLOOD_SECONDS, FLOOD_RATE, FLOOD_TOGETHER = 15, 3_000, 50
MAX_CPU_INCREASE = 5.0
# Files that the web process has open without connections, with a margin.
IDLE_OPEN_FILES = 200


def panel_path(tenant: Tenant) -> str:
    """The panel path of the tenant's person."""
    return f"/panel/records/person/{tenant.person}"


def cookies_of(site: Site, tenant: Tenant) -> dict[str, str]:
    """A cookie header of the tenant's admin."""
    browser = site.admin(tenant).http
    return {"cookie": "; ".join(f"{cookie.name}={cookie.value}" for cookie in browser.cookies.jar)}


def _requests(site: Site) -> dict[str, tuple[str, dict[str, str]]]:
    """The requests of another tenant: its panel, and an API page that needs a thread."""
    tenant = site.victim
    return {
        "panel": (panel_path(tenant), tenant.panel_headers),
        "match": (f"/v1/people/{tenant.person}/match", tenant.admin_headers),
        "export": (f"/v1/people/{tenant.person}/invoices.csv", tenant.key_headers),
    }


def _watch(site: Site, evidence: Evidence, during: str, *names: str, seconds: float = 3.0) -> None:
    """Measure the latency of another tenant's requests, each for some seconds."""
    for name in names:
        max_seconds, errors = _wait_for(site, name, seconds)
        quick = max_seconds < max(MOST_SECONDS, MOST_TIMES * site.usual.get(name, 0.0))
        detail = f"{during}: another tenant's {name} takes {max_seconds:.2f} s at most {errors[:3] or ''}"
        evidence.expect(quick and not errors, detail.strip())


def _wait_for(site: Site, name: str, seconds: float) -> tuple[float, list[str]]:
    path, headers = _requests(site)[name]
    with site.client() as client:
        return slowest(lambda: client.get(path, headers=headers), seconds=seconds)


def _learn(site: Site) -> None:
    """Measure the latency of these requests without an attack, once."""
    for name in _requests(site):
        if name not in site.usual:
            site.usual[name] = _wait_for(site, name, 1.0)[0]


def slow_copper_does_not_block_pages(site: Site) -> Evidence:
    """Try to sign in from 45 addresses at once while Copper takes fifteen seconds to answer."""
    evidence = Evidence()
    _learn(site)
    slow = {"vendor": "copper", "type": "latency", "path": "users/me", "seconds": SLOW_COPPER_SECONDS}
    order = Order(site.url, 10, sign_ins=SIGN_INS)
    before = site.sandbox.calls("users/me")
    with site.faults(slow), flooding(order):
        wait_until(lambda: site.sandbox.calls("users/me") > before, seconds=20, description="a sign-in at Copper")
        time.sleep(1)
        _watch(site, evidence, f"{SIGN_INS} sign-ins while Copper is slow", "panel", "match")
    return evidence


def _let_connect(site: Site, expected: int, seconds: float = 20.0) -> int:
    """Wait until the expected connections are open, or no more arrive; returns their number."""
    process = site.web_process
    assert process is not None
    before, until = -1, time.monotonic() + seconds
    while time.monotonic() < until:
        count = process.num_fds()
        if count >= expected or (count <= before and count > IDLE_OPEN_FILES):
            break
        before = count
        time.sleep(1.5)
    return process.num_fds()


@contextmanager
def changing(site: Site, tenant: Tenant) -> Iterator[None]:
    """Change the tenant's invoice once a second until the block ends."""
    stop = Event()

    def change() -> None:
        total = 200
        while not stop.wait(1):
            total += 1
            site.sandbox.simulate("update_invoice", invoice=tenant.invoice, total=f"{total}.00")

    thread = Thread(target=change, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def long_polls_do_not_slow_others(site: Site) -> Evidence:
    """Open 1,500 long polls of one's own panel, and change its record every second."""
    evidence, tenant = Evidence(), site.attacker
    _learn(site)
    order = Order(site.url, 45, held=HELD, panel_path=panel_path(tenant), panel_headers=tenant.panel_headers)
    with flooding(order), changing(site, tenant):
        held_count = _let_connect(site, HELD)
        evidence.expect(True, f"{held_count} connections held")
        _watch(site, evidence, f"{HELD} long polls and a change a second", "panel", "match", seconds=5)
    return evidence


def pages_and_exports_do_not_starve_others(site: Site) -> Evidence:
    """Request 30 large pages at once; then exports, some of which are never read."""
    evidence, tenant = Evidence(), site.attacker
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
    """The per cent of a core that the web process uses for twenty reads a second."""
    tenant, process = site.victim, site.web_process
    assert process is not None
    with site.client() as client:
        path = f"/v1/people/{tenant.person}/invoices"
        client.get(path, headers=tenant.key_headers)
        started, cpu_seconds = time.monotonic(), sum(process.cpu_times()[:2])
        while time.monotonic() - started < seconds:
            client.get(path, headers=tenant.key_headers)
            time.sleep(0.05)
        return 100 * (sum(process.cpu_times()[:2]) - cpu_seconds) / (time.monotonic() - started)


def _memory(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 1e6


def invalid_keys_cost_nothing(site: Site) -> Evidence:
    """Call the API with a different invalid key each time; afterwards reads must cost the same as before."""
    evidence = Evidence()
    process = site.web_process
    assert process is not None
    before, memory = _cpu(site), _memory(process)
    order = Order(site.url, FLOOD_SECONDS, keys=FLOOD_RATE, keys_together=FLOOD_TOGETHER)
    counts = carry_out(order)
    after = _cpu(site)
    detail = f"after {sum(counts.values())} made-up keys reads take {after:.1f} % of a core, before {before:.1f} %"
    evidence.expect(after < before + MAX_CPU_INCREASE, f"{detail}; memory {memory:.0f} -> {_memory(process):.0f} MB")
    # A busy machine may send too few requests to be rate limited.
    enough = counts.get("key 429", 0) > 0 or sum(counts.values()) <= API_REQUESTS_PER_MINUTE
    evidence.expect(enough, f"answers {counts}")
    return evidence


def panel_viewers_have_separate_limits(site: Site) -> Evidence:
    """Use up the panel's rate limit at one address; a colleague's panel at another address must still work."""
    evidence, tenant = Evidence(), site.attacker
    # An invalid record type: counted like any other, with little work.
    path = "/panel/records/nothing/1"
    calls = API_REQUESTS_PER_MINUTE // 6 + 3
    with site.client() as greedy, site.client() as colleague:
        statuses = at_once(
            6, lambda _: [greedy.get(path, headers=tenant.panel_headers).status_code for _ in range(calls)]
        )
        refused = [status for statuses in statuses for status in statuses].count(429)
        status = colleague.get(panel_path(tenant), headers=tenant.panel_headers).status_code
    evidence.expect(refused > 0, f"{refused} of {6 * calls} calls of one address are refused")
    evidence.expect(status == 200, f"a colleague at another address is then answered {status}")
    return evidence
