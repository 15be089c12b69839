"""Log format (JSON lines, or colours on a terminal), and the counters of this process for /metrics."""

import logging
import sys

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram

#: Counters of this process only. Numbers of the whole service are read from the database at scrape time.
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
    """Writes structured lines to standard error. A second call changes only the level."""
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
    """Looks up `sys.stderr` at each use, so that a captured or closed stream is never written to."""

    def __call__(self, *_: object) -> structlog.PrintLogger:
        return structlog.PrintLogger(file=sys.stderr)
