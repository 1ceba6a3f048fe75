"""The `patina` command."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from urllib.parse import quote
from uuid import UUID

import typer

if TYPE_CHECKING:
    import httpx

    from terminal.inbox import Outcome as InboxOutcome
    from terminal.progress import Outcome
    from worker.steps import Kind

app = typer.Typer(
    name="patina",
    help="Shows a company's Xero invoices on its Copper records.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
sandbox_app = typer.Typer(
    help="Run Xero and Copper on this machine, and act as their users.", invoke_without_command=True
)
app.add_typer(sandbox_app, name="sandbox")
keys_app = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
sessions_app = typer.Typer(help="List and end browser sessions.", no_args_is_help=True)
app.add_typer(sessions_app, name="sessions")
inbox_app = typer.Typer(help="List, show, retry and dismiss failed events.", no_args_is_help=True)
app.add_typer(inbox_app, name="inbox")
invite_app = typer.Typer(
    help="Make a set-up code, with which one new Copper account can be connected.", invoke_without_command=True
)
app.add_typer(invite_app, name="invite")
SANDBOX_PORT = 8701
AccountOption = Annotated[
    int | None, typer.Option("--account", help="Account ID; required if there are several.", metavar="ID")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.", metavar="")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"patina {version('patina')}")
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, metavar="", callback=_print_version
        ),
    ] = False,
    embedded: Annotated[
        bool,
        typer.Option("--embedded", help="Run PostgreSQL and Redis here where none is set, to try it out.", metavar=""),
    ] = False,
) -> None:
    """Shows a company's Xero invoices on its Copper records."""
    if embedded:
        from runtime.settings import override

        override({"EMBEDDED_SERVICES": "true"})


def main() -> None:
    """Run the command; what goes wrong for a known reason is said in one line, with exit code 1."""
    try:
        app(prog_name="patina")
    except Exception as error:
        text = _describe(error)
        if text is None or os.environ.get("LOG_LEVEL") == "debug":
            raise
        _fail(text)


def _describe(error: Exception) -> str | None:
    """What a known error means to whoever runs the command; None for one that nobody expects."""
    from runtime.embedded import EmbeddedServiceError
    from runtime.settings import SettingsError

    # First: what is imported below may itself need settings that are right.
    if isinstance(error, (SettingsError, EmbeddedServiceError)):
        return str(error)
    from alembic.util.exc import CommandError

    from store.database import describe_failure
    from store.roles import RolesError
    from store.secrets import SealBrokenError
    from terminal.demo import DemoError
    from worker.errors import NotConnectedError, VendorError

    if text := describe_failure(error):
        return text
    if isinstance(error, CommandError):
        return f"migrate: {error}"
    known = (DemoError, RolesError, SealBrokenError, NotConnectedError, VendorError, LookupError, OSError)
    return str(error) if isinstance(error, known) and not isinstance(error, (KeyError, IndexError)) else None


def _fail(text: str) -> NoReturn:
    typer.echo(text, err=True)
    raise SystemExit(1)


def _refuse(text: str, option: str | None = None) -> NoReturn:
    """End with the exit code of wrong usage, 2."""
    raise typer.BadParameter(text, param_hint=option)


def _take_interrupts() -> None:
    """Have Ctrl-C end this command, also where a shell started it in the background and ignores SIGINT for it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _iso(value: object) -> object:
    """A time as ISO 8601, for JSON; anything else as text."""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _account(chosen: int | None) -> int:
    from store import accounts
    from store.database import transaction

    with transaction() as session:
        known = accounts.accounts(session)
    if chosen is not None and chosen in {one.id for one in known}:
        return chosen
    if chosen is not None:
        raise LookupError(f"There is no account {chosen}. Run `patina status` to list accounts.")
    if len(known) == 1:
        return known[0].id
    if not known:
        raise LookupError("No account is connected yet: run `patina connect`.")
    raise LookupError("There are several accounts. Choose one with --account (run `patina status` to list them).")


def _ready() -> None:
    """Refuse to serve on a database that lacks migrations."""
    from runtime.settings import SettingsError
    from store.database import at_head, let_go

    if not at_head():
        raise SettingsError("The database is not at the latest migration: run `patina migrate` first.")
    let_go()


@app.command()
def migrate(
    revision: Annotated[str, typer.Argument(help="head, base, -1 or a revision ID.", metavar="REVISION")] = "head",
) -> None:
    """Bring the database's schema up to date."""
    from store.database import migrate as run

    run(revision)
    typer.echo(f"schema at {revision}")


