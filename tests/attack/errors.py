"""Attacks with malformed input: server errors, secrets in logs, redirects with keys, formula injection."""

from __future__ import annotations

import base64
import csv
import io
import threading
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psycopg

from runtime.settings import override_settings, settings
from services import connect
from tests.attack.evidence import Evidence
from tests.attack.site import Site, Visitor, events, query
from tests.support.serving import wait_until
from worker.vendors.errors import VendorError

SECURITY_HEADERS = ("content-security-policy", "x-content-type-options", "cache-control")
HUGE = 2**63
LOG_SECONDS = 2.0
FORMULAS = (
    "=1",
    "\n=1",
    " =1",
    "\u00a0=1",
    "\ufeff=1",
    "\u200b=1",
    "\x0b=1",
    "\uff1d1",
    "\uff0b1",
    "\uff20x",
    "+1",
    "-1",
    "@x",
)
SPLIT = "Acme;=1+cmd|' /C calc'!A0"
SIGNS = "=+-@"
# Contacts with chosen names, each with an invoice.
NAMED_CONTACTS = (
    """INSERT INTO xero_contact (account_id, organisation_id, contact_id, name, status, updated_at, fetched_at,
           changed_at)
       SELECT :account, :organisation, md5('formula' || n)::uuid, name, 'ACTIVE', now(), now(), now()
       FROM unnest(CAST(:names AS text[])) WITH ORDINALITY AS named(name, n)""",
    """INSERT INTO xero_invoice (account_id, organisation_id, invoice_id, contact_id, type, status, number, issue_date,
           due_date, total, balance, currency, created_at, created_source, updated_at, fetched_at, changed_at)
       SELECT :account, :organisation, md5('formula invoice' || n)::uuid, md5('formula' || n)::uuid, 'ACCREC',
           'AUTHORISED', 'FORMULA-' || n, '2024-01-01', '2024-02-01', 115, 115, 'NZD', now(), 'webhook', now(), now(),
           now()
       FROM unnest(CAST(:names AS text[])) WITH ORDINALITY AS named(name, n)""",
)


def malformed_input_is_no_server_error(site: Site) -> Evidence:
    """Send NULs, huge numbers and malformed headers everywhere; then make the database unavailable."""
    evidence, tenant = Evidence(), site.victim
    admin = site.admin(tenant)
    after = base64.urlsafe_b64encode(b"1E+140000 5").decode()
    keyed, panel = tenant.key_headers, tenant.panel_headers
    record = f"/panel/records/person/{tenant.person}"
    requests: list[tuple[str, str, dict[str, str]]] = [
        ("GET", "/records?q=%00", {}),
        ("GET", "/unmatched?q=%00", {}),
        ("GET", "/receivables?currency=%00", {}),
        ("GET", "/receivables?status=%00", {}),
        ("GET", f"/audit?before={HUGE}", {}),
        ("GET", f"/keys/{HUGE}/revoke", {}),
        ("GET", "/v1/companies?currency=%00", keyed),
        ("GET", f"/v1/companies?after={after}", keyed),
        ("GET", f"/v1/people/{HUGE}/invoices", keyed),
        ("GET", f"/v1/people/{tenant.person}/invoices?after=%00", keyed),
        ("GET", f"{record}?status=%00", panel),
        ("GET", record, {**panel, "prefer": "wait=\u00b2"}),
        ("GET", "/panel?token=%00&origin=%00", {}),
        ("POST", "/connect", {"origin": "http://["}),
        ("GET", "/connect", {"host": "["}),
        ("GET", "/connect", {"cookie": "patina-session=\u00ff\u00fe; patina-browser=%00"}),
    ]
    for method, path, headers in requests:
        raw_headers = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        client = site.client() if headers else admin.http
        safe_headers = {name: value for name, value in headers.items() if name != "authorization"}
        _judge(
            evidence, f"{method} {path} {safe_headers or ''}".strip(), client.request(method, path, headers=raw_headers)
        )
    for path in ("/keys", "/admins"):
        admin.open("/keys" if path == "/keys" else "/settings")
        _judge(evidence, f"POST {path} with a NUL", admin.send(path, name="a\x00b", user="1\x00", follow=False))
    _without_database(site, evidence, admin)
    return evidence


def _judge(evidence: Evidence, description: str, response: Any, *, max_status: int = 499) -> None:
    missing = [name for name in SECURITY_HEADERS if name not in response.headers]
    evidence.expect(response.status_code <= max_status, f"{description}: {response.status_code}")
    if response.status_code != 400 or response.content:
        evidence.expect(not missing, f"{description}: {response.status_code} without {', '.join(missing)}")


def _without_database(site: Site, evidence: Evidence, admin: Visitor) -> None:
    """Every path returns 503 while PostgreSQL is unavailable."""
    tenant = site.victim
    paths: list[tuple[str, dict[str, str]]] = [
        (f"/v1/people/{tenant.person}/invoices", tenant.key_headers),
        (f"/v1/people/{tenant.person}/match", tenant.key_headers),
        (f"/v1/people/{tenant.person}/invoices.csv", tenant.key_headers),
        (f"/panel/records/person/{tenant.person}", tenant.panel_headers),
        ("/status", {}),
        ("/metrics", {"authorization": "Bearer the-token-of-the-attack"}),
    ]
    with database_away():
        for path, headers in paths:
            client = site.client(timeout=60) if headers else admin.http
            response = client.get(path, headers=headers)
            _judge(evidence, f"{path} without a database", response, max_status=503)
            evidence.expect(response.status_code == 503, f"{path} without a database: {response.status_code}")
    wait_until(site.is_ready, seconds=30, description="the web process with its database")


