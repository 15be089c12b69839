"""One job in a worker, from claim to the last transaction, with a trainer that needs no torch."""

import base64
import errno
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from app.evidence.format.envelope import read_envelope, signers_of
from app.evidence.format.keys import read_ring
from app.evidence.format.parse import read
from app.evidence.format.rotation import rotate
from app.evidence.format.strict import read_json
from app.evidence.tables import Evidence, Parameter
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import Outcome
from app.jobs.queue.tables import Job, Metric
from app.logs.queries import read as read_log
from app.models.catalog import layout
from app.models.tables import Model
from app.ops.doctor.references import find_references
from app.storage.folder import FolderStore
from tests.conftest import Deployment
from tests.patience import PATIENCE
from tests.worker.supervisor import stub_trainer
from tests.worker.supervisor.jobs import Later, events_of, eventually, expire, job_of, make_runner, submit
from worker.supervisor import lease
from worker.supervisor.process.child import Forkserver
from worker.supervisor.runner import Runner

STUB_TRAINER = "tests.worker.supervisor.stub_trainer"


@pytest.fixture(scope="module")
def forkserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forkserver]:
    home = tmp_path_factory.mktemp("forkserver")
    with Forkserver(home=home, entry=f"{STUB_TRAINER}:run", preload=[STUB_TRAINER]) as forkserver:
        forkserver.warm()
        yield forkserver


@pytest.fixture
def runner(deployment: Deployment, forkserver: Forkserver) -> Runner:
    return make_runner(deployment, forkserver)


def test_honest_run_is_verified(deployment: Deployment, runner: Runner) -> None:
    """A trainer that keeps its promise: succeeded, verified, a model that costs what changed, and its curve."""
    job_id = submit(deployment)
    assert runner.run_next()
    job = job_of(deployment.db, job_id)
    assert (job.status, job.error, job.attempt, job.crashes) == ("succeeded", None, 1, 0)
    assert job.progress is not None
    assert (job.progress["step"], job.progress["percent"]) == (3, 100.0)
    assert job.freeze_plan is not None
    assert job.freeze_plan["frozen"]["tensors"] == 1
    with deployment.db.read() as session:
        evidence = session.get_one(Evidence, job_id)
        assert (evidence.verdict, evidence.frozen_tensors, evidence.frozen_bytes) == ("verified", 1, 40)
        rows = session.scalars(select(Parameter).where(Parameter.job_id == job_id).order_by(Parameter.position)).all()
        assert [(row.name, row.role, row.changed) for row in rows] == [
            ("bias", "trainable", True),
            ("weight", "frozen", False),
        ]
        assert rows[0].changed_elements == 1
        assert rows[0].stats is not None
        assert [(each["step"], each["max_ulp"]) for each in rows[0].history] == [(2, 0x0101)]
        assert (rows[0].stats["max_ulp"], rows[1].history) == (0x01010101, [])
        assert session.scalars(select(Metric.step).where(Metric.job_id == job_id).order_by(Metric.step)).all() == [
            1,
            2,
            3,
        ]
        model = session.get_one(Model, job.fine_tuned_model)
        assert (model.kind, model.base_id, model.root) == ("fine_tuned", f"init:{job_id}", evidence.result_root)
        composed = b"".join(layout(model, "model.safetensors").stream(runner.storage.open))
    assert stub_trainer.sha256(composed) == model.files[0]["sha256"]
    assert composed.endswith(bytes([1, 1, 1, 1]) + bytes(range(40)))


def test_nothing_is_left_behind(deployment: Deployment, runner: Runner) -> None:
    """After the end of a job neither its folder nor a process of it exists."""
    job_id = submit(deployment)
    runner.run_next()
    assert not (runner.settings.work / job_id).exists()
    assert not [each for each in psutil.Process().children(recursive=True) if job_id in " ".join(each.cmdline())]


def test_statement_is_signed_and_says_so(deployment: Deployment, runner: Runner) -> None:
    """The envelope verifies under the supervisor's key and speaks about this job."""
    job_id = submit(deployment, evidence_options={"overhead_budget": 0.01, "nonce": "n-1"})
    runner.run_next()
    with deployment.db.read() as session:
        raw = session.scalar(select(Evidence.envelope).where(Evidence.job_id == job_id))
    assert raw is not None
    envelope = read_envelope(raw)
    assert signers_of(envelope, read_ring(runner.settings.signing_key_path))
    signed = read(read_json(envelope.payload)).predicate
    assert (signed.job_id, signed.attempt, signed.nonce, signed.violations) == (job_id, 1, "n-1", ())
    assert [(row.name, row.role) for row in signed.rows] == [("bias", "trainable"), ("weight", "frozen")]


