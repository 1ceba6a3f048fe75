"""Breaks of what operators rely on: health, the command line, the embedded servers."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

HEALTH = (
    mutant(
        "an account that was never imported is well",
        "worker/health.py",
        "if connection.seen_to is None and connection.source_id not in importing:",
        "if False:",
        "test_health.py::test_an_account_whose_set_up_stopped_before_the_import_is_not_well",
    ),
    mutant(
        "an account without an organisation is well",
        "worker/health.py",
        "if not known - {COPPER}:",
        "if False:",
        "test_health.py::test_an_account_without_an_organisation_is_not_well",
    ),
    mutant(
        "an account whose worker is down is well",
        "worker/health.py",
        "        if is_process_down(process, heartbeats):\n            yield",
        "        if False:\n            yield",
        "test_health.py::test_an_account_whose_processes_are_down_is_not_well",
    ),
    mutant(
        "a source that missed its catch-ups is up to date",
        "worker/health.py",
        "MAX_MISSED_CATCH_UPS = 4",
        "MAX_MISSED_CATCH_UPS = 4_000_000",
        "test_health.py::test_a_source_that_missed_its_catch_ups_is_out_of_date",
    ),
    mutant(
        "quarantined events are nobody's trouble",
        "worker/health.py",
        "if state.quarantined:",
        "if False:",
        "test_operator.py::test_an_accounts_failed_event_is_no_longer_well",
    ),
    mutant(
        "a run of a disconnected organisation is shown as under way",
        "worker/overview.py",
        'if run.state == "running" and run.organisation_id in connected)',
        'if run.state == "running")',
        "test_health.py::test_a_run_of_a_disconnected_organisation_is_not_shown_as_running",
    ),
)

COMMANDS = (
    mutant(
        "wrong usage ends like anything else that fails",
        "cli.py",
        "raise typer.BadParameter(text, param_hint=option)",
        "raise LookupError(text)",
        "test_cli.py::test_wrong_usage_ends_with_2_and_what_is_missing_with_1",
    ),
    mutant(
        "a command that failed ends with 0",
        "cli.py",
        "    typer.echo(text, err=True)\n    raise SystemExit(1)",
        "    typer.echo(text, err=True)\n    raise SystemExit(0)",
        "test_cli.py::test_wrong_usage_ends_with_2_and_what_is_missing_with_1",
    ),
    mutant(
        "brackets in an account's name are taken for markup",
        "terminal/overview.py",
        'console.print(Text.assemble((account.name, "bold"), f" (account {account.id})"))',
        'console.print(f"[bold]{account.name}[/bold] (account {account.id})")',
        "test_cli.py::test_names_are_printed_as_they_are",
    ),
    mutant(
        "brackets in an organisation's name are taken for markup in progress bars",
        "terminal/progress.py",
        "name = escape(self.names[run.organisation_id][:17])",
        "name = self.names[run.organisation_id][:17]",
        "test_cli.py::test_names_are_printed_as_they_are",
    ),
    mutant(
        "a body on a terminal can steer it",
        "terminal/inbox.py",
        'each if each.isprintable() or each == "\\n" else ascii(each)[1:-1] for each in text',
        "each for each in text",
        "test_operator.py::test_a_body_on_a_terminal_cannot_steer_it",
    ),
)

SERVERS = (
    mutant(
        "an embedded server that root starts keeps capabilities",
        "runtime/servers.py",
        '"--ambient-caps=-all", "--bounding-set=-all", *words]',
        '"--ambient-caps=-all", *words]',
        "test_embedded.py::test_a_server_that_root_starts_has_no_capability_and_an_id_of_its_own",
    ),
    mutant(
        "everybody may enter an embedded server's socket folder",
        "runtime/servers.py",
        "        folder.chmod(0o700)",
        "        pass",
        "test_embedded.py::test_a_private_folder_that_is_open_is_closed_and_somebody_elses_is_refused",
    ),
    mutant(
        "somebody else's folder is used for an embedded server",
        "runtime/servers.py",
        "if not stat.S_ISDIR(status.st_mode) or status.st_uid not in owners:",
        "if not stat.S_ISDIR(status.st_mode):",
        "test_embedded.py::test_a_private_folder_that_is_open_is_closed_and_somebody_elses_is_refused",
    ),
    mutant(
        "everybody on the machine may use the embedded database",
        "runtime/servers.py",
        'f"local all {role} peer map=owner"',
        'f"local all {role} trust"',
        "test_embedded.py::test_only_whoever_runs_patina_reaches_the_embedded_postgresql",
    ),
    mutant(
        "the data of an embedded server does not come home",
        "runtime/servers.py",
        '                move(self.data, self.home / "data", os.geteuid())',
        "                pass",
        "test_embedded.py::test_data_survives_and_a_very_long_path_works",
    ),
)
