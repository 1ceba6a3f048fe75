"""Whether odd input stays input: no server error, no secret in a log, no key carried elsewhere, no formula."""

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

from runtime.settings import override, settings
from tests.attack.evidence import Evidence
from tests.attack.site import Site, Visitor, events, query
from tests.serving import wait_until
from worker import connect
from worker.errors import VendorError

GUARDS = ("content-security-policy", "x-content-type-options", "cache-control")
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
# Contacts as Xero would have named them, each with an invoice.
NAMED_CONTACTS = (
    """INSERT INTO xero_contact (account_id, organisation_id, contact_id, name, status, updated_at, fetched_at,
           changed_at)
       SELECT :account, :organisation, md5('formula' || n)::uuid, name, 'ACTIVE', now(), now(), now()
       FROM unnest(CAST(:names AS text[])) WITH ORDINALITY AS named(name, n)""",
    """INSERT INTO invoice (account_id, organisation_id, invoice_id, contact_id, type, status, number, issue_date,
           due_date, total, balance, currency, created_at, created_source, updated_at, fetched_at, changed_at)
       SELECT :account, :organisation, md5('formula invoice' || n)::uuid, md5('formula' || n)::uuid, 'ACCREC',
           'AUTHORISED', 'FORMULA-' || n, '2024-01-01', '2024-02-01', 115, 115, 'NZD', now(), 'webhook', now(), now(),
           now()
       FROM unnest(CAST(:names AS text[])) WITH ORDINALITY AS named(name, n)""",
)


def odd_input_is_no_server_error(site: Site) -> Evidence:
    """Send NULs, huge numbers and odd headers everywhere; then take the database away."""
    evidence, tenant = Evidence(), site.ours
    admin = site.admin(tenant)
    after = base64.urlsafe_b64encode(b"1E+140000 5").decode()
    keyed, panel = tenant.key_headers, tenant.panel_headers
    record = f"/panel/records/person/{tenant.person}"
    asked: list[tuple[str, str, dict[str, str]]] = [
        ("GET", "/records?q=%00", {}),
        ("GET", "/unmatched?q=%00", {}),
        ("GET", "/receivables?currency=%00", {}),
        ("GET", "/receivables?status=%00", {}),
        ("GET", f"/trail?before={HUGE}", {}),
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
    for method, path, headers in asked:
        sent = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        client = site.client() if headers else admin.http
        shown = {name: value for name, value in headers.items() if name != "authorization"}
        _judge(evidence, f"{method} {path} {shown or ''}".strip(), client.request(method, path, headers=sent))
    for path in ("/keys", "/admins"):
        admin.open("/keys" if path == "/keys" else "/settings")
        _judge(evidence, f"POST {path} with a NUL", admin.send(path, name="a\x00b", user="1\x00", follow=False))
    _without_database(site, evidence, admin)
    return evidence


def _judge(evidence: Evidence, what: str, answer: Any, *, most: int = 499) -> None:
    missing = [name for name in GUARDS if name not in answer.headers]
    evidence.expect(answer.status_code <= most, f"{what}: {answer.status_code}")
    if answer.status_code != 400 or answer.content:
        evidence.expect(not missing, f"{what}: {answer.status_code} without {', '.join(missing)}")


def _without_database(site: Site, evidence: Evidence, admin: Visitor) -> None:
    """Every path says 503 while PostgreSQL cannot be reached."""
    tenant = site.ours
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
            answer = client.get(path, headers=headers)
            _judge(evidence, f"{path} without a database", answer, most=503)
            evidence.expect(answer.status_code == 503, f"{path} without a database: {answer.status_code}")
    wait_until(site.is_ready, seconds=30, what="the web process with its database")


@contextmanager
def database_away() -> Iterator[None]:
    """PostgreSQL's socket is taken away, and every connection to it ended, until the block ends."""
    from runtime import embedded
    from runtime.servers import APPLICATION_ROLE, SUPERUSER, Postgres
    from store.database import let_go
    from tests.attack.settings import HOME

    server = Postgres(HOME / "postgres")
    url = embedded.database_url().replace(f"{APPLICATION_ROLE}@", f"{SUPERUSER}@", 1)
    socket_file = server.run / ".s.PGSQL.5432"
    aside = socket_file.with_name("aside")
    let_go()
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
    """Send a key that no header can carry, and make the process fail in other ways; then read its log."""
    evidence, before = Evidence(), len(site.log())
    admin = site.admin(site.theirs)
    admin.open("/settings")
    for ending in ("\nabc", "\r\nX-A: b", "\u2028abc", "\x00abc"):
        admin.send("/copper/key", key=f"SECRETKEY123{ending}", email=site.theirs.email, follow=False)
    Visitor(site).http.post("/connect", headers={"origin": "http://["}, data={"key": "SECRETKEY123"})
    # What is logged of a failure may come a moment after the answer.
    time.sleep(LOG_SECONDS)
    log = site.log()[before:]
    lines = [line for line in log.splitlines() if line.strip()]
    leaks = sum("SECRETKEY123" in line for line in lines)
    evidence.expect(not leaks, f"{leaks} lines of the log have the key in them")
    plain = len(lines) - len(events(log))
    evidence.expect(not plain, f"{plain} of {len(lines)} lines went past the structured log")
    return evidence


class _Redirecting(BaseHTTPRequestHandler):
    """Sends every request on to another host, and keeps what that host was then told."""

    target = ""
    told: list[dict[str, str]] = []

    def do_GET(self) -> None:
        if self.path.startswith("/internal"):
            type(self).told.append(dict(self.headers.items()))
            self.send_response(200)
            self.end_headers()
            return
        self.send_response(302)
        self.send_header("Location", f"{self.target}/internal?x=1")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


def redirect_carries_no_key(site: Site) -> Evidence:
    """Play a Copper that redirects to another host, and see what that host is sent."""
    evidence = Evidence()
    first, second = (ThreadingHTTPServer((host, 0), _Redirecting) for host in ("127.0.0.1", "127.0.0.2"))
    _Redirecting.target = f"http://127.0.0.2:{second.server_port}"
    _Redirecting.told = []
    before = settings().copper_api_url
    try:
        for server in (first, second):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        override({"COPPER_API_URL": f"http://127.0.0.1:{first.server_port}"})
        with suppress(VendorError):
            connect.identify("SECRET-COPPER-KEY", "ann@acme.test")
    finally:
        override({"COPPER_API_URL": before})
        for server in (first, second):
            server.shutdown()
            server.server_close()
    keys = sum("SECRET-COPPER-KEY" in str(headers) for headers in _Redirecting.told)
    evidence.expect(
        not _Redirecting.told, f"the other host was called {len(_Redirecting.told)} times, {keys} with the key"
    )
    return evidence


def export_starts_no_formula(site: Site) -> Evidence:
    """Name contacts like formulas in every spelling, and read the export as spreadsheets do."""
    evidence, tenant = Evidence(), site.theirs
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
    """Whether a spreadsheet may take a cell for a formula; blanks and what nobody sees before the sign do not help."""
    plain = unicodedata.normalize("NFKC", cell)
    seen = plain.lstrip("".join(sorted({char for char in plain if _is_blank(char)})))
    is_number = seen[1:].replace(".", "", 1).isdigit()
    return seen[:1] in tuple(SIGNS) and not (seen[:1] in "+-" and is_number)


def _is_blank(char: str) -> bool:
    return char.isspace() or unicodedata.category(char) in {"Cc", "Cf", "Zs"}
