"""Traces over OTLP: what a request sends, with whose trace it goes on, and that nothing is there without a setting."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from app import tracing
from app.jobs.queue.tables import Job
from app.main import create_app
from app.settings import Settings
from tests.app.conftest import AFFINE, rows, upload_to
from tests.collector import Collector, attributes, collecting
from tests.conftest import Deployment

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        yield collector
        tracing.close()


def posted(settings: Settings, headers: dict[str, str] | None = None) -> str | None:
    """The traceparent of a job that was posted; the application has ended, and so has sent what it had."""
    application = create_app(settings)
    with TestClient(application, base_url="http://testserver/v1/") as api:
        body = {"model": AFFINE, "training_file": upload_to(api)(rows())}
        job = api.post("fine_tuning/jobs", json=body, headers=headers or {})
        assert job.status_code == 200, job.text
        api.get(f"fine_tuning/jobs/{job.json()['id']}")
        api.get("../readyz")
        with application.state.backends.database.read() as session:
            return session.get_one(Job, job.json()["id"]).traceparent


def test_a_request_is_a_span_and_its_job_names_it(deployment: Deployment, collector: Collector) -> None:
    """By its route: no id, no query and no content is in it. Probes are left out."""
    traceparent = posted(deployment.settings)
    assert collector.services == {"permafrost-api"}
    assert sorted(collector.names) == [
        "GET /fine_tuning/jobs/{fine_tuning_job_id}",
        "POST /files",
        "POST /fine_tuning/jobs",
    ]
    span = collector.named("POST /fine_tuning/jobs")
    assert traceparent is not None and traceparent.startswith(f"00-{span.trace_id.hex()}-{span.span_id.hex()}-")
    named = attributes(span)
    assert named.pop("permafrost.request_id").startswith("req_")
    assert named == {
        "http.request.method": "POST",
        "http.route": "/fine_tuning/jobs",
        "http.response.status_code": 200,
    }


@pytest.mark.parametrize("header", [CALLER, "00-nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "x" * 55])
def test_a_callers_trace_goes_on(deployment: Deployment, collector: Collector, header: str) -> None:
    """A header that cannot be read begins a new trace, as none does."""
    posted(deployment.settings, {"traceparent": header})
    span = collector.named("POST /fine_tuning/jobs")
    goes_on = span.trace_id.hex() == CALLER.split("-")[1]
    assert goes_on == (header == CALLER) and (span.parent_span_id.hex() == CALLER.split("-")[2]) == goes_on


def test_without_the_variable_nothing_is_sent_or_imported(deployment: Deployment) -> None:
    """No job has a traceparent, and a fresh process has loaded nothing of OpenTelemetry's SDK."""
    assert posted(deployment.settings, {"traceparent": CALLER}) is None
    parts = ("opentelemetry.sdk", "opentelemetry.exporter")
    code = f"import sys, app.main; assert not [each for each in sys.modules if each.startswith({parts})]"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_collector_that_is_away_disturbs_no_request(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be sent is dropped, with a line in the log of OpenTelemetry's own."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    assert posted(deployment.settings) is not None


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The service goes on without traces, and says what to install."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    tracing.configure("permafrost-api")
    assert not tracing.enabled()
    said = capsys.readouterr()
    assert "permafrost[otel]" in said.out + said.err
