"""OpenTelemetry traces: on when OpenTelemetry's own variables name an exporter endpoint, and free of cost otherwise.

Spans carry routes, purposes and counts, and never an email address, a token, or a URL that contains one.

The SDK is imported inside the functions that need it: it is slow to import, and rarely used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Link, Span, SpanContext

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
SPAN_REFERENCE = re.compile(r"([0-9a-f]{32})-([0-9a-f]{16})")
NO_SPAN: nullcontext[None] = nullcontext()
_provider: TracerProvider | None = None


def is_enabled() -> bool:
    """Whether the environment turns tracing on (OpenTelemetry's environment variable specification)."""
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none"
    return not off and any(os.environ.get(name) for name in ENDPOINTS)


def start(process: str) -> None:
    """Export this process's spans from now on, if tracing is on.

    Call it after a fork, because a thread sends the spans.
    """
    global _provider
    if not is_enabled():
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME") or f"patina-{process}"})
    _provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))


def stop() -> None:
    """Send the remaining spans and stop exporting."""
    global _provider
    if _provider is not None:
        _provider.shutdown()
        _provider = None


def span(
    name: str, *, caused_by: Sequence[str] = (), attributes: Mapping[str, str | int] | None = None
) -> AbstractContextManager[Span | None]:
    """A span around the block, None when tracing is off.

    `caused_by` holds the `current_traceparent` of each cause: a single one becomes the parent span, several are linked.
    """
    return NO_SPAN if _provider is None else _span(_provider, name, caused_by, attributes or {})


@contextmanager
def _span(
    provider: TracerProvider, name: str, caused_by: Sequence[str], attributes: Mapping[str, str | int]
) -> Iterator[Span]:
    from opentelemetry import trace

    causes = [context for context in map(_parse_span_reference, caused_by) if context is not None]
    has_parent = len(causes) == 1
    parent = trace.set_span_in_context(trace.NonRecordingSpan(causes[0])) if has_parent else None
    links: list[Link] = [] if has_parent else [trace.Link(context) for context in causes]
    tracer = provider.get_tracer("patina")
    with tracer.start_as_current_span(name, context=parent, links=links, attributes=dict(attributes)) as started:
        yield started


def current_traceparent() -> str | None:
    """The current span as `trace_id-span_id` in hex, to be stored with what it causes; None when tracing is off."""
    if _provider is None:
        return None
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}-{context.span_id:016x}" if context.is_valid else None


def _parse_span_reference(reference: str) -> SpanContext | None:
    from opentelemetry.trace import SpanContext, TraceFlags

    match = SPAN_REFERENCE.fullmatch(reference)
    if match is None:
        return None
    return SpanContext(int(match[1], 16), int(match[2], 16), is_remote=True, trace_flags=TraceFlags(1))
