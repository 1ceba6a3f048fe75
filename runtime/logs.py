"""Logging: structlog, configured once per process; events with fields, as JSON unless standard error is a terminal."""

from __future__ import annotations

import logging
import re
import sys
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, WrappedLogger

from runtime.settings import settings

EMAIL = re.compile(r"[^\s@<>\"'=:,]{1,64}@[^\s@<>\"'=:,]{1,255}\.[A-Za-z]{2,24}")
SECRET = re.compile(
    r"(?i)(bearer |access_?token['\"=: ]+|refresh_token['\"=: ]+|client_secret['\"=: ]+)[A-Za-z0-9._~+/=-]{8,}"
)
# A complete key. Its 12-character prefix identifies it and grants nothing.
API_KEY = re.compile(r"\bpat_[A-Za-z0-9_-]{16,}")
# The address of an online invoice: whoever has it can see the invoice, and pay it.
ONLINE_INVOICE = re.compile(r"(?i)\bin\.xero\.com/[^\s'\"<>]+")
# The HTTP library's error about an invalid header quotes the header's value.
INVALID_HEADER = re.compile(r"(?i)(header (?:value|name)[^:\n]*: ).*")


def scrub(text: str) -> str:
    """`text` from a library or a vendor, without email addresses, tokens, keys and customer links."""
    scrubbed = EMAIL.sub("[address]", text) if "@" in text else text
    scrubbed = API_KEY.sub("[secret]", SECRET.sub(r"\1[secret]", scrubbed))
    return INVALID_HEADER.sub(r"\1[secret]", ONLINE_INVOICE.sub("in.xero.com/[secret]", scrubbed))


def _scrub_fields(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {key: scrub(value) if isinstance(value, str) else value for key, value in event.items()}


class _CurrentStderr:
    """Writes to the current `sys.stderr`, which a progress bar replaces so that it stays below the log lines."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def configure(process: str, *, for_command: bool = False) -> None:
    """Route structlog and the standard library's loggers to standard error, with `process` on each line.

    A one-off command (`for_command`) has output of its own, so it only logs warnings unless LOG_LEVEL is set.
    """
    config = settings()
    is_console = config.log_format == "console" or (config.log_format == "auto" and sys.stderr.isatty())

    def add_process(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event["process"] = process
        return event

    shared: list[Any] = [
        add_process,
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _scrub_fields,
    ]
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if is_console else structlog.processors.JSONRenderer()
    )
    is_level_set = "log_level" in config.model_fields_set
    level = logging.WARNING if for_command and not is_level_set else getattr(logging, config.log_level.upper())
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _CurrentStderr())),
    )
    handler = logging.StreamHandler(cast(TextIO, _CurrentStderr()))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.WARNING))
