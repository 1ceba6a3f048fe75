"""OpenTelemetry traces: on when its own variables name an exporter's endpoint, and free of cost otherwise.

Spans carry routes, purposes and counts; never an address, a token, or a URL that has one in it.
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
PLACE = re.compile(r"([0-9a-f]{32})-([0-9a-f]{16})")
NO_SPAN: nullcontext[None] = nullcontext()
_provider: TracerProvider | None = None


def wanted() -> bool:
    """Whether the environment asks for traces (OpenTelemetry's environment variable specification)."""
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none"
    return not off and any(os.environ.get(name) for name in ENDPOINTS)


def start(process: str) -> None:
    """Export this process's spans from now on, if that is wanted. After a fork, as a thread sends them."""
    global _provider
    if not wanted():
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME") or f"patina-{process}"})
    _provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))


def stop() -> None:
    """Send what is left, and no more from here on."""
    global _provider
    if _provider is not None:
        _provider.shutdown()
        _provider = None


def span(
    name: str, *, follows: Sequence[str] = (), attributes: Mapping[str, str | int] | None = None
) -> AbstractContextManager[Span | None]:
    """A span around the block, None when nobody traces.

    `follows` are what `here` gave to whatever caused this: a single cause is continued, several are linked.
    """
    return NO_SPAN if _provider is None else _span(_provider, name, follows, attributes or {})


@contextmanager
def _span(
    provider: TracerProvider, name: str, follows: Sequence[str], attributes: Mapping[str, str | int]
) -> Iterator[Span]:
    from opentelemetry import trace

    causes = [one for one in map(_context, follows) if one is not None]
    alone = len(causes) == 1
    parent = trace.set_span_in_context(trace.NonRecordingSpan(causes[0])) if alone else None
    links: list[Link] = [] if alone else [trace.Link(one) for one in causes]
    tracer = provider.get_tracer("patina")
    with tracer.start_as_current_span(name, context=parent, links=links, attributes=dict(attributes)) as begun:
        yield begun


def here() -> str | None:
    """The current span as text, to be kept with what it causes; None when nobody traces."""
    if _provider is None:
        return None
    from opentelemetry import trace

    place = trace.get_current_span().get_span_context()
    return f"{place.trace_id:032x}-{place.span_id:016x}" if place.is_valid else None


def _context(place: str) -> SpanContext | None:
    from opentelemetry.trace import SpanContext, TraceFlags

    found = PLACE.fullmatch(place)
    if found is None:
        return None
    return SpanContext(int(found[1], 16), int(found[2], 16), is_remote=True, trace_flags=TraceFlags(1))
