"""A command group that imports a command's module only when that command runs, so that `--help` stays fast."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup


class CommandSpec(NamedTuple):
    """A command (or group) of the Typer `app` in `module`; `help` is the first line of its help text."""

    module: str
    help: str


class LazyCommand(TyperCommand):
    """A placeholder with the name and help of a command that is not imported yet."""

    def __init__(self, name: str, spec: CommandSpec) -> None:
        super().__init__(name, help=spec.help, rich_markup_mode="rich")
        self.module = spec.module

    def load(self) -> Any:
        """Import the command's module and return the command."""
        command = typer.main.get_command(import_module(self.module).app)
        _hide_help_type(command)
        return command.commands.get(self.name or "", command) if isinstance(command, TyperGroup) else command


def _hide_help_type(command: Any) -> None:
    """Show `--help` without its type, like all other flags, in a command and its subcommands."""
    command.get_help_option(typer.Context(command)).metavar = ""
    for subcommand in getattr(command, "commands", {}).values():
        _hide_help_type(subcommand)


def lazy_group(commands: Mapping[str, CommandSpec]) -> type[TyperGroup]:
    """A group class with these commands, by name and in this order."""

    class LazyGroup(TyperGroup):
        def __init__(self, **attributes: Any) -> None:
            super().__init__(**attributes)
            self.commands = {name: LazyCommand(name, spec) for name, spec in commands.items()}
            _hide_help_type(self)

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            name, command, rest = super().resolve_command(ctx, args)
            return name, command.load() if isinstance(command, LazyCommand) else command, rest

    return LazyGroup