def test_rotation_while_a_worker_runs(deployment: Deployment, runner: Runner) -> None:
    """The next statement bears both keys; and once one of them is for P-256, the stock tool's bundle is made, too."""
    path = runner.settings.signing_key_path
    first, new = submit(deployment), submit(deployment)
    runner.run_next()
    rotated = rotate(path, algorithm="ecdsa-p256")
    runner.run_next()
    with deployment.db.read() as session:
        before, after = (session.get_one(Evidence, job_id) for job_id in (first, new))
        one, two = (read_envelope(each.envelope or b"") for each in (before, after))
        assert (len(one.signatures), before.model_sig) == (1, None)
        assert [key.keyid for key in signers_of(two, read_ring(path))] == [each.keyid for each in read_ring(path)]
        bundle = json.loads(after.model_sig or b"")
    assert after.keyid == rotated.keyid
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    assert [each["name"] for each in statement["predicate"]["resources"]] == ["config.json", "model.safetensors"]
    named = statement["predicate"]["frozenParameters"]["statement"]["digest"]["sha256"]
    assert named == stub_trainer.sha256(two.payload)


def test_what_a_verifier_would_reject_is_not_claimed(deployment: Deployment, runner: Runner) -> None:
    """Every reading agrees, yet an adapter's configuration lies beside the weights: nobody may call that verified."""
    job_id = submit(deployment, seed=stub_trainer.SLIP_IN)
    runner.run_next()
    found = _verdict(deployment, job_id)
    assert found["verdict"] == "incomplete"
    assert "adapter_config.json" in found["reason"]


def test_frozen_weight_that_moved_fails_the_job(deployment: Deployment, runner: Runner) -> None:
    """An enforced policy that was not kept: failed, evidence says violated, and nobody gets the model."""
    job_id = submit(deployment, seed=stub_trainer.MOVE_WEIGHT)
    runner.run_next()
    job = job_of(deployment.db, job_id)
    assert (job.status, job.fine_tuned_model) == ("failed", None)
    assert job.error is not None
    assert job.error["code"] == "frozen_parameters_changed"
    assert _verdict(deployment, job_id)["violations"] == [
        {
            "name": "weight",
            "last_good_step": 0,
            "first_bad_step": 1,
            "operation": None,
            "reason": "differs between base and result: other bytes",
        }
    ]
    with deployment.db.snapshot() as session:
        needed = find_references(session)
    stored = {entry.key for entry in runner.storage.blobs()}
    assert stored == needed.keys(), "what was stored for the model that nobody gets is gone"


def test_full_disk_at_the_end_is_tried_again(
    deployment: Deployment, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No room for a result is no fault of the job's: a crash, with its reason; and it succeeds when there is room."""
    job_id = submit(deployment)
    full = True
    real = FolderStore.publish

    def publish(self: FolderStore, temporary: Path, key: str, *, again: str) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, temporary, key, again=again)

    monkeypatch.setattr(FolderStore, "publish", publish)
    runner.run_next()
    job = job_of(deployment.db, job_id)
    assert (job.status, job.crashes) == ("queued", 1)
    assert any("no room left" in event.message for event in events_of(deployment.db, job_id))
    full = False
    with deployment.db.write() as session:
        session.execute(update(Job).values(not_before=None))
    runner.run_next()
    assert job_of(deployment.db, job_id).status == "succeeded"


def test_audit_tells_and_does_not_judge(deployment: Deployment, runner: Runner) -> None:
    """With `enforce: false` the same run succeeds with a model, and the evidence still says violated."""
    job_id = submit(deployment, seed=stub_trainer.MOVE_WEIGHT, policy={"freeze": ["weight"], "enforce": False})
    runner.run_next()
    job = job_of(deployment.db, job_id)
    assert (job.status, job.fine_tuned_model is None) == ("succeeded", False)
    assert _verdict(deployment, job_id)["verdict"] == "violated"


def test_audit_that_asks_to_abort_fails_the_job(deployment: Deployment, runner: Runner) -> None:
    """`on_violation: abort` means so in an audit, too."""
    policy = {"freeze": ["weight"], "enforce": False, "on_violation": "abort"}
    job_id = submit(deployment, seed=stub_trainer.MOVE_WEIGHT, policy=policy)
    runner.run_next()
    job = job_of(deployment.db, job_id)
    assert (job.status, job.fine_tuned_model) == ("failed", None)
    assert _verdict(deployment, job_id)["verdict"] == "violated"


