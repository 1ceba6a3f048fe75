"""The `patina` command."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
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
    help="Xero and Copper on this machine, and acting as their users.", invoke_without_command=True
)
app.add_typer(sandbox_app, name="sandbox")
keys_app = typer.Typer(help="API keys of an account: made, listed, revoked.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
inbox_app = typer.Typer(help="Events that wait for a person: listed, shown, replayed, dismissed.", no_args_is_help=True)
app.add_typer(inbox_app, name="inbox")
SANDBOX_PORT = 8701
AccountOption = Annotated[
    int | None, typer.Option("--account", help="the account's id; needed only when there are several")
]
JsonOption = Annotated[bool, typer.Option("--json", help="for machines")]


@app.callback()
def common(
    embedded: Annotated[
        bool, typer.Option("--embedded", help="use PostgreSQL and Redis of this project's own, to try Patina out")
    ] = False,
) -> None:
    """Options of every command."""
    if embedded:
        from runtime.settings import override

        override({"EMBEDDED_SERVICES": "true"})


def main() -> None:
    """Run the command; what goes wrong for a known reason is said in one line, with exit code 1."""
    from runtime.embedded import EmbeddedServiceError
    from runtime.settings import SettingsError

    try:
        app()
    except (SettingsError, EmbeddedServiceError) as error:
        _fail(str(error))
    except Exception as error:
        if os.environ.get("LOG_LEVEL") == "debug" or not _is_known(error):
            raise
        _fail(f"{error}")


def _is_known(error: Exception) -> bool:
    from store.database import UNAVAILABLE
    from store.secrets import SealBrokenError
    from terminal.demo import DemoError
    from worker.errors import VendorError

    return isinstance(error, (DemoError, SealBrokenError, VendorError, LookupError, OSError, *UNAVAILABLE))


def _fail(said: str) -> None:
    typer.echo(said, err=True)
    raise SystemExit(1)


def _account(chosen: int | None) -> int:
    from store import accounts
    from store.database import transaction

    with transaction() as session:
        known = accounts.accounts(session)
    if chosen is not None and chosen in {one.id for one in known}:
        return chosen
    if chosen is not None:
        raise LookupError(f"There is no account {chosen}. `patina status` lists them.")
    if len(known) == 1:
        return known[0].id
    if not known:
        raise LookupError("No account is connected yet: run `patina connect`.")
    raise LookupError("There are several accounts: choose one with --account (`patina status` lists them).")


def _ready() -> None:
    """Refuse to serve on a database that lacks migrations."""
    from runtime.settings import SettingsError
    from store.database import at_head, let_go

    if not at_head():
        raise SettingsError("The database is not at the latest migration: run `patina migrate` first.")
    let_go()


@app.command()
def migrate(revision: Annotated[str, typer.Argument(help="head, base, -1 or a revision")] = "head") -> None:
    """Bring the database's schema up to date."""
    from store.database import migrate as run

    run(revision)
    typer.echo(f"schema at {revision}")


@app.command()
def web() -> None:
    """Serve the webhooks' receivers and the read API."""
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
        h11_max_incomplete_event_size=64 * 1024,
    ).run()


