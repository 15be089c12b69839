"""The signed statement about a job, and the keys that sign it."""

import base64
import json

from sqlalchemy import select

from app.evidence.format.envelope import read_envelope, signers_of
from app.evidence.format.keys import read_ring
from app.evidence.format.parse import read
from app.evidence.format.rotation import rotate
from app.evidence.format.strict import read_json
from app.evidence.tables import Evidence
from tests.conftest import Deployment
from tests.worker.supervisor import stub_trainer
from tests.worker.supervisor.jobs import submit
from worker.supervisor.runner import Runner


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