@app.command()
def web() -> None:
    """Run the web server (webhooks, API, panel, admin pages)."""
    from runtime.settings import settings

    settings().need("xero_webhook_keys")
    _ready()
    from web.app import create
    from web.server import Server

    Server(
        create(),
        host=settings().web_host,
        port=settings().port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=25,
    ).run()


@app.command()
def worker() -> None:
    """Run the background worker."""
    from runtime.settings import settings

    settings().need("xero_client_id", "xero_client_secret")
    _ready()
    if port := settings().worker_metrics_port:
        _share_metrics(settings().metrics_host, port)
    _tune_dramatiq(settings().worker_threads)
    from dramatiq.cli import main as run
    from dramatiq.cli import make_argument_parser

    words = ["worker.jobs", "--processes", str(settings().worker_processes)]
    words += ["--threads", str(settings().worker_threads), "--worker-shutdown-timeout", "25000"]
    sys.exit(run(make_argument_parser().parse_args(words)))


def _tune_dramatiq(threads: int) -> None:
    """Set what Dramatiq reads from the environment when it is imported, and never again.

    A queue's messages are taken ahead up to `dramatiq_queue_prefetch`, those at work included: one for each thread
    keeps all of them busy, and leaves to other processes what this one could not begin. An idle consumer looks again
    after `dramatiq_worker_timeout` milliseconds.
    """
    assert "dramatiq" not in sys.modules
    os.environ.update(dramatiq_queue_prefetch=str(threads), dramatiq_worker_timeout="50")


def _share_metrics(host: str, port: int) -> None:
    """Have the worker's processes count in files that one more process of Dramatiq's adds up and serves.

    Both libraries read this from the environment when they are imported.
    """
    import atexit
    import shutil
    import tempfile

    folder = tempfile.mkdtemp(prefix="patina-metrics-")
    owner = os.getpid()

    def clear() -> None:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(clear)
    os.environ.update(
        PROMETHEUS_MULTIPROC_DIR=folder, dramatiq_prom_db=folder, dramatiq_prom_host=host, dramatiq_prom_port=str(port)
    )


@app.command()
def scheduler() -> None:
    """Run the scheduler."""
    from runtime.settings import settings

    settings().need("xero_client_id", "xero_client_secret")
    _ready()
    from runtime import logs, tracing

    logs.configure("scheduler")
    tracing.start("scheduler")
    from worker.schedule import serve

    serve()
    tracing.stop()