@app.command()
def worker() -> None:
    """Work on events, backfills and the projection."""
    from runtime.settings import settings

    settings().need("xero_client_id", "xero_client_secret")
    _ready()
    if port := settings().worker_metrics_port:
        _share_metrics(settings().metrics_host, port)
    from dramatiq.cli import main as run
    from dramatiq.cli import make_argument_parser

    # A message taken ahead waits for one process's threads while another's may be free.
    os.environ["dramatiq_queue_prefetch"] = "1"  # noqa: SIM112
    words = ["worker.jobs", "--processes", str(settings().worker_processes)]
    words += ["--threads", str(settings().worker_threads), "--worker-shutdown-timeout", "25000"]
    sys.exit(run(make_argument_parser().parse_args(words)))


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
    """Start what is due, and find what was left behind."""
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
        str, typer.Option(envvar="COPPER_EMAIL", prompt=True, help="address of the Copper key's owner")
    ],
    copper_key: Annotated[
        str, typer.Option(envvar="COPPER_API_KEY", prompt=True, hide_input=True, help="Copper API key")
    ],
    port: Annotated[int, typer.Option(help="local port that Xero sends the browser back to")] = 8702,
    auto: Annotated[bool, typer.Option(help="no browser: for a Xero that consents at once")] = False,
    json_: JsonOption = False,
) -> None:
    """Connect a Copper account and its Xero organisations; prints an API key for reading."""
    from runtime import logs
    from worker import connect as connecting
    from worker.xero import loopback

    logs.configure("connect")
    account_id = connecting.connect_copper(copper_key, copper_email)
    token = loopback.authorise(port, auto=auto, say=lambda text: typer.echo(text, err=True))
    organisations = connecting.connect_xero(account_id, token)
    key = connecting.make_key(account_id, "made by patina connect")
    names = [one.name for one in organisations]
    if json_:
        typer.echo(json.dumps({"account": account_id, "organisations": names, "api_key": key}))
        return
    typer.echo(f"account {account_id} is connected to {', '.join(names)}")
    typer.echo(f"API key, shown this once: {key}")
    typer.echo("next: `patina backfill`")


@app.command()
def backfill(account: AccountOption = None, json_: JsonOption = False) -> None:
    """Fetch everything both vendors hold, page by page. Ctrl-C leaves a run that goes on."""
    from worker.steps import Kind

    account_id, outcome = _work_off(Kind.BACKFILL, account, json_)
    _say_fetched("backfill", account_id, outcome, json_)


@app.command("catch-up")
def catch_up(account: AccountOption = None, json_: JsonOption = False) -> None:
    """Fetch what both vendors changed since the last time, as the scheduler does every quarter of an hour."""
    from worker.steps import Kind

    account_id, outcome = _work_off(Kind.CATCH_UP, account, json_)
    _say_fetched("catch-up", account_id, outcome, json_)


@app.command()
def reconcile(
    account: AccountOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="report the drift and repair nothing")] = False,
    json_: JsonOption = False,
) -> None:
    """Hold everything against both vendors, report the drift and repair it. Ctrl-C leaves a run that goes on."""
    from worker.steps import Kind

    account_id, outcome = _work_off(Kind.DRY_RUN if dry_run else Kind.RECONCILIATION, account, json_)
    _say_drift("dry run" if dry_run else "reconciliation", account_id, outcome, json_, repaired=not dry_run)


def _work_off(kind: Kind, account: int | None, quiet: bool, *, here: bool = False) -> tuple[int, Outcome]:
    from runtime import logs
    from terminal import progress

    logs.configure(kind.value)
    account_id = _account(account)
    try:
        return account_id, progress.work_off(account_id, kind, quiet=quiet, here=here)
    except KeyboardInterrupt:
        left = "the same command takes it up again" if here else "the workers go on with it"
        typer.echo(f"stopped watching: the run stays, and {left}", err=True)
        raise SystemExit(130) from None


def _say_fetched(what: str, account_id: int, outcome: Outcome, json_: bool) -> None:
    if json_:
        typer.echo(json.dumps({"account": account_id, "counts": outcome.counts}))
        return
    said = ", ".join(f"{number} {name}" for name, number in outcome.counts.items() if number)
    typer.echo(f"{what} ok: {said or 'nothing to fetch'}")


def _say_drift(what: str, account_id: int, outcome: Outcome, json_: bool, *, repaired: bool) -> None:
    if json_:
        told = {"account": account_id, "counts": outcome.counts, "drift": outcome.drift, "drifted": outcome.drifted}
        typer.echo(json.dumps(told))
        return
    from worker.overview import drift_words

    end = ", repaired" if outcome.drifted and repaired else ""
    typer.echo(f"{what} ok: drift {drift_words(outcome.drift)}{end}")


@app.command()
def rebuild(account: AccountOption = None) -> None:
    """Compute every row of the read model again from the mirror."""
    from runtime import logs
    from worker import projecting

    logs.configure("rebuild")
    account_id = _account(account)
    done = projecting.rebuild(account_id)
    typer.echo(f"rebuild ok: {done.written} rows written, {done.removed} removed")