def test_trainer_that_lies_is_not_believed(deployment: Deployment, runner: Runner) -> None:
    """A digest that does not fit the files makes the evidence incomplete, or violated when it contradicts itself."""
    job_id = submit(deployment, seed=stub_trainer.LIE)
    runner.run_next()
    assert _verdict(deployment, job_id)["verdict"] == "violated"


def test_link_out_of_the_workspace_is_refused(deployment: Deployment, runner: Runner) -> None:
    """A result file that is a link would make the supervisor publish a file that only it can read."""
    job_id = submit(deployment, seed=stub_trainer.LINK)
    runner.run_next()
    job = job_of(deployment.db, job_id)
    assert job.status == "failed"
    assert job.error is not None
    assert (job.error["code"], "notes.txt" in job.error["message"]) == ("invalid_result", True)


@pytest.mark.parametrize("habit", [stub_trainer.BABBLE, stub_trainer.STRAY])
def test_result_that_cannot_be_read_is_not_tried_again(deployment: Deployment, runner: Runner, habit: int) -> None:
    """Observations or a result map without sense fail the job at once, with the name of the file."""
    job_id = submit(deployment, seed=habit)
    runner.run_next()
    job = job_of(deployment.db, job_id)
    assert (job.status, job.crashes) == ("failed", 0)
    assert job.error is not None
    assert job.error["code"] == "invalid_result"
    assert ".json" in job.error["message"]


def test_base_that_changed_in_the_storage_is_noticed(deployment: Deployment, runner: Runner) -> None:
    """Evidence is about the base that was registered, and not about whatever lies under its name now."""
    first = submit(deployment)
    runner.run_next()
    with deployment.db.read() as session:
        model = session.get_one(Model, f"init:{first}")
        blob = Path(str(runner.storage.root)) / model.files[0]["blob"]
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(content)
    second = submit(deployment, base_model=f"init:{first}")
    runner.run_next()
    job = job_of(deployment.db, second)
    assert job.status == "failed"
    assert job.error is not None
    assert "not the ones that were registered" in job.error["message"]


def test_failure_keeps_the_trainers_words(deployment: Deployment, runner: Runner) -> None:
    """What the trainer found wrong with the data reaches the job, with line and field; nothing is retried."""
    job_id = submit(deployment, seed=stub_trainer.FAIL)
    runner.run_next()
    job = job_of(deployment.db, job_id)
    assert (job.status, job.crashes) == ("failed", 0)
    assert job.error == {
        "code": "invalid_training_data",
        "message": "1 bad line",
        "param": "training_file",
        "errors": [{"line": 3, "field": "y", "code": "not_a_number", "message": "is text"}],
    }
    assert not runner.run_next()


def test_violation_during_training_is_evidence(deployment: Deployment, runner: Runner) -> None:
    """A run that the witness stopped has a verdict, though it has no result."""
    job_id = submit(deployment, seed=stub_trainer.STOP_ON_VIOLATION)
    runner.run_next()
    found = _verdict(deployment, job_id)
    assert (job_of(deployment.db, job_id).status, found["verdict"]) == ("failed", "violated")
    assert found["violations"][0]["operation"] == "aten::add_"


def test_crash_is_booked_with_the_logs_end(deployment: Deployment, runner: Runner) -> None:
    """A killed trainer counts as a crash; the job waits for its next attempt, and the event has the log's last line."""
    job_id = submit(deployment, seed=stub_trainer.CRASH)
    runner.run_next()
    job = job_of(deployment.db, job_id)
    assert (job.status, job.crashes) == ("queued", 1)
    last = events_of(deployment.db, job_id)[-1]
    assert "signal 9" in last.message
    assert last.data is not None
    assert last.data["log_tail"][-1:] == ["the last line of this trainer"]


def test_poison_job_ends(deployment: Deployment, forkserver: Forkserver) -> None:
    """A job that kills every trainer fails after the last crash that is allowed, and the queue moves on."""
    runner = make_runner(deployment, forkserver, max_crashes=2)
    poison = submit(deployment, seed=stub_trainer.CRASH)
    for _ in range(2):
        eventually(runner.run_next)
    job = job_of(deployment.db, poison)
    assert (job.status, job.attempt) == ("failed", 2)
    assert job.error is not None
    assert job.error["log_tail"][-1:] == ["the last line of this trainer"]
    healthy = submit(deployment)
    runner.run_next()
    assert job_of(deployment.db, healthy).status == "succeeded"


