"""Jobs, files and a runner for tests of the supervisor."""

import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import select, update

from app.db import Database, new_id, now
from app.evidence.format.keys import load_or_create
from app.evidence.tables import Evidence
from app.files.tables import File
from app.freeze.policy import Policy
from app.jobs.queue import lifecycle
from app.jobs.queue.states import TERMINAL
from app.jobs.queue.tables import Event, Job
from app.storage.blobs import Storage
from tests.conftest import Deployment
from tests.patience import PATIENCE
from tests.worker.supervisor import stub_trainer
from worker.supervisor.devices import Slots, find_devices
from worker.supervisor.identity import identity
from worker.supervisor.process.child import Forkserver
from worker.supervisor.runner import Runner

FROZEN_WEIGHT: dict[str, Any] = {"freeze": ["weight"]}
CSV = b"".join(f"{','.join(str((row * column) % 7) for column in range(1, 12))}\n".encode() for row in range(1, 41))
HEADER = ",".join([*(f"x{column}" for column in range(10)), "y"]).encode() + b"\n"


def make_runner(deployment: Deployment, forkserver: Forkserver, **changes: Any) -> Runner:
    settings = deployment.settings.model_copy(update=changes)
    load_or_create(settings.signing_key_path)
    return Runner(
        settings=settings,
        db=deployment.db,
        storage=Storage(settings.storage),
        forkserver=forkserver,
        slots=Slots(find_devices("cpu")),
        worker=identity(),
    )


def submit(deployment: Deployment, *, seed: int = 0, policy: dict[str, Any] | None = None, **columns: Any) -> str:
    """The id of a new `affine` job with ten features, over a CSV file."""
    file_id = upload(deployment, HEADER + CSV, filename="table.csv")
    spec = {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 10, "out_features": 1}}
    values: dict[str, Any] = {
        "id": new_id("ftjob"),
        "project": "default",
        "status": "queued",
        "model": "affine",
        "model_spec": spec,
        "task": "tabular-regression",
        "training_file": file_id,
        "data": {"format": "csv"},
        "seed": seed,
        "hyperparameters": {"n_epochs": 2},
        "freeze_policy": Policy.from_json(FROZEN_WEIGHT if policy is None else policy).to_json(),
        "evidence_options": {"overhead_budget": 0.01},
        "result_files": [],
    }
    job, _ = lifecycle.submit(deployment.db, Job(**values | columns))
    return job.id


def place_model(runner: Runner, name: str) -> None:
    """A model folder whose tensors fit the stub trainer."""
    folder = runner.settings.models / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["TinyForSequenceClassification"]}))
    stub_trainer.write_tensors(folder / "model.safetensors", {"bias": bytes(4), "weight": bytes(range(40))})


def upload(deployment: Deployment, content: bytes, *, filename: str) -> str:
    with Storage(deployment.settings.storage).writer() as writer:
        writer.write(content)
    with deployment.db.write() as session:
        file = File(id=new_id("file"), project="default", created_at=now(session), filename=filename)
        file.purpose, file.status, file.bytes = "fine-tune", "processed", len(content)
        file.sha256, file.blob = hashlib.sha256(content).hexdigest(), writer.blob.key
        session.add(file)
        return file.id


def expire(db: Database, job_id: str) -> None:
    """End the job's lease now, as if its worker had not been heard of for that long."""
    with db.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_until=now(session)))


class Later:
    """In place of a module's `time`: the monotonic clock, some seconds ahead."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def monotonic(self) -> float:
        return time.monotonic() + self._seconds


def job_of(db: Database, job_id: str) -> Job:
    with db.read() as session:
        return session.get_one(Job, job_id)


def verdict_of(deployment: Deployment, job_id: str) -> dict[str, Any]:
    with deployment.db.read() as session:
        row = session.get_one(Evidence, job_id)
        return {"verdict": row.verdict, "violations": row.violations, "reason": row.reason}


def events_of(db: Database, job_id: str) -> list[Event]:
    with db.read() as session:
        return list(session.scalars(select(Event).where(Event.job_id == job_id).order_by(Event.seq)))


def succeeded(deployment: Deployment, job_id: str) -> Job:
    """The job once it has ended, and well; else what its events say."""
    eventually(lambda: job_of(deployment.db, job_id).status in TERMINAL, says=lambda: _story(deployment, job_id))
    job = job_of(deployment.db, job_id)
    assert job.status == "succeeded", _story(deployment, job_id)
    return job


def _story(deployment: Deployment, job_id: str) -> str:
    events = events_of(deployment.db, job_id)
    return "\n".join(f"{event.created_at} {event.message} {event.data or ''}" for event in events)


def eventually(
    condition: Callable[[], Any],
    *,
    seconds: float = PATIENCE,
    says: Callable[[], str] = lambda: "it did not come to pass",
) -> Any:
    """The first true value of the condition; an assertion when none comes in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, says()
        time.sleep(0.02)
    return value