@app.command()
def verify(
    account: AccountOption = None,
    against_source: Annotated[
        bool, typer.Option("--against-source", help="hold the mirror against both vendors too, call by call")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Hold the read model against a rebuild; exit 1 when a row is missing, stale or extra."""
    from terminal import verification

    if against_source:
        from worker.steps import Kind

        account_id, outcome = _work_off(Kind.DRY_RUN, account, json_, here=True)
        _say_drift("verify", account_id, outcome, json_, repaired=False)
        raise SystemExit(0 if not outcome.drifted else 1)
    account_id = _account(account)
    found = verification.settled(account_id)
    if json_:
        counts = {name: getattr(found, name) for name in ("missing", "stale", "extra", "balances", "marks")}
        typer.echo(json.dumps({"account": account_id, **counts, "examples": found.examples}))
    else:
        for line in verification.lines(found):
            typer.echo(line)
    raise SystemExit(0 if found.clean else 1)


@app.command()
def status(json_: JsonOption = False) -> None:
    """Each account: what it holds, what waits, and how its runs went. Exit 1 when something needs a person."""
    from terminal import overview

    if json_:
        told = overview.everything()
        typer.echo(json.dumps(told, default=str))
        well = all(one["well"] for one in told["accounts"])
    else:
        well = overview.show()
    raise SystemExit(0 if well else 1)


@app.command()
def explain(
    type: Annotated[str, typer.Argument(help="lead, person, company or opportunity")],
    record: Annotated[int, typer.Argument(help="its number in Copper", min=0)],
    account: AccountOption = None,
    json_: JsonOption = False,
) -> None:
    """Why a record shows what it shows: addresses, contacts, what those bring, and what nearly matches."""
    from store.models import RecordType
    from terminal import explanation
    from worker.explain import explain as look

    if type not in list(RecordType):
        _fail(f"{type}: a record is a {', '.join(RecordType)}")
    found = look(_account(account), RecordType(type), record)
    if json_:
        from web.answers import match_view

        typer.echo(match_view(found).model_dump_json())
    elif found.record is None:
        raise LookupError(f"Copper has told nothing of {type} {record} yet.")
    else:
        for line in explanation.lines(found):
            typer.echo(line)


@keys_app.command("list")
def list_keys(account: AccountOption = None, json_: JsonOption = False) -> None:
    """The account's keys that are not revoked."""
    from store import access
    from store.database import transaction

    account_id = _account(account)
    with transaction() as session:
        known = access.keys(session, account_id)
    if json_:
        typer.echo(json.dumps([vars(one) for one in known], default=str))
        return
    for one in known:
        used = f"{one.last_used_at:%Y-%m-%d %H:%M}" if one.last_used_at else "never"
        typer.echo(f"{one.id:>5}  {one.prefix}  {', '.join(one.scopes):<6} last used {used:<16}  {one.name}")
    typer.echo(f"{len(known)} keys")


@keys_app.command("make")
def make_key(
    name: Annotated[str, typer.Argument(help="to know it by")],
    scope: Annotated[str, typer.Option(help="read, admin or panel")] = "read",
    account: AccountOption = None,
) -> None:
    """Make a key; it is printed this once. With `--scope panel`: the address to embed in Copper."""
    from store.access import SCOPES
    from worker import connect as connecting

    if scope not in SCOPES:
        _fail(f"--scope is one of {', '.join(SCOPES)}")
    made = connecting.make_key(_account(account), name, [scope])
    if scope == "panel":
        from web import links

        made = links.panel(made)
    typer.echo(made)


@keys_app.command("revoke")
def revoke_key(
    key: Annotated[int, typer.Argument(help="its number in the list")], account: AccountOption = None
) -> None:
    """Revoke a key, from the next request on."""
    from store import access, audit
    from store.database import transaction
    from worker.connect import COMMAND

    account_id = _account(account)
    with transaction() as session:
        name = access.revoke_key(session, account_id, key)
        if name is None:
            raise LookupError(f"Account {account_id} has no key {key}. `patina keys list` shows them.")
        audit.note(session, account_id, COMMAND, "key.revoked", name)
    typer.echo(f"revoked: {name}")


EventsArgument = Annotated[list[int] | None, typer.Argument(help="their numbers; none with --all")]
AllOption = Annotated[bool, typer.Option("--all", help="all of the account's quarantined events")]


@inbox_app.command("list")
def list_events(account: AccountOption = None, json_: JsonOption = False) -> None:
    """The account's quarantined events, the latest first; 200 at most."""
    from store import inbox
    from store.database import bound

    account_id = _account(account)
    with bound(account_id) as session:
        found = inbox.quarantined(session, account_id, 200)
        total = inbox.quarantined_count(session, account_id)
    if json_:
        typer.echo(json.dumps([vars(one) for one in found], default=str))
        return
    for one in found:
        what = f"{one.source} {one.kind.lower()} {one.resource_id}"[:40]
        typer.echo(f"{one.id:>9}  {one.received_at:%Y-%m-%d %H:%M}  {what:<40}  {(one.error or '')[:60]}")
    typer.echo(f"{total} quarantined")


@inbox_app.command("show")
def show_event(event: Annotated[int, typer.Argument(help="its number")], account: AccountOption = None) -> None:
    """One event, whatever became of it."""
    from store import inbox
    from store.database import bound

    account_id = _account(account)
    with bound(account_id) as session:
        found = inbox.shown(session, account_id, event)
    if found is None:
        raise LookupError(f"Account {account_id} has no event {event}.")
    for name, value in found.items():
        typer.echo(f"{name:<15} {value if value is not None else ''}")


def _chosen_events(events: list[int] | None, everything: bool) -> list[int] | None:
    if bool(events) == everything:
        _fail("Name events by their numbers (`patina inbox list`), or all of them with --all.")
    return None if everything else events


@inbox_app.command("replay")
def replay_events(events: EventsArgument = None, everything: AllOption = False, account: AccountOption = None) -> None:
    """Apply quarantined events again, from their first try."""
    from store import audit, inbox
    from store.database import bound
    from worker import jobs
    from worker.connect import COMMAND

    chosen, account_id = _chosen_events(events, everything), _account(account)
    with bound(account_id) as session:
        count, sources = inbox.replay(session, account_id, chosen)
        if count:
            audit.note(session, account_id, COMMAND, "events.replayed", f"{count} events")
    for source in sources:
        jobs.wake_source(source)
    typer.echo(f"replay ok: {count} events are tried again")


@inbox_app.command("dismiss")
def dismiss_events(events: EventsArgument = None, everything: AllOption = False, account: AccountOption = None) -> None:
    """Let quarantined events be."""
    from store import audit, inbox
    from store.database import bound
    from worker.connect import COMMAND

    chosen, account_id = _chosen_events(events, everything), _account(account)
    with bound(account_id) as session:
        count = inbox.dismiss(session, account_id, chosen)
        if count:
            audit.note(session, account_id, COMMAND, "events.dismissed", f"{count} events")
    typer.echo(f"dismiss ok: {count} events")


@app.command()
def doctor(json_: JsonOption = False) -> None:
    """Look at configuration, services, migrations, clocks and connections; says what is wrong, and what to do."""
    from runtime import logs
    from terminal import doctor as looking

    logs.configure("doctor")
    found = looking.examine()
    if json_:
        typer.echo(json.dumps([vars(one) for one in found]))
    else:
        for line in looking.lines(found):
            typer.echo(line)
    raise SystemExit(0 if all(one.well for one in found) else 1)


@app.command("rotate-keys")
def rotate_keys() -> None:
    """Seal every stored secret under the newest key of ENCRYPTION_KEYS. Older keys may be dropped afterwards."""
    from store import rotation
    from store.database import transaction
    from store.secrets import SealBrokenError

    done = 0
    for table in rotation.READ:
        try:
            with transaction() as session:
                done += rotation.rotate(session, table)
        except SealBrokenError as error:
            _fail(f"{table}: {error}")
    typer.echo(f"rotate-keys ok: {done} secrets are under the newest key")


@app.command()
def forget(
    email: Annotated[str, typer.Option(prompt=True, help="the person's address")], account: AccountOption = None
) -> None:
    """Erase a person's address from mirror and read model, and say what was erased."""
    from runtime import logs
    from store import audit, erasure
    from store.database import transaction
    from worker import projecting
    from worker.addresses import normalised
    from worker.connect import COMMAND

    logs.configure("forget")
    account_id, plain = _account(account), normalised(email)
    if plain is None:
        _fail("--email: this is no e-mail address")
    with transaction() as session:
        gone = erasure.erase(session, account_id, str(plain))
        audit.note(
            session, account_id, COMMAND, "person.forgotten", f"{gone.records} records, {gone.contacts} contacts"
        )
    rows = projecting.project(account_id)
    typer.echo(
        f"erased from {gone.records} records, {gone.contacts} contacts, {gone.bodies} kept bodies; {rows} rows changed"
    )
    typer.echo("Erase it in Copper and Xero too: while they hold it, the next look there brings it back.")


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="end after the tour")] = False,
    size: Annotated[int, typer.Option(help="companies in the sandbox", min=5, max=5000)] = 40,
) -> None:
    """See it work: sandbox, web, worker and scheduler on this machine, and a tour of three changes."""
    from terminal import demo as tour

    tour.run(once=once, size=size)