def test_exception_of_the_supervisor_is_tried_once_more(
    deployment: Deployment, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that depends on the job comes again: after the second time the job fails, and the worker goes on."""

    def conclude(*_: Any) -> Outcome:
        raise KeyError("a name that is missing")

    monkeypatch.setattr("worker.supervisor.results.conclude", conclude)
    job_id = submit(deployment)
    for _ in range(2):
        eventually(runner.run_next)
    job = job_of(deployment.db, job_id)
    assert (job.status, job.attempt) == ("failed", 2)
    assert job.error is not None and "KeyError: 'a name that is missing'" in job.error["message"]
    monkeypatch.undo()
    healthy = submit(deployment)
    runner.run_next()
    assert job_of(deployment.db, healthy).status == "succeeded"


def test_second_attempt_finds_the_first_ones_checkpoints(deployment: Deployment, runner: Runner) -> None:
    """Checkpoints lie beside the attempts: what the first one saved, the second one reads."""
    job_id = submit(deployment, seed=stub_trainer.CRASH_ONCE)
    runner.run_next()
    eventually(runner.run_next)
    job = job_of(deployment.db, job_id)
    assert (job.status, job.attempt, job.crashes) == ("succeeded", 2, 1)


@pytest.mark.parametrize("habit", [stub_trainer.HANG, stub_trainer.DEAF])
def test_cancel_ends_a_hanging_trainer(deployment: Deployment, forkserver: Forkserver, habit: int) -> None:
    """Cancelled at once in the database; the trainer is gone within the grace, deaf or not, and leaves no folder."""
    runner = make_runner(deployment, forkserver, grace_seconds=0.3)
    job_id = submit(deployment, seed=habit)
    with _running(runner) as thread:
        eventually(lambda: (job_of(deployment.db, job_id).progress or {}).get("step") == 1)
        lifecycle.cancel(deployment.db, "default", job_id)
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert job_of(deployment.db, job_id).status == "cancelled"
    assert not (runner.settings.work / job_id).exists()


def test_pause_saves_and_resume_goes_on(deployment: Deployment, runner: Runner) -> None:
    """A paused job gives its device back after a checkpoint; resumed, it ends in the next attempt."""
    job_id = submit(deployment, seed=stub_trainer.STOPPABLE)
    with _running(runner) as thread:
        eventually(lambda: (job_of(deployment.db, job_id).progress or {}).get("step") == 1)
        lifecycle.pause(deployment.db, "default", job_id)
        thread.join(PATIENCE)
    assert job_of(deployment.db, job_id).status == "paused"
    assert not runner.run_next()
    lifecycle.resume(deployment.db, "default", job_id)
    assert runner.run_next()
    job = job_of(deployment.db, job_id)
    assert (job.status, job.attempt, job.crashes) == ("succeeded", 2, 0)


def test_drain_gives_the_job_back(deployment: Deployment, runner: Runner) -> None:
    """A worker that stops lets its trainer save, and the job waits for another worker without a crash on its record."""
    job_id = submit(deployment, seed=stub_trainer.STOPPABLE)
    with _running(runner) as thread:
        eventually(lambda: (job_of(deployment.db, job_id).progress or {}).get("step") == 1)
        runner.stopping.set()
        thread.join(PATIENCE)
    job = job_of(deployment.db, job_id)
    assert (job.status, job.crashes, job.lease_owner) == ("queued", 0, None)
    assert not runner.run_next()


def test_silent_trainer_is_killed(deployment: Deployment, runner: Runner) -> None:
    """A trainer that reports nothing for too long counts as crashed."""
    runner.settings = runner.settings.model_copy(update={"stall_seconds": 0.5})
    job_id = submit(deployment, seed=stub_trainer.DEAF)
    runner.run_next()
    job = job_of(deployment.db, job_id)
    assert (job.status, job.crashes) == ("queued", 1)
    assert "reported nothing" in events_of(deployment.db, job_id)[-1].message


def test_unknown_database_stops_the_trainer_before_the_lease_ends(
    deployment: Deployment, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that cannot beat any more ends its trainer by itself, before anyone else may start another."""
    job_id = submit(deployment, seed=stub_trainer.DEAF)

    def away(*_: Any, **__: Any) -> str:
        raise OperationalError("beat", {}, Exception("the database is away"))

    with _running(runner) as thread:
        eventually(lambda: (job_of(deployment.db, job_id).progress or {}).get("step") == 1)
        with monkeypatch.context() as patch:
            patch.setattr(lifecycle, "beat", away)
            # As if most of the lease had passed since the last beat.
            patch.setattr(lease, "time", Later(0.9 * runner.settings.lease_seconds))
            thread.join(PATIENCE)
            assert not thread.is_alive()
    assert job_of(deployment.db, job_id).status == "running"
    expire(deployment.db, job_id)
    lifecycle.sweep(deployment.db, limit=3)
    assert job_of(deployment.db, job_id).crashes == 1


def test_taken_over_job_is_left_alone(deployment: Deployment, runner: Runner) -> None:
    """A worker whose job went to another attempt ends its trainer and writes nothing more."""
    job_id = submit(deployment, seed=stub_trainer.HANG)

    with _running(runner) as thread:
        eventually(lambda: (job_of(deployment.db, job_id).progress or {}).get("step") == 1)
        with deployment.db.write() as session:
            session.execute(update(Job).where(Job.id == job_id).values(attempt=2, lease_owner="another"))
        thread.join(PATIENCE)
        assert not thread.is_alive()
    job = job_of(deployment.db, job_id)
    assert (job.status, job.attempt, job.lease_owner, job.crashes) == ("running", 2, "another", 0)


def test_events_have_no_gap(deployment: Deployment, runner: Runner) -> None:
    """The story of a job reads in order, from its creation to its end."""
    job_id = submit(deployment)
    runner.run_next()
    events = events_of(deployment.db, job_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    messages = [event.message for event in events]
    assert messages[:2] == ["Job created", "Job started"]
    assert messages[-1] == "Job succeeded"
    assert [event.data["step"] for event in events if event.type == "metrics" and event.data] == [1, 3]


def test_base_model_folder_is_registered_once(deployment: Deployment, runner: Runner, tmp_path: Path) -> None:
    """A folder under PERMAFROST_MODELS_DIR becomes a base model on first use, and stays as it was then."""
    folder = runner.settings.models / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["AffineForSequenceClassification"]}))
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    stub_trainer.write_tensors(folder / "model.safetensors", {"bias": bytes(4), "weight": bytes(range(40))})
    spec = {"type": "transformers", "path": "tiny"}
    first = submit(deployment, model="tiny", model_spec=spec)
    runner.run_next()
    (folder / "model.safetensors").write_bytes(b"changed later")
    second = submit(deployment, model="tiny", model_spec=spec)
    runner.run_next()
    for job_id in (first, second):
        assert job_of(deployment.db, job_id).status == "succeeded", job_of(deployment.db, job_id).error
    with deployment.db.read() as session:
        model = session.get_one(Model, "tiny")
        assert (model.project, model.kind) == (None, "base")
        assert [file["name"] for file in model.files] == ["config.json", "model.safetensors"]


