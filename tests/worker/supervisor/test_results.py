"""What an attempt left becomes evidence and a model, or a failure that says why."""

import errno
from pathlib import Path

import pytest
from sqlalchemy import select, update

from app.evidence.format.envelope import read_envelope, signers_of
from app.evidence.format.keys import generate, load_or_create, read_ring, write_private
from app.evidence.format.rotation import add
from app.evidence.tables import Evidence, Parameter
from app.jobs.queue.tables import Job, Metric
from app.models.catalog import layout
from app.models.tables import Model
from app.ops.doctor.references import find_references
from app.storage.folder import FolderStore
from tests.conftest import Deployment
from tests.worker.supervisor import stub_trainer
from tests.worker.supervisor.jobs import events_of, job_of, submit, verdict_of
from worker.supervisor.runner import Runner


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


@pytest.mark.parametrize(
    ("habit", "named"), [(stub_trainer.SLIP_IN, "adapter_config.json"), (stub_trainer.CONVERT, "weights to float16")]
)
def test_what_a_verifier_would_reject_is_not_signed(
    deployment: Deployment, runner: Runner, habit: int, named: str
) -> None:
    """Every reading agrees, yet a loader would take other weights: the job fails, and there is nothing to download."""
    job_id = submit(deployment, seed=habit)
    runner.run_next()
    job = job_of(deployment.db, job_id)
    assert job.error is not None
    assert (job.status, job.crashes, job.fine_tuned_model) == ("failed", 0, None)
    assert (job.error["code"], named in job.error["message"]) == ("unverifiable_result", True)
    assert verdict_of(deployment, job_id)["verdict"] == "incomplete"
    with deployment.db.read() as session:
        evidence = session.get_one(Evidence, job_id)
        assert (evidence.envelope, evidence.keyid, evidence.model_sig) == (None, None, None)
    with deployment.db.snapshot() as session:
        assert {entry.key for entry in runner.storage.blobs()} == find_references(session).keys()


def test_frozen_weight_that_moved_fails_the_job(deployment: Deployment, runner: Runner) -> None:
    """An enforced policy that was not kept: failed, evidence says violated, and nobody gets the model."""
    job_id = submit(deployment, seed=stub_trainer.MOVE_WEIGHT)
    runner.run_next()
    job = job_of(deployment.db, job_id)
    assert (job.status, job.fine_tuned_model) == ("failed", None)
    assert job.error is not None
    assert job.error["code"] == "frozen_parameters_changed"
    assert verdict_of(deployment, job_id)["violations"] == [
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
    assert verdict_of(deployment, job_id)["verdict"] == "violated"


def test_audit_that_asks_to_abort_fails_the_job(deployment: Deployment, runner: Runner) -> None:
    """`on_violation: abort` means so in an audit, too."""
    policy = {"freeze": ["weight"], "enforce": False, "on_violation": "abort"}
    job_id = submit(deployment, seed=stub_trainer.MOVE_WEIGHT, policy=policy)
    runner.run_next()
    job = job_of(deployment.db, job_id)
    assert (job.status, job.fine_tuned_model) == ("failed", None)
    assert verdict_of(deployment, job_id)["verdict"] == "violated"


def test_trainer_that_lies_is_not_believed(deployment: Deployment, runner: Runner) -> None:
    """A digest that does not fit the files makes the evidence incomplete, or violated when it contradicts itself."""
    job_id = submit(deployment, seed=stub_trainer.LIE)
    runner.run_next()
    assert verdict_of(deployment, job_id)["verdict"] == "violated"


def test_violation_during_training_is_evidence(deployment: Deployment, runner: Runner) -> None:
    """A run that the witness stopped has a verdict, though it has no result."""
    job_id = submit(deployment, seed=stub_trainer.STOP_ON_VIOLATION)
    runner.run_next()
    found = verdict_of(deployment, job_id)
    assert (job_of(deployment.db, job_id).status, found["verdict"]) == ("failed", "violated")
    assert found["violations"][0]["operation"] == "aten::add_"


def test_a_signer_that_does_not_answer_is_asked_again(deployment: Deployment, runner: Runner, tmp_path: Path) -> None:
    """An HSM that is away is no fault of the job's: a crash, with its reason; signed when it is back."""
    hsm = generate("ecdsa-p256")
    path = tmp_path / "signing.key"
    write_private(tmp_path / "hsm.pem", hsm)
    path.with_suffix(".pub").write_text(hsm.public_pem)
    command = f"openssl dgst -sha256 -sign {tmp_path / 'hsm.pem'}"
    load_or_create(path, command=command)
    beside = add(path, command=command)
    job_id = submit(deployment)
    runner.settings = runner.settings.model_copy(update={"signing_key": path, "signer": "false"})
    runner.run_next()
    job = job_of(deployment.db, job_id)
    assert (job.status, job.crashes) == ("queued", 1)
    assert any(
        "PERMAFROST_SIGNER (false) ended with code 1" in event.message for event in events_of(deployment.db, job_id)
    )

    runner.settings = runner.settings.model_copy(update={"signer": command})
    with deployment.db.write() as session:
        session.execute(update(Job).values(not_before=None))
    runner.run_next()
    assert job_of(deployment.db, job_id).status == "succeeded"
    with deployment.db.read() as session:
        evidence = session.get_one(Evidence, job_id)
        envelope = read_envelope(evidence.envelope or b"")
    assert evidence.keyid == hsm.keyid
    assert {key.keyid for key in signers_of(envelope, read_ring(path))} == {hsm.keyid, beside.keyid}
