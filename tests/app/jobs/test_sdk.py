"""The official SDK drives jobs over a real socket: strict and lenient, synchronous and asynchronous."""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from openai import BadRequestError, ConflictError, NotFoundError, OpenAI, Stream
from openai.types.fine_tuning import FineTuningJobEvent

from app.db import Database
from app.evidence.tables import Evidence
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates, Outcome
from app.jobs.queue.checkpoints import NewCheckpoint
from app.jobs.queue.event_log import NewEvent
from app.logs.queries import append
from tests.app.conftest import AFFINE, rows
from tests.patience import PATIENCE


def create(sdk: OpenAI, **more: Any) -> Any:
    """A job through the SDK; our own fields ride in extra_body."""
    file = sdk.files.create(file=("a.jsonl", "\n".join(map(json.dumps, rows())).encode()), purpose="fine-tune").id
    extra = {"model": AFFINE, "freeze_policy": {"freeze": ["weight"]}, **more.pop("extra_body", {})}
    return sdk.fine_tuning.jobs.create(model="-", training_file=file, extra_body=extra, **more)


@pytest.fixture
def db(embedded: FastAPI) -> Database:
    made: Database = embedded.state.backends.database
    return made


@pytest.fixture
def models(embedded: FastAPI) -> Path:
    folder: Path = embedded.state.backends.settings.models
    return folder


def run_to_the_end(db: Database) -> None:
    """What a worker does to a job's row, without the training."""
    lease = lifecycle.claim(db, worker="test", seconds=60)
    assert lease is not None
    progress = {"step": 5, "total_steps": 10, "epoch": 1.0, "percent": 50.0, "eta_seconds": 2}
    news = AttemptUpdates(
        progress=progress,
        events=[NewEvent("Step 5/10: training loss=0.5", type="metrics", data={"step": 5, "loss": 0.5})],
    )
    news.metrics = [(step, "train", {"loss": 1 / step}) for step in range(1, 6)]
    news.checkpoints = [NewCheckpoint(5, {"train_loss": 0.5})]
    lifecycle.beat(db, lease, news)
    evidence = Evidence(job_id=lease.job_id, attempt=1, verdict="verified", frozen_tensors=1, frozen_bytes=8)
    evidence.base_root, evidence.frozen_root, evidence.violations, evidence.checks = "ab" * 32, "cd" * 32, [], {}
    lifecycle.finish(db, lease, Outcome("succeeded", evidence=evidence, trained_tokens=0))


def test_a_job_is_created_as_openai_describes_it(openai: OpenAI) -> None:
    """All of OpenAI's fields with their types, and ours beside them."""
    job = create(openai, seed=7, suffix="x", metadata={"team": "a"}, method={"type": "supervised"})
    assert (job.object, job.status, job.seed, job.model) == ("fine_tuning.job", "queued", 7, "affine")
    assert job.metadata == {"team": "a"}
    assert job.hyperparameters.n_epochs == "auto"
    assert job.method.type == "supervised"
    assert job.model_extra["freeze_plan"]["frozen"] == {"tensors": 1, "elements": 2, "bytes": 8}
    assert job.model_extra["evidence"]["verdict"] == "pending"
    assert job.model_extra["queue_position"] == 1
    assert openai.fine_tuning.jobs.retrieve(job.id) == job


