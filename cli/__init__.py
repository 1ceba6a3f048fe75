"""The `patina` command: one module per command or group, imported when that command runs."""

from __future__ import annotations

from cli.root import app, main

__all__ = ["app", "main"]