@sandbox_app.callback()
def sandbox(
    context: typer.Context,
    port: Annotated[int, typer.Option(help="port on 127.0.0.1")] = SANDBOX_PORT,
    seed: Annotated[int, typer.Option(help="same seed and size, same data")] = 1,
    size: Annotated[int, typer.Option(help="companies; 0 starts empty", min=0)] = 40,
    state: Annotated[Path | None, typer.Option(help="file that keeps the data between starts")] = None,
    limits: Annotated[bool, typer.Option(help="enforce the vendors' call limits")] = True,
) -> None:
    """Run Xero and Copper on this machine (without a sub-command)."""
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
    action: Annotated[str | None, typer.Argument(help="an action; without one, all are listed")] = None,
    values: Annotated[list[str] | None, typer.Argument(help="argument=value, JSON where it is JSON")] = None,
) -> None:
    """Do one thing as a user of Xero or Copper would: pay-invoice invoice=… amount=40."""
    import httpx

    base = context.obj or f"http://127.0.0.1:{SANDBOX_PORT}"
    if action is None:
        for name, told in httpx.get(f"{base}/control/actions").json().items():
            given = [f"{one}=…" for one in told["required"]]
            given += [f"[{one}=…]" for one in told["arguments"] if one not in told["required"]]
            typer.echo(f"{name.replace('_', '-')} {' '.join(given)}\n    {told['does']}")
        return
    answer = httpx.post(f"{base}/control/act/{action}", json=_arguments(values or []))
    if answer.status_code >= 400:
        _fail(f"{action}: {answer.json()['error']}")
    typer.echo(json.dumps(answer.json()))


@sandbox_app.command()
def faults(
    context: typer.Context,
    settings: Annotated[str, typer.Argument(help='JSON, e.g. {"webhooks":[{"vendor":"copper","lose":0.5}]}')] = "{}",
) -> None:
    """Set the faults that are on; without an argument, end them all."""
    import httpx

    base = context.obj or f"http://127.0.0.1:{SANDBOX_PORT}"
    answer = httpx.put(f"{base}/control/faults", content=settings)
    if answer.status_code >= 400:
        _fail(f"faults: {answer.json()['error']}")
    typer.echo("faults are set")


def _arguments(values: list[str]) -> dict[str, Any]:
    """`name=value` words as JSON values, or as text where they are none."""
    given: dict[str, Any] = {}
    for word in values:
        name, equals, value = word.partition("=")
        if not equals:
            _fail(f"{word}: write it as name=value")
        try:
            given[name.replace("-", "_")] = json.loads(value)
        except ValueError:
            given[name.replace("-", "_")] = value
    return given


if __name__ == "__main__":
    main()
