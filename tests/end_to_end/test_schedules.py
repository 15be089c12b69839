"""A tensor frozen for some steps: the evidence of every interval, when the job is paused or its trainer dies."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.evidence.verifier.verify import main as verify
from tests.end_to_end.conftest import Service
from tests.end_to_end.test_interruptions import kill

pytestmark = pytest.mark.slow

STEPS = 12_800  # 1,600 epochs of 8 batches: some seconds, so that an interruption never comes too late
INTERVALS: list[tuple[int, int | None]] = [(0, 200), (700, 1500), (2000, None)]
POLICY = {
    "rules": [
        {
            "id": "now-and-then",
            "action": "freeze",
            "select": {"name": "weight"},
            "when": [{"from_step": start, "to_step": stop} for start, stop in INTERVALS],
        }
    ]
}


def submit(service: Service, table: str) -> str:
    body = {
        "model": {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 4, "out_features": 1}},
        "training_file": table,
        "seed": 12,
        "hyperparameters": {"n_epochs": 1_600, "batch_size": 8, "learning_rate": 0.001},
        "freeze_policy": POLICY,
    }
    return str(service.post("fine_tuning/jobs", body)["id"])


def intervals(service: Service, job_id: str) -> list[dict[str, Any]]:
    """What the signed statement says of the weight, once the job has succeeded."""
    job = service.ended(job_id)
    assert job["status"] == "succeeded", (job["error"], service.log())
    assert job["evidence"]["verdict"] == "verified"
    envelope = service.get(f"fine_tuning/jobs/{job_id}/attestation")
    parameters = json.loads(base64.b64decode(envelope["payload"]))["predicate"]["parameters"]
    (row,) = [row for row in parameters if row["name"] == "weight"]
    assert row["role"] == "scheduled"
    found: list[dict[str, Any]] = row["intervals"]
    return found


@pytest.fixture(scope="module")
def undisturbed(service: Service, table: str) -> Iterator[list[dict[str, Any]]]:
    """The evidence of a run that nobody interrupts."""
    yield intervals(service, submit(service, table))


def test_every_interval_has_its_evidence(undisturbed: list[dict[str, Any]]) -> None:
    """Still within each, moved between them; "to the end" is written as such."""
    assert [(each["fromStep"], each.get("toStep")) for each in undisturbed] == INTERVALS
    assert all(each["before"] == each["after"] for each in undisturbed)
    assert len({each["before"] for each in undisturbed}) == len(INTERVALS)


def test_a_schedule_over_the_whole_run_is_no_claim_about_the_base(service: Service, table: str) -> None:
    """Words and numbers say what was proved: nothing about the base, and that one tensor stayed within its steps."""
    job = service.post(
        "fine_tuning/jobs",
        {
            "model": {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 4, "out_features": 1}},
            "training_file": table,
            "hyperparameters": {"max_steps": 4},
            "freeze_policy": {
                "rules": [
                    {"action": "freeze", "select": {"name": "weight"}, "when": [{"from_step": 0, "to_step": 400}]},
                ]
            },
        },
    )
    evidence = service.ended(job["id"])["evidence"]
    counts = [evidence[f"{kind}_tensors"] for kind in ("frozen", "scheduled", "split")]
    assert (evidence["verdict"], counts) == ("verified", [0, 1, 0])
    assert service.get(f"fine_tuning/jobs/{job['id']}/evidence")["scheduled_tensors"] == 1
    messages = [event["message"] for event in service.get(f"fine_tuning/jobs/{job['id']}/events")["data"]]
    assert "Evidence verified: 1 scheduled tensor is unchanged in every frozen step" in messages


@pytest.mark.parametrize("step", [100, 400, 1000], ids=["frozen", "thawed", "frozen again"])
def test_paused_schedule_goes_on(
    service: Service, table: str, undisturbed: list[dict[str, Any]], step: int, tmp_path: Path
) -> None:
    """Stopped inside an interval or between two: the same evidence as without a pause, and an outsider agrees."""
    job_id = submit(service, table)
    service.until(job_id, lambda job: (job["progress"]["step"] or 0) >= step)
    service.post(f"fine_tuning/jobs/{job_id}/pause")
    service.until(job_id, lambda job: job["status"] == "paused")
    assert service.job(job_id)["progress"]["step"] < STEPS
    service.post(f"fine_tuning/jobs/{job_id}/resume")
    assert intervals(service, job_id) == undisturbed
    _verify(service, job_id, tmp_path)


@pytest.mark.chaos
def test_killed_schedule_goes_on(service: Service, table: str, undisturbed: list[dict[str, Any]]) -> None:
    """kill -9 of the trainer, once in the first interval and once in the second."""
    job_id = submit(service, table)
    kill(service, job_id, attempt=1, step=50)
    kill(service, job_id, attempt=2, step=900)
    assert intervals(service, job_id) == undisturbed
    assert service.job(job_id)["attempts"] == 3


def _verify(service: Service, job_id: str, folder: Path) -> None:
    (folder / "result").mkdir()
    model = service.job(job_id)["fine_tuned_model"]
    for file in service.get(f"models/{model}")["files"]:
        content = service.client.get(f"models/{model}/files/{file['name']}").content
        (folder / "result" / file["name"]).write_bytes(content)
    (folder / "attestation.json").write_bytes(service.client.get(f"fine_tuning/jobs/{job_id}/attestation").content)
    (folder / "key.pub").write_text(service.get("signing_keys")["data"][0]["public_key"])
    outsider = [str(folder / "attestation.json"), "--key", str(folder / "key.pub")]
    assert verify([*outsider, "--result", str(folder / "result")]) == 0
