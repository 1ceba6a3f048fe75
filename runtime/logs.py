"""structlog, set up once a process: events with fields, JSON unless somebody is watching."""

from __future__ import annotations

import logging
import re
import sys
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, WrappedLogger

from runtime.settings import settings

ADDRESS = re.compile(r"[^\s@<>\"'=:,]{1,64}@[^\s@<>\"'=:,]{1,255}\.[A-Za-z]{2,24}")
SECRET = re.compile(
    r"(?i)(bearer |access_?token['\"=: ]+|refresh_token['\"=: ]+|client_secret['\"=: ]+)[A-Za-z0-9._~+/=-]{8,}"
)
# A whole key; its first twelve characters tell keys apart, and open nothing.
API_KEY = re.compile(r"\bpat_[A-Za-z0-9_-]{16,}")
# What the HTTP library says of a header that it cannot send, the header's value and all.
UNSENDABLE = re.compile(r"(?i)(header (?:value|name)[^:\n]*: ).*")


def scrub(text: str) -> str:
    """`text` without e-mail addresses and bearer tokens, for what a library or a vendor wrote."""
    without = ADDRESS.sub("[address]", text) if "@" in text else text
    return UNSENDABLE.sub(r"\1[secret]", API_KEY.sub("[secret]", SECRET.sub(r"\1[secret]", without)))


def _scrub_fields(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {key: scrub(value) if isinstance(value, str) else value for key, value in event.items()}


class _StandardError:
    """Whatever `sys.stderr` is at the moment: a progress bar puts itself in its place to stay below what is written."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def configure(process: str, *, for_command: bool = False) -> None:
    """Route structlog and the standard library's loggers to standard error, with `process` on each line.

    A command that ends by itself has output of its own (`for_command`): beside it warnings are logged, and less only
    where LOG_LEVEL asks for it.
    """
    wanted = settings()
    console = wanted.log_format == "console" or (wanted.log_format == "auto" and sys.stderr.isatty())

    def name_process(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event["process"] = process
        return event

    shared: list[Any] = [
        name_process,
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _scrub_fields,
    ]
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if console else structlog.processors.JSONRenderer()
    )
    is_asked_for = "log_level" in wanted.model_fields_set
    level = logging.WARNING if for_command and not is_asked_for else getattr(logging, wanted.log_level.upper())
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _StandardError())),
    )
    handler = logging.StreamHandler(cast(TextIO, _StandardError()))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.WARNING))