@app.command()
def connect(
    copper_email: Annotated[
        str,
        typer.Option(
            envvar="COPPER_EMAIL",
            prompt="Copper email address",
            help="The user who created the API key.",
            metavar="EMAIL",
        ),
    ],
    port: Annotated[int, typer.Option(help="Local port that Xero redirects the browser to.", metavar="PORT")] = 8702,
    auto: Annotated[
        bool, typer.Option("--auto", help="Without a browser, for a Xero that grants access at once.", metavar="")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Connect a Copper account and its Xero organisations; prints a read API key.

    The Copper API key is asked for; without a terminal it is taken from COPPER_API_KEY or from standard input.
    """
    from runtime import logs
    from worker import connect as connecting
    from worker.health import permissions
    from worker.xero import loopback

    logs.configure("connect", for_command=True)
    _take_interrupts()
    account_id = connecting.connect_copper(_copper_key(), copper_email, by_operator=True)
    token = loopback.authorise(port, auto=auto, say=lambda text: typer.echo(text, err=True))
    organisations = connecting.connect_xero(account_id, token)
    key = connecting.make_key(account_id, "made by patina connect")
    names = [one.name for one in organisations]
    for permission in sorted({name for organisation in organisations for name in permissions(organisation)}):
        typer.echo(f"Xero did not grant {permission}: run `patina connect` again and allow it", err=True)
    if json_:
        typer.echo(json.dumps({"account": account_id, "organisations": names, "api_key": key}))
        return
    typer.echo(f"Account {account_id} is connected to {', '.join(names)}.")
    typer.echo(f"API key (copy it now, it isn't shown again): {key}")
    typer.echo("Next: `patina backfill`")


def _copper_key() -> str:
    """The Copper API key. It is no option: every user of a machine can read its processes' command lines."""
    key = os.environ.get("COPPER_API_KEY", "")
    if not key and sys.stdin.isatty():
        key = typer.prompt("Copper API key", hide_input=True)
    elif not key:
        key = sys.stdin.readline()
    if not key.strip():
        _fail("No Copper API key: set COPPER_API_KEY, or give the key on standard input.")
    return key.strip()


@app.command()
def backfill(account: AccountOption = None, json_: JsonOption = False) -> None:
    """Import everything from Xero and Copper. Ctrl-C stops watching; the run continues."""
    from worker.steps import Kind

    account_id, outcome = _work_off(Kind.BACKFILL, account, json_)
    _say_fetched("backfill", account_id, outcome, json_)


@app.command("catch-up")
def catch_up(account: AccountOption = None, json_: JsonOption = False) -> None:
    """Import what changed in Xero and Copper since the last time, as the scheduler does every 15 minutes."""
    from worker.steps import Kind

    account_id, outcome = _work_off(Kind.CATCH_UP, account, json_)
    _say_fetched("catch-up", account_id, outcome, json_)


@app.command()
def reconcile(
    account: AccountOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Report differences without fixing them.", metavar="")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Compare everything with Xero and Copper, report differences and fix them.

    Ctrl-C stops watching; the run continues.
    """
    from worker.steps import Kind

    account_id, outcome = _work_off(Kind.DRY_RUN if dry_run else Kind.RECONCILIATION, account, json_)
    _say_drift("dry run ok" if dry_run else "reconciliation ok", account_id, outcome, json_, repaired=not dry_run)


def _work_off(kind: Kind, account: int | None, quiet: bool, *, here: bool = False) -> tuple[int, Outcome]:
    from runtime import logs
    from terminal import progress

    logs.configure(kind.value, for_command=True)
    _take_interrupts()
    account_id = _account(account)
    try:
        return account_id, progress.work_off(account_id, kind, quiet=quiet, here=here)
    except KeyboardInterrupt:
        left = "Run the same command to continue." if here else "The run continues in the workers."
        typer.echo(f"Stopped watching. {left}", err=True)
        raise SystemExit(130) from None


def _say_fetched(what: str, account_id: int, outcome: Outcome, json_: bool) -> None:
    if json_:
        typer.echo(json.dumps({"account": account_id, "counts": outcome.counts}))
        return
    from terminal.words import counted_rows

    counts = ", ".join(counted_rows(number, name) for name, number in outcome.counts.items() if number)
    typer.echo(f"{what} ok: {counts or 'nothing new'}")


def _say_drift(verdict: str, account_id: int, outcome: Outcome, json_: bool, *, repaired: bool) -> None:
    if json_:
        told = {"account": account_id, "counts": outcome.counts, "drift": outcome.drift, "drifted": outcome.drifted}
        typer.echo(json.dumps(told))
        return
    from worker.overview import drift_words

    end = ", fixed" if outcome.drifted and repaired else ""
    differences = drift_words(outcome.drift) if outcome.drifted else "no differences"
    typer.echo(f"{verdict}: {differences}{end}")


@app.command()
def rebuild(account: AccountOption = None) -> None:
    """Recompute every row of the read model from the mirror."""
    from runtime import logs
    from terminal.words import counted
    from worker import projecting

    logs.configure("rebuild", for_command=True)
    account_id = _account(account)
    done = projecting.rebuild(account_id)
    typer.echo(f"rebuild ok: {counted(done.written, 'row')} written, {done.removed:,} removed")


@app.command()
def verify(
    account: AccountOption = None,
    against_source: Annotated[
        bool, typer.Option("--against-source", help="Also compare with Xero and Copper.", metavar="")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Check the read model against a rebuild, and email addresses against what was typed; exit 1 where they differ."""
    from terminal import verification
    from worker.renormalisation import count_stale

    if against_source:
        from worker.steps import Kind

        account_id, outcome = _work_off(Kind.DRY_RUN, account, json_, here=True)
        verdict = "verify failed" if outcome.drifted else "verify ok"
        _say_drift(verdict, account_id, outcome, json_, repaired=False)
        raise SystemExit(0 if not outcome.drifted else 1)
    account_id = _account(account)
    found = verification.settled(account_id)
    stale_addresses = count_stale(account_id)
    if json_:
        counts = {name: getattr(found, name) for name in ("missing", "stale", "extra", "balances", "marks")}
        counts["stale_addresses"] = stale_addresses
        typer.echo(json.dumps({"account": account_id, **counts, "examples": found.examples}))
    else:
        for line in verification.lines(found, stale_addresses):
            typer.echo(line)
    raise SystemExit(0 if found.clean and not stale_addresses else 1)


@app.command()
def status(
    account: Annotated[int | None, typer.Option("--account", help="Show this account only.", metavar="ID")] = None,
    json_: JsonOption = False,
) -> None:
    """Show what each account holds, what waits, and how its syncs went; exit 1 if anything needs attention."""
    from terminal import overview, times

    if account is not None:
        _account(account)
    accounts, egress_left = overview.account_overviews(account)
    if json_:
        typer.echo(json.dumps(overview.as_data(accounts, egress_left), default=times.json_value))
    else:
        overview.show(accounts, egress_left)
    raise SystemExit(0 if overview.are_well(accounts) else 1)


@app.command()
def explain(
    type: Annotated[str, typer.Argument(help="lead, person, company or opportunity", metavar="TYPE")],
    record: Annotated[int, typer.Argument(help="Copper ID.", min=0, metavar="ID")],
    account: AccountOption = None,
    json_: JsonOption = False,
) -> None:
    """Explain why a record shows its invoices: addresses, contacts, their invoices and possible matches."""
    from store.models import RecordType
    from terminal import explanation
    from worker.explain import explain as look

    if type not in list(RecordType):
        _refuse(f'invalid type "{type}": choose lead, person, company or opportunity.', "TYPE")
    found = look(_account(account), RecordType(type), record)
    if json_:
        from web.answers import match_view

        typer.echo(match_view(found).model_dump_json())
    if found.record is None:
        raise LookupError(f"{type.capitalize()} {record} hasn't been synced from Copper.")
    if not json_:
        for line in explanation.lines(found):
            typer.echo(line)


@keys_app.command("list")
def list_keys(account: AccountOption = None, json_: JsonOption = False) -> None:
    """List the account's API keys that are not revoked."""
    from store import access
    from store.database import transaction
    from terminal import times
    from terminal.words import counted

    account_id = _account(account)
    with transaction() as session:
        known = access.keys(session, account_id)
    if json_:
        typer.echo(json.dumps([vars(one) for one in known], default=times.json_value))
        return
    for one in known:
        used = times.to_the_minute(one.last_used_at)
        typer.echo(f"{one.id:>5}  {one.prefix}  {', '.join(one.scopes):<6} last used {used:<20}  {one.name}")
    typer.echo(counted(len(known), "key"))


@keys_app.command("make")
def make_key(
    name: Annotated[str, typer.Argument(help="Key name.", metavar="NAME")],
    scope: Annotated[str, typer.Option(help="read, admin or panel", metavar="SCOPE")] = "read",
    account: AccountOption = None,
) -> None:
    """Create a key and print it; it isn't shown again. With `--scope panel`: the URL to embed in Copper."""
    from store.access import MAX_KEY_NAME, SCOPES
    from worker import connect as connecting

    if scope not in SCOPES:
        _refuse(f'invalid scope "{scope}": choose {", ".join(SCOPES)}.', "--scope")
    name = name.strip()[:MAX_KEY_NAME]
    if not name:
        _refuse("enter a name so you can recognise this key later.", "NAME")
    made = connecting.make_key(_account(account), name, [scope])
    if scope == "panel":
        from web import links

        made = links.panel(made)
    typer.echo(made)


@keys_app.command("revoke")
def revoke_key(
    key: Annotated[int, typer.Argument(help="Key ID (see `patina keys list`).", metavar="ID")],
    account: AccountOption = None,
) -> None:
    """Revoke a key; it stops working with the next request."""
    from store import access, audit
    from store.database import transaction
    from worker.connect import COMMAND

    account_id = _account(account)
    with transaction() as session:
        name = access.revoke_key(session, account_id, key)
        if name is None:
            raise LookupError(f"Account {account_id} has no key {key}. Run `patina keys list` to list keys.")
        audit.note(session, account_id, COMMAND, "key.revoked", name)
    typer.echo(f"revoked: {name}")


@invite_app.callback()
def invite(
    context: typer.Context,
    days: Annotated[int, typer.Option(help="Days until the code expires.", min=1, max=90, metavar="NUMBER")] = 7,
    note: Annotated[str, typer.Option(help="Whom it is for; shown by `list`.", metavar="TEXT")] = "",
    json_: JsonOption = False,
) -> None:
    """Make a set-up code and print it; it isn't shown again (without a subcommand)."""
    if context.invoked_subcommand:
        return
    from terminal import invitations

    for line in invitations.create(note, days, as_json=json_):
        typer.echo(line)


@invite_app.command("list")
def list_invitations(json_: JsonOption = False) -> None:
    """List set-up codes and what became of them, newest first; 200 at most."""
    from terminal import invitations

    for line in invitations.listed(as_json=json_):
        typer.echo(line)


LARGEST_ID = 2**63 - 1


@invite_app.command("revoke")
def revoke_invitation(
    invitation: Annotated[
        int, typer.Argument(help="Its ID (see `patina invite list`).", min=0, max=LARGEST_ID, metavar="ID")
    ],
) -> None:
    """Revoke a set-up code that was not used."""
    from terminal import invitations

    typer.echo(invitations.revoke(invitation))


@sessions_app.command("list")
def list_sessions(account: AccountOption = None, json_: JsonOption = False) -> None:
    """List the browsers that are signed in to the account, the last used first."""
    from store import browser_sessions
    from store.database import transaction
    from terminal import sessions, times

    account_id = _account(account)
    with transaction() as session:
        known = browser_sessions.open_sessions(session, account_id, limit=sessions.MAX_LISTED)
    if json_:
        typer.echo(json.dumps([vars(one) for one in known], default=times.json_value))
        return
    for line in sessions.lines(known):
        typer.echo(line)


@sessions_app.command("end")
def end_sessions(
    ids: Annotated[
        list[int] | None, typer.Argument(help="session IDs; none with --all", min=0, max=LARGEST_ID, show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="all sessions of the account")] = False,
    account: AccountOption = None,
) -> None:
    """End sessions; they stop working with the next request."""
    from terminal import sessions
    from terminal.words import counted

    if bool(ids) == everything:
        _refuse("name session IDs (see `patina sessions list`), or use --all.", "ID")
    account_id = _account(account)
    count, missing = sessions.end(account_id, ids)
    typer.echo(f"ended: {counted(count, 'session')}")
    if missing:
        raise LookupError(f"Account {account_id} has no session {', '.join(map(str, missing))}.")


EventsArgument = Annotated[
    list[int] | None, typer.Argument(help="event IDs; none with --all", min=0, max=LARGEST_ID, show_default=False)
]
AllOption = Annotated[bool, typer.Option("--all", help="all of the failed events")]
InstallationOption = Annotated[
    bool, typer.Option("--installation", help="events of no account, such as bodies that could not be read")
]


def _inbox_of(account: int | None, installation: bool) -> int:
    from store.inbox import NOBODY

    if installation and account:
        _fail("Give --account or --installation, not both.")
    return NOBODY if installation or account == NOBODY else _account(account)


def _chosen_events(events: list[int] | None, everything: bool) -> list[int] | None:
    if bool(events) == everything:
        _fail("Give event IDs (see `patina inbox list`), or --all.")
    return None if everything else events


@inbox_app.command("list")
def list_events(
    account: AccountOption = None, installation: InstallationOption = False, json_: JsonOption = False
) -> None:
    """List failed events, newest first; 200 at most."""
    from terminal import inbox

    for line in inbox.list_failed(_inbox_of(account, installation), as_json=json_):
        typer.echo(line)


@inbox_app.command("show")
def show_event(
    event: Annotated[int, typer.Argument(help="its ID", min=0, max=LARGEST_ID)],
    account: AccountOption = None,
    installation: InstallationOption = False,
    body: Annotated[bool, typer.Option("--body", help="only the body of what could not be read")] = False,
) -> None:
    """Show one event in any state."""
    from terminal import inbox

    account_id = _inbox_of(account, installation)
    if body:
        sys.stdout.buffer.write(inbox.event_body(account_id, event))
        return
    for line in inbox.show_event(account_id, event):
        typer.echo(line)


@inbox_app.command("replay")
def replay_events(
    events: EventsArgument = None,
    everything: AllOption = False,
    account: AccountOption = None,
    installation: InstallationOption = False,
) -> None:
    """Retry failed events, from their first attempt."""
    from terminal import inbox

    chosen = _chosen_events(events, everything)
    _end_inbox(inbox.retry(_inbox_of(account, installation), chosen))


@inbox_app.command("dismiss")
def dismiss_events(
    events: EventsArgument = None,
    everything: AllOption = False,
    account: AccountOption = None,
    installation: InstallationOption = False,
) -> None:
    """Dismiss failed events."""
    from terminal import inbox

    chosen = _chosen_events(events, everything)
    _end_inbox(inbox.dismiss(_inbox_of(account, installation), chosen))


def _end_inbox(outcome: InboxOutcome) -> None:
    for line in outcome.lines:
        typer.echo(line)
    raise SystemExit(0 if outcome.ok else 1)


@app.command()
def doctor(json_: JsonOption = False) -> None:
    """Check settings, services, migrations, clocks and connections; say what is wrong and what to do."""
    from runtime import logs
    from runtime.settings import SettingsError
    from terminal import doctor as diagnosis

    with suppress(SettingsError):
        logs.configure("doctor", for_command=True)
    checks = diagnosis.examine()
    if json_:
        typer.echo(json.dumps([check.as_data() for check in checks]))
    else:
        for line in diagnosis.lines(checks):
            typer.echo(line)
    raise SystemExit(0 if all(check.well for check in checks) else 1)


@app.command("rotate-keys")
def rotate_keys() -> None:
    """Re-encrypt every stored secret with the newest key of ENCRYPTION_KEYS; then older keys can be removed."""
    from store import audit, rotation
    from store.database import transaction
    from store.secrets import SealBrokenError
    from terminal.words import counted
    from worker.connect import COMMAND

    done = 0
    for table in rotation.READ:
        try:
            with transaction() as session:
                rotated = rotation.rotate(session, table)
                audit.note(session, audit.INSTALLATION, COMMAND, "secrets.rotated", f"{table}: {rotated}")
                done += rotated
        except SealBrokenError as error:
            _fail(f"{table}: {error}")
    typer.echo(f"rotate-keys ok: {counted(done, 'secret')} encrypted with the newest key")


@app.command()
def forget(
    email: Annotated[
        str | None, typer.Option(help="The person's email address; asked for if nothing is given.", metavar="EMAIL")
    ] = None,
    record: Annotated[
        str | None, typer.Option(help="A Copper record of theirs, such as person/9600073.", metavar="TYPE/ID")
    ] = None,
    contact: Annotated[str | None, typer.Option(help="A Xero contact of theirs, by its ID.", metavar="ID")] = None,
    account: AccountOption = None,
) -> None:
    """Erase a person, their addresses and the names they stand by, and list what else carries the name."""
    from runtime import logs
    from terminal import forgetting

    logs.configure("forget", for_command=True)
    if sum(given is not None for given in (email, record, contact)) > 1:
        _refuse("give one of --email, --record and --contact.")
    if email is record is contact is None:
        email = typer.prompt("Email address")
    try:
        person = forgetting.read(email=email, record=record, contact=contact)
    except forgetting.UnreadableOptionError as error:
        _refuse(str(error), error.option)
    for line in forgetting.forget(_account(account), person):
        typer.echo(line)


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="End after the tour.", metavar="")] = False,
    size: Annotated[int, typer.Option(help="Companies in the sandbox.", min=5, max=5000, metavar="NUMBER")] = 40,
) -> None:
    """Run everything on this machine with a sandbox, and tour three changes."""
    from terminal import demo as tour

    tour.run(once=once, size=size)


