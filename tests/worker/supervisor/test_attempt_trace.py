"""A job's trace: from the request through the queue, its attempts and the stages of its trainers."""

from collections.abc import Iterator

import pytest
from sqlalchemy import update

from app import tracing
from app.jobs.queue.tables import Job
from tests.collector import Collector, attributes, collecting
from tests.conftest import Deployment
from tests.worker.supervisor import stub_trainer
from tests.worker.supervisor.jobs import submit, succeeded
from worker.supervisor.runner import Runner

REQUEST = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        tracing.configure("permafrost-worker")
        yield collector
        tracing.close()


def test_an_attempt_goes_on_with_the_requests_trace(
    deployment: Deployment, runner: Runner, collector: Collector
) -> None:
    """Queue and attempt below the request, the parts below the attempt, the trainer's stages below these."""
    job_id = submit(deployment, traceparent=REQUEST)
    assert runner.run_next()
    tracing.close()
    assert {span.trace_id.hex() for span in collector.spans} == {REQUEST.split("-")[1]}
    names = {span.span_id.hex(): span.name for span in collector.spans} | {REQUEST.split("-")[2]: "request"}
    below = {(names[span.parent_span_id.hex()], span.name) for span in collector.spans}
    assert below == {
        ("request", "queue"),
        ("request", "attempt"),
        ("attempt", "staging"),
        ("attempt", "training"),
        ("attempt", "evidence"),
        ("training", "trainer: loading"),
        ("training", "trainer: training"),
        ("training", "trainer: exporting"),
    }
    named = attributes(collector.named("attempt"))
    assert named["permafrost.job_id"] == job_id and named["permafrost.status"] == "succeeded"
    assert collector.named("queue").end_time_unix_nano <= collector.named("attempt").end_time_unix_nano
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for span in collector.spans)


def test_each_attempt_is_a_span_and_its_queue_begins_where_the_last_one_ended(
    deployment: Deployment, runner: Runner, collector: Collector
) -> None:
    """A crash ends the part in which it came, and names itself there."""
    job_id = submit(deployment, seed=stub_trainer.CRASH_ONCE, traceparent=REQUEST)
    assert runner.run_next()
    with deployment.db.write() as session:
        session.execute(update(Job).values(not_before=None))
    assert runner.run_next() and succeeded(deployment, job_id)
    tracing.close()
    attempts = [attributes(span) for span in collector.spans if span.name == "attempt"]
    assert [(each["permafrost.attempt"], each["permafrost.status"]) for each in attempts] == [
        (1, "queued"),
        (2, "succeeded"),
    ]
    first, second = (span for span in collector.spans if span.name == "queue")
    assert first.end_time_unix_nano < second.start_time_unix_nano
    parts = [attributes(span).get("exception.type") for span in collector.spans if span.name == "training"]
    assert parts == ["TrainerCrashed", None]


def test_a_job_without_a_request_has_a_trace_of_its_own(
    deployment: Deployment, runner: Runner, collector: Collector
) -> None:
    """As of an API that sends none."""
    submit(deployment)
    assert runner.run_next()
    tracing.close()
    assert not collector.named("attempt").parent_span_id
