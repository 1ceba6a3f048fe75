"""Every module of the command line, imported before commands are forked (`tests.support.commands`)."""

from __future__ import annotations

from importlib import import_module

from cli.root import COMMANDS

MODULES = [import_module(spec.module) for spec in COMMANDS.values()]
