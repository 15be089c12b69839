"""Logs as JSON lines (coloured on a terminal), and this process's counters; /metrics adds what the database knows."""

import logging
import sys

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram

#: Of this process alone. What is true of the whole service is read from the database at scrape time (app.ops.health).
REGISTRY = CollectorRegistry()
REQUESTS = Counter("permafrost_http_requests", "HTTP requests", ["method", "route", "status"], registry=REGISTRY)
REQUEST_SECONDS = Histogram(
    "permafrost_http_request_seconds",
    "Duration of HTTP requests",
    ["method", "route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0),
    registry=REGISTRY,
)


def configure_logs(*, level: int = logging.INFO) -> None:
    """Structured lines on standard error. Calling it again changes nothing but the level."""
    terminal = sys.stderr.isatty()
    renderer = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if terminal else [structlog.processors.format_exc_info]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_StandardError(),
        cache_logger_on_first_use=False,
    )


class _StandardError:
    """Looks `sys.stderr` up at each use: a captured or closed stream is never written to."""

    def __call__(self, *_: object) -> structlog.PrintLogger:
        return structlog.PrintLogger(file=sys.stderr)
