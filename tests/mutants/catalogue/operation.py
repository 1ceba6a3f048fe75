"""Mutants of operations: health, the command line, the embedded servers."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

HEALTH = (
    mutant(
        "an account that was never imported is healthy",
        "services/health.py",
        "if connection.synced_through is None and connection.organisation_id not in importing:",
        "if False:",
        "integration/test_health.py::test_an_account_whose_set_up_stopped_before_the_import_is_unhealthy",
    ),
    mutant(
        "an account without an organisation is healthy",
        "services/health.py",
        "if not organisation_ids - {COPPER}:",
        "if False:",
        "integration/test_health.py::test_an_account_without_an_organisation_is_unhealthy",
    ),
    mutant(
        "an account is healthy while the worker is down",
        "services/health.py",
        "        if is_process_down(process, heartbeats):\n            yield",
        "        if False:\n            yield",
        "integration/test_health.py::test_an_account_is_unhealthy_while_processes_are_down",
    ),
    mutant(
        "a source that missed its catch-ups is up to date",
        "services/health.py",
        "MAX_MISSED_CATCH_UPS = 4",
        "MAX_MISSED_CATCH_UPS = 4_000_000",
        "integration/test_health.py::test_a_source_that_missed_its_catch_up_runs_is_out_of_date",
    ),
    mutant(
        "quarantined events are not a finding",
        "services/health.py",
        "if snapshot.quarantined_events:",
        "if False:",
        "integration/test_operator_commands.py::test_a_failed_event_makes_an_account_unhealthy",
    ),
    mutant(
        "a run of a disconnected organisation is shown as running",
        "services/account_status.py",
        "if run.state == RunState.RUNNING and run.organisation_id in connected_ids)",
        "if run.state == RunState.RUNNING)",
        "integration/test_health.py::test_a_run_of_a_disconnected_organisation_is_not_shown_as_running",
    ),
)

COMMANDS = (
    mutant(
        "wrong usage has the exit code of other failures",
        "cli/errors.py",
        "raise typer.BadParameter(message, param_hint=option)",
        "raise LookupError(message)",
        "integration/test_cli.py::test_wrong_usage_exits_with_2_and_missing_data_with_1",
    ),
    mutant(
        "a failed command exits with 0",
        "cli/errors.py",
        "    typer.echo(message, err=True)\n    raise SystemExit(1)",
        "    typer.echo(message, err=True)\n    raise SystemExit(0)",
        "integration/test_cli.py::test_wrong_usage_exits_with_2_and_missing_data_with_1",
    ),
    mutant(
        "brackets in an account's name are interpreted as markup",
        "cli/status.py",
        'console.print(Text.assemble((account.name, "bold"), f" (account {account.id})"))',
        'console.print(f"[bold]{account.name}[/bold] (account {account.id})")',
        "integration/test_cli.py::test_names_are_printed_without_markup",
    ),
    mutant(
        "brackets in an organisation's name are interpreted as markup in progress bars",
        "cli/progress.py",
        "name = escape(self.names[run.organisation_id][:17])",
        "name = self.names[run.organisation_id][:17]",
        "integration/test_cli.py::test_names_are_printed_without_markup",
    ),
    mutant(
        "a body can control the terminal",
        "cli/failed_events.py",
        'char if char.isprintable() or char == "\\n" else ascii(char)[1:-1] for char in text',
        "char for char in text",
        "integration/test_operator_commands.py::test_control_characters_of_a_body_are_escaped_in_the_terminal",
    ),
)

SERVERS = (
    mutant(
        "an embedded server started by root keeps capabilities",
        "runtime/servers.py",
        '"--ambient-caps=-all", "--bounding-set=-all", *command]',
        '"--ambient-caps=-all", *command]',
        "system/test_embedded.py::test_a_server_started_by_root_has_its_own_user_and_no_capabilities",
    ),
    mutant(
        "every user may enter an embedded server's socket directory",
        "runtime/servers.py",
        "        folder.chmod(0o700)",
        "        pass",
        "system/test_embedded.py::test_a_private_folder_gets_its_permissions_corrected_and_a_foreign_one_is_refused",
    ),
    mutant(
        "a folder of another user is used for an embedded server",
        "runtime/servers.py",
        "if not stat.S_ISDIR(status.st_mode) or status.st_uid not in owners:",
        "if not stat.S_ISDIR(status.st_mode):",
        "system/test_embedded.py::test_a_private_folder_gets_its_permissions_corrected_and_a_foreign_one_is_refused",
    ),
    mutant(
        "every user of the machine may use the embedded database",
        "runtime/servers.py",
        'f"local all {role} peer map=owner"',
        'f"local all {role} trust"',
        "system/test_embedded.py::test_only_the_user_who_runs_patina_can_connect_to_the_embedded_postgresql",
    ),
    mutant(
        "the data of an embedded server is not restored to its home",
        "runtime/servers.py",
        '                _move(self.data, self.home / "data", os.geteuid())',
        "                pass",
        "system/test_embedded.py::test_data_survives_and_a_very_long_path_works",
    ),
    mutant(
        "settings that were replaced while they were read stay in use",
        "runtime/process_values.py",
        "        with self._lock:\n            values, self._values = self._values, ()\n",
        "        values, self._values = self._values, ()\n",
        "unit/test_process_values.py::test_what_was_computed_from_replaced_values_is_not_kept",
    ),
)