@sandbox_app.callback()
def sandbox(
    context: typer.Context,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.", metavar="PORT")] = SANDBOX_PORT,
    seed: Annotated[int, typer.Option(help="The same seed and size give the same data.", metavar="NUMBER")] = 1,
    size: Annotated[int, typer.Option(help="Companies; 0 starts empty.", min=0, metavar="NUMBER")] = 40,
    state: Annotated[Path | None, typer.Option(help="File that keeps the data between starts.", metavar="FILE")] = None,
    limits: Annotated[bool, typer.Option(help="Enforce the vendors' call limits.", metavar="")] = True,
) -> None:
    """Run Xero and Copper on this machine (without a subcommand)."""
    if context.invoked_subcommand:
        context.obj = f"http://127.0.0.1:{port}"
        return
    from sandbox import server

    base = f"http://127.0.0.1:{port}"
    typer.echo(f"Sandbox on {base}. For a client of Xero and Copper:")
    for name, value in server.environment(base).items():
        typer.echo(f"  export {name}={value}")
    typer.echo(f"Keys, data and counts: {base}/control/state. To act as a user: patina sandbox act")
    sys.stdout.flush()
    server.serve(host="127.0.0.1", port=port, seed=seed, size=size, state=state, limits=limits)


@sandbox_app.command()
def act(
    context: typer.Context,
    action: Annotated[str | None, typer.Argument(help="An action; omit to list all.", metavar="ACTION")] = None,
    values: Annotated[
        list[str] | None, typer.Argument(help="argument=value, as JSON where it is JSON.", metavar="ARGUMENT=VALUE")
    ] = None,
) -> None:
    """Act as a user of Xero or Copper: pay-invoice invoice=INV-0058 amount=40."""
    if action is None:
        for name, told in _ask_sandbox(context, "GET", "actions").json().items():
            given = [f"{one}=…" for one in told["required"]]
            given += [f"[{one}=…]" for one in told["arguments"] if one not in told["required"]]
            typer.echo(f"{name.replace('_', '-')} {' '.join(given)}\n    {told['does']}")
        return
    given_values = _arguments(values or [])
    if isinstance(given_values.get("invoice"), str):
        given_values["invoice"] = _invoice_id(context, given_values["invoice"])
    answer = _ask_sandbox(context, "POST", f"act/{quote(action, safe='')}", json=given_values)
    if answer.status_code == 404:
        _refuse(f'unknown action "{action}"; run `patina sandbox act` to list actions.', "ACTION")
    if answer.status_code >= 400:
        _fail(f"{action}: {answer.json()['error']}")
    typer.echo(json.dumps(answer.json()))