def test_hyperparameters_come_back_wherever_they_were_given(openai: OpenAI) -> None:
    """At the top level or in `method`, the answer has them in both places."""
    for place in (
        {"hyperparameters": {"n_epochs": 2, "batch_size": 4}},
        {"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 4}}}},
    ):
        job = create(openai, **place)
        assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (2, 4)
        assert job.method.supervised.hyperparameters.n_epochs == 2


def test_dpo_is_asked_for_and_told_as_openai_has_it(openai: OpenAI, models: Path) -> None:
    """OpenAI's preference file and method; beta comes back beside the three, "auto" where it was not given."""
    (models / "tiny").mkdir(parents=True)
    (models / "tiny" / "config.json").write_text("{}")
    question = {"messages": [{"role": "user", "content": "?"}], "tools": [], "parallel_tool_calls": True}
    answers = {f"{kind}_output": [{"role": "assistant", "content": kind}] for kind in ("preferred", "non_preferred")}
    content = "\n".join([json.dumps({"input": question, **answers})] * 2).encode()
    file = openai.files.create(file=("p.jsonl", content), purpose="fine-tune").id
    asked: Any = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": 1}}}
    job = openai.fine_tuning.jobs.create(model="tiny", training_file=file, method=asked)
    assert job.model_extra["task"] == "preference"
    assert job.method.type == "dpo"
    assert (job.method.dpo.hyperparameters.beta, job.method.dpo.hyperparameters.n_epochs) == (0.2, 1)
    plain = openai.fine_tuning.jobs.create(model="tiny", training_file=file)
    assert (plain.method.type, plain.method.dpo.hyperparameters.beta) == ("dpo", "auto")
    with pytest.raises(BadRequestError, match="supervised") as refused:
        openai.fine_tuning.jobs.create(model="tiny", training_file=file, method={"type": "supervised"})
    assert (refused.value.param, refused.value.code) == ("method.type", "method_does_not_fit")


def test_task_beside_the_id_of_a_model(openai: OpenAI, models: Path) -> None:
    """As README has it: a model by its name, and what to train it for in extra_body."""
    (models / "tiny").mkdir(parents=True)
    (models / "tiny" / "config.json").write_text("{}")
    content = "\n".join(json.dumps({"text": "a", "label": at % 2}) for at in range(4)).encode()
    file = openai.files.create(file=("t.jsonl", content), purpose="fine-tune").id
    assert openai.fine_tuning.jobs.create(model="tiny", training_file=file).model_extra["task"] == "text-regression"
    job = openai.fine_tuning.jobs.create(model="tiny", training_file=file, extra_body={"task": "text-classification"})
    assert job.model_extra["task"] == "text-classification"
    spec = {"type": "transformers", "path": "tiny", "task": "pairs"}
    for model in (spec, AFFINE):
        with pytest.raises(BadRequestError, match="task") as refused:
            extra = {"model": model, "task": "text-classification"}
            openai.fine_tuning.jobs.create(model="-", training_file=file, extra_body=extra)
        assert refused.value.param == "task"


def test_decay_is_said_once(openai: OpenAI) -> None:
    """At the top level, as the other numbers, or with the optimizer's options."""
    job = create(openai, hyperparameters={"weight_decay": 0.1})
    assert job.hyperparameters.model_extra["weight_decay"] == 0.1
    with pytest.raises(BadRequestError, match="weight_decay is given twice"):
        create(openai, hyperparameters={"weight_decay": 0.1, "optimizer": {"name": "sgd", "weight_decay": 0.2}})


def test_dpo_over_other_data_is_refused(openai: OpenAI) -> None:
    """What it learns from is said; options of the other method are not ignored."""
    for method, param in (
        ({"type": "dpo"}, "method.type"),
        ({"type": "supervised", "dpo": {"hyperparameters": {"beta": 0.2}}}, "method"),
    ):
        with pytest.raises(BadRequestError) as refused:
            create(openai, method=method)
        assert refused.value.param == param
    with pytest.raises(BadRequestError, match="beta is for preference") as refused:
        create(openai, method={"type": "supervised", "supervised": {"hyperparameters": {"beta": 0.2}}})
    assert refused.value.param == "hyperparameters.beta"


def test_jobs_are_listed_in_pages(openai: OpenAI) -> None:
    """The SDK follows `after` to the end, newest first; metadata filters."""
    made = [create(openai, metadata={"n": str(n)}).id for n in range(5)]
    assert [job.id for job in openai.fine_tuning.jobs.list(limit=2)] == made[::-1]
    assert [job.id for job in openai.fine_tuning.jobs.list(metadata={"n": "3"})] == [made[3]]
    page = openai.fine_tuning.jobs.list(limit=2)
    assert page.has_more
    assert [job.id for job in page.data] == made[:2:-1]


def test_controls_move_the_job(openai: OpenAI) -> None:
    """Pause, resume, cancel, each twice: the same answer, no error."""
    lenient = openai.with_options()
    lenient._strict_response_validation = False  # "paused" is in OpenAI's API and not in the SDK's types
    job = create(openai)
    for _ in range(2):
        assert lenient.fine_tuning.jobs.pause(job.id).status == "paused"  # type: ignore[comparison-overlap]
    for _ in range(2):
        assert openai.fine_tuning.jobs.resume(job.id).status == "queued"
    for _ in range(2):
        assert openai.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    with pytest.raises(ConflictError) as raised:
        openai.fine_tuning.jobs.pause(job.id)
    assert raised.value.code == "invalid_state"
    assert raised.value.response.headers["x-should-retry"] == "false"


def test_events_and_checkpoints_are_listed(openai: OpenAI, db: Database) -> None:
    """Newest first, in pages, with the SDK's types; the finished job has its verdict."""
    job = create(openai)
    run_to_the_end(db)
    events = list(openai.fine_tuning.jobs.list_events(job.id, limit=2))
    assert [event.message for event in events] == [
        "Job succeeded",
        "Step 5/10: training loss=0.5",
        "Job started",
        "Job created",
    ]
    assert events[1].type == "metrics"
    (checkpoint,) = openai.fine_tuning.jobs.checkpoints.list(job.id)
    assert (checkpoint.step_number, checkpoint.metrics.train_loss) == (5, 0.5)
    done = openai.fine_tuning.jobs.retrieve(job.id)
    assert (done.status, done.trained_tokens) == ("succeeded", 0)
    assert done.finished_at >= done.created_at
    assert done.model_extra["evidence"]["verdict"] == "verified"


def test_events_stream_to_the_end_of_the_job(openai: OpenAI, db: Database) -> None:
    """The SDK's stream reader gets every event once, in order, and stops by itself; it resumes behind `after`."""
    job = create(openai)
    options: Any = {"params": {"stream": "true"}}
    kind: Any = {"cast_to": FineTuningJobEvent, "stream": True, "stream_cls": Stream[FineTuningJobEvent]}
    stream = openai.get(f"/fine_tuning/jobs/{job.id}/events", options=options, **kind)
    seen = [next(stream)]
    run_to_the_end(db)
    seen += stream
    assert [event.message for event in seen] == [
        "Job created",
        "Job started",
        "Step 5/10: training loss=0.5",
        "Job succeeded",
    ]
    options["params"]["after"] = seen[1].id
    rest = list(openai.get(f"/fine_tuning/jobs/{job.id}/events", options=options, **kind))
    assert rest == seen[2:]


def test_curves_and_logs_stream_as_events_do(openai: OpenAI, db: Database) -> None:
    """Every point and every line once, in order, to the end; behind a number, what came after it. Points that a poller
    has not seen are also a list."""
    job = create(openai)
    run_to_the_end(db)
    with db.write() as session:
        append(session, job.id, 1, ["loading", "training", "done"])
    options: Any = {"params": {"stream": "true"}}
    kind: Any = {"cast_to": Any, "stream": True, "stream_cls": Stream[Any]}
    points = list(openai.get(f"/fine_tuning/jobs/{job.id}/metrics", options=options, **kind))
    assert [(each["seq"], each["step"]) for each in points] == [(n, n) for n in range(1, 6)]
    lines = list(openai.get(f"/fine_tuning/jobs/{job.id}/logs", options=options, **kind))
    assert [each["text"] for each in lines] == ["loading", "training", "done"]
    options["params"]["after"] = "3"
    assert list(openai.get(f"/fine_tuning/jobs/{job.id}/metrics", options=options, **kind)) == points[3:]
    rest = httpx2.get(f"{openai.base_url}fine_tuning/jobs/{job.id}/metrics?after=3", timeout=PATIENCE).json()
    assert [each["step"] for each in rest["data"]] == [4, 5]


def test_an_idle_stream_does_not_break_the_sdk(openai: OpenAI, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pings come while nothing happens, after an `id:` was seen; the reader passes over them."""
    monkeypatch.setattr("app.jobs.live.watcher.PING_SECONDS", 0.05)
    job = create(openai)
    kind: Any = {"cast_to": FineTuningJobEvent, "stream": True, "stream_cls": Stream[FineTuningJobEvent]}
    with httpx2.stream(
        "GET", f"{openai.base_url}fine_tuning/jobs/{job.id}/events?stream=true", timeout=PATIENCE
    ) as raw:
        for chunk in raw.iter_bytes():
            if b": ping" in chunk:
                break
    stream = openai.get(f"/fine_tuning/jobs/{job.id}/events", options={"params": {"stream": "true"}}, **kind)
    next(stream)
    import threading

    threading.Timer(0.5, run_to_the_end, [db]).start()
    assert [event.message for event in stream][-1] == "Job succeeded"


def test_errors_have_what_the_sdk_reads(openai: OpenAI) -> None:
    """Message, code, param, type and request id."""
    with pytest.raises(NotFoundError) as missing:
        openai.fine_tuning.jobs.retrieve("ftjob-none")
    assert missing.value.code == "not_found"
    assert str(missing.value).startswith("Error code: 404 - ")
    with pytest.raises(BadRequestError) as bad:
        openai.fine_tuning.jobs.create(model="no-such-model", training_file="file-none")
    assert bad.value.param == "model"
    assert bad.value.type == "invalid_request_error"
    assert bad.value.request_id.startswith("req_")


def test_the_sdk_works_without_sockets(embedded: FastAPI) -> None:
    """In-process, as other people's tests may drive it."""
    from starlette.testclient import TestClient

    with TestClient(embedded) as client:
        sdk = OpenAI(base_url="http://testserver/v1", api_key="none", http_client=client)
        assert create(sdk).status == "queued"