def _verdict(deployment: Deployment, job_id: str) -> dict[str, Any]:
    with deployment.db.read() as session:
        row = session.get_one(Evidence, job_id)
        return {"verdict": row.verdict, "violations": row.violations, "reason": row.reason}


class _running:  # noqa: N801 - used as a statement
    """A runner's `run_next` in a thread, as Celery's pool would call it."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.thread = threading.Thread(target=runner.run_next, daemon=True)

    def __enter__(self) -> threading.Thread:
        self.thread.start()
        return self.thread

    def __exit__(self, *_: object) -> None:
        if self.thread.is_alive():
            self.runner.stopping.set()
            self.thread.join(PATIENCE)


def test_what_a_trainer_printed_outlives_it(deployment: Deployment, runner: Runner) -> None:
    """The workspace is gone; the log of the attempt that crashed and of the one that did not are there, in order."""
    job_id = submit(deployment, seed=stub_trainer.CRASH_ONCE)
    assert runner.run_next()
    with deployment.db.write() as session:
        session.get_one(Job, job_id).not_before = None
    assert runner.run_next()
    assert job_of(deployment.db, job_id).status == "succeeded"
    assert not (runner.settings.work / job_id).exists()
    with deployment.db.read() as session:
        lines = read_log(session, job_id)
    assert [line.text for line in lines if line.attempt == 1][-1] == "the last line of this trainer"
    assert str(runner.settings.home) not in "".join(line.text for line in lines)