@sandbox_app.command()
def faults(
    context: typer.Context,
    settings: Annotated[
        str,
        typer.Argument(help='JSON, such as {"webhooks":[{"vendor":"copper","lose":0.5}]}.', metavar="JSON"),
    ] = "{}",
) -> None:
    """Set the sandbox's faults; without an argument, turn all of them off."""
    try:
        json.loads(settings)
    except ValueError as error:
        _refuse(f"not valid JSON ({error}).", "JSON")
    headers = {"Content-Type": "application/json"}
    answer = _ask_sandbox(context, "PUT", "faults", content=settings, headers=headers)
    if answer.status_code >= 400:
        _fail(f"faults: {answer.json()['error']}")
    typer.echo("faults ok")


def _invoice_id(context: typer.Context, invoice: str) -> str:
    """The ID of an invoice that is given by its ID or, as people see it, by its number."""
    with suppress(ValueError):
        return str(UUID(invoice))
    ids = [
        known["id"]
        for organisation in _ask_sandbox(context, "GET", "state").json()["organisations"]
        for known in _ask_sandbox(context, "GET", f"world?tenant={organisation['tenant']}").json()["invoices"]
        if known["number"] == invoice
    ]
    if not ids:
        _fail(f"The sandbox has no invoice {invoice}.")
    if len(ids) > 1:
        _fail(f"{len(ids)} organisations have an invoice {invoice}. Give its ID: {' or '.join(ids)}.")
    return str(ids[0])


def _ask_sandbox(context: typer.Context, method: str, path: str, **more: Any) -> httpx.Response:
    import httpx

    base = context.obj or f"http://127.0.0.1:{SANDBOX_PORT}"
    try:
        return httpx.request(method, f"{base}/control/{path}", trust_env=False, timeout=30, **more)
    except httpx.ConnectError:
        where = base.removeprefix("http://")
        _fail(f"No sandbox on {where}. Start one with `patina sandbox`, or give --port.")
    except httpx.HTTPError as error:
        _fail(f"The sandbox on {base.removeprefix('http://')} didn't answer ({type(error).__name__}).")


def _arguments(values: list[str]) -> dict[str, Any]:
    """`name=value` words as JSON values, or as text where they are none."""
    given: dict[str, Any] = {}
    for word in values:
        name, equals, value = word.partition("=")
        if not equals:
            _refuse(f'"{word}": write it as name=value.', "ARGUMENT=VALUE")
        try:
            given[name.replace("-", "_")] = json.loads(value)
        except ValueError:
            given[name.replace("-", "_")] = value
    return given


if __name__ == "__main__":
    main()