@contextmanager
def database_away() -> Iterator[None]:
    """Remove PostgreSQL's socket and terminate its connections, until the block ends."""
    from runtime.servers import APPLICATION_ROLE, SUPERUSER, Postgres
    from runtime.service_urls import database_url
    from store.db.database import dispose_engine
    from tests.attack.settings import HOME

    server = Postgres(HOME / "postgres")
    url = database_url().replace(f"{APPLICATION_ROLE}@", f"{SUPERUSER}@", 1)
    socket_file = server.socket_dir / ".s.PGSQL.5432"
    aside = socket_file.with_name("aside")
    dispose_engine()
    with psycopg.connect(url.replace("postgresql+psycopg://", "postgresql://"), autocommit=True) as connection:
        socket_file.rename(aside)
        try:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
            yield
        finally:
            aside.rename(socket_file)


def failure_logs_no_secret(site: Site) -> Evidence:
    """Send a key that is not a valid header, and cause other failures; then search the log for secrets."""
    evidence, before = Evidence(), len(site.log())
    admin = site.admin(site.attacker)
    admin.open("/settings")
    for ending in ("\nabc", "\r\nX-A: b", "\u2028abc", "\x00abc"):
        admin.send("/copper/key", key=f"SECRETKEY123{ending}", email=site.attacker.email, follow=False)
    Visitor(site).http.post("/connect", headers={"origin": "http://["}, data={"key": "SECRETKEY123"})
    # A failure may be logged shortly after the response.
    time.sleep(LOG_SECONDS)
    log = site.log()[before:]
    lines = [line for line in log.splitlines() if line.strip()]
    leaks = sum("SECRETKEY123" in line for line in lines)
    evidence.expect(not leaks, f"{leaks} lines of the log have the key in them")
    plain = len(lines) - len(events(log))
    evidence.expect(not plain, f"{plain} of {len(lines)} lines went past the structured log")
    return evidence


class _Redirecting(BaseHTTPRequestHandler):
    """Redirects every request to another host, and records what that host receives."""

    target = ""
    received: list[dict[str, str]] = []

    def do_GET(self) -> None:
        if self.path.startswith("/internal"):
            type(self).received.append(dict(self.headers.items()))
            self.send_response(200)
            self.end_headers()
            return
        self.send_response(302)
        self.send_header("Location", f"{self.target}/internal?x=1")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


def redirect_carries_no_key(site: Site) -> Evidence:
    """Simulate a Copper that redirects to another host, and check what that host receives."""
    evidence = Evidence()
    first, second = (ThreadingHTTPServer((host, 0), _Redirecting) for host in ("127.0.0.1", "127.0.0.2"))
    _Redirecting.target = f"http://127.0.0.2:{second.server_port}"
    _Redirecting.received = []
    before = settings().copper_api_url
    try:
        for server in (first, second):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        override_settings({"COPPER_API_URL": f"http://127.0.0.1:{first.server_port}"})
        with suppress(VendorError):
            connect.identify("SECRET-COPPER-KEY", "ann@acme.test")
    finally:
        override_settings({"COPPER_API_URL": before})
        for server in (first, second):
            server.shutdown()
            server.server_close()
    keys = sum("SECRET-COPPER-KEY" in str(headers) for headers in _Redirecting.received)
    evidence.expect(
        not _Redirecting.received, f"the other host was called {len(_Redirecting.received)} times, {keys} with the key"
    )
    return evidence


def export_contains_no_formula(site: Site) -> Evidence:
    """Name contacts like formulas in every spelling, and parse the export like a spreadsheet."""
    evidence, tenant = Evidence(), site.attacker
    names = [*(f"{formula} contact" for formula in FORMULAS), SPLIT]
    organisation = query("SELECT id FROM xero_organisation WHERE account_id = :a ORDER BY id", a=tenant.account)[0][0]
    for statement in NAMED_CONTACTS:
        query(statement, account=tenant.account, organisation=organisation, names=names)
    text = site.admin(tenant).http.get("/export/unmatched-contacts.csv").text
    for separator in (",", ";", "\t"):
        cells = [cell for row in csv.reader(io.StringIO(text), delimiter=separator) for cell in row]
        formulas = [cell for cell in cells if is_formula(cell)]
        evidence.expect(not formulas, f"read with {separator!r}: {len(formulas)} formulas, such as {formulas[:2]}")
    evidence.expect("calc" in text, f"{len(text)} characters of export")
    return evidence


def is_formula(cell: str) -> bool:
    """Whether a spreadsheet may interpret a cell as a formula, after blanks and invisible characters."""
    plain = unicodedata.normalize("NFKC", cell)
    visible = plain.lstrip("".join(sorted({char for char in plain if _is_blank(char)})))
    is_number = visible[1:].replace(".", "", 1).isdigit()
    return visible[:1] in tuple(SIGNS) and not (visible[:1] in "+-" and is_number)


def _is_blank(char: str) -> bool:
    return char.isspace() or unicodedata.category(char) in {"Cc", "Cf", "Zs"}
