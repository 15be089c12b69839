"""Traces by OpenTelemetry: a request, its job's time in the queue, and each attempt with the stages of its trainer.

They are sent as OTLP over HTTP where OTEL_EXPORTER_OTLP_ENDPOINT is set, by the packages of the extra `otel`. Without
it nothing of OpenTelemetry is imported, and what is here does nothing. A parent is a `traceparent` as W3C's Trace
Context has it: it is a header of requests and a column of jobs, so a trace goes on in other threads and processes.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal

import structlog

from app import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

log = structlog.get_logger(__name__)

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
#: Characters of a traceparent; a longer one is of a later version, or none.
CHARACTERS: Final = 55

Attribute = str | int | float | bool | None
Role = Literal["internal", "server"]

_provider: "TracerProvider | None" = None
_current: ContextVar[str | None] = ContextVar("traceparent", default=None)


@dataclass(frozen=True, slots=True)
class TraceSpan:
    """A piece of work with a beginning and an end; nothing where traces are not sent."""

    span: "Span | None" = None

    @property
    def traceparent(self) -> str | None:
        """By which other spans name this one as their parent."""
        if self.span is None:
            return None
        at = self.span.get_span_context()
        return f"00-{at.trace_id:032x}-{at.span_id:016x}-{at.trace_flags:02x}"

    def rename(self, name: str) -> None:
        if self.span is not None:
            self.span.update_name(name)

    def note(self, **attributes: Attribute) -> None:
        """Adds attributes, except those that are None. `job_id` becomes `permafrost.job_id`, names with a dot stay."""
        if self.span is not None:
            self.span.set_attributes(_named(attributes))

    def fail(self, reason: str) -> None:
        """Marks the work as failed."""
        if self.span is not None:
            from opentelemetry.trace import Status, StatusCode

            self.span.set_status(Status(StatusCode.ERROR, reason))

    def end(self, at: datetime | None = None) -> None:
        if self.span is not None:
            self.span.end(_nanoseconds(at))


def configure(service: str) -> None:
    """Has this process send traces under a service's name, if the environment says where; a second call does nothing.

    OpenTelemetry's own variables say the rest: OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS.
    """
    global _provider
    if _provider is not None or not any(os.environ.get(name) for name in ENDPOINTS):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        remedy = "pip install 'permafrost[otel]', or unset OTEL_EXPORTER_OTLP_ENDPOINT"
        log.warning("no traces are sent: a package is missing", error=str(error), remedy=remedy)
        return

    name = os.environ.get("OTEL_SERVICE_NAME") or service
    resource = Resource.create({"service.name": name, "service.version": __version__})
    _provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))


def close() -> None:
    """Sends what has not been sent yet, and stops."""
    global _provider
    provider, _provider = _provider, None
    if provider is not None:
        provider.shutdown()


def enabled() -> bool:
    """Whether this process sends traces."""
    return _provider is not None


def current() -> str | None:
    """The request that this thread works for, as a parent of other spans."""
    return _current.get()


def begin(
    name: str,
    *,
    parent: str | None = None,
    role: Role = "internal",
    at: datetime | None = None,
    **attributes: Attribute,
) -> TraceSpan:
    """A new span, which its caller ends. With no parent, or one that cannot be read, it begins a trace."""
    if _provider is None:
        return TraceSpan()
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({"traceparent": parent} if parent else {})
    kind = SpanKind.SERVER if role == "server" else SpanKind.INTERNAL
    tracer = _provider.get_tracer("permafrost", __version__)
    span = tracer.start_span(name, context, kind, attributes=_named(attributes), start_time=_nanoseconds(at))
    return TraceSpan(span)


@contextmanager
def serving(span: TraceSpan) -> Iterator[None]:
    """Makes the span the one that `current` names, for the block."""
    token = _current.set(span.traceparent)
    try:
        yield
    finally:
        _current.reset(token)


def _named(attributes: Mapping[str, Attribute]) -> dict[str, Any]:
    present = {name: value for name, value in attributes.items() if value is not None}
    return {name if "." in name else f"permafrost.{name}": value for name, value in present.items()}


def _nanoseconds(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp() * 1e6) * 1_000
