"""A sweep through HTTP with real trainers: evidence for each job, ranks, early stopping."""

import json
import time
from typing import Any

import pytest

from tests.end_to_end.conftest import Service
from tests.patience import PATIENCE

MODEL = {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 2, "out_features": 1}}


@pytest.fixture(scope="module")
def files(service: Service) -> tuple[str, str]:
    """Training and validation examples of y = 2a - b."""
    rows = [{"x": [n / 10, (n % 7) / 7], "y": 2 * n / 10 - (n % 7) / 7} for n in range(48)]
    parts = (rows[:32], rows[32:])
    return tuple(service.upload("\n".join(map(json.dumps, part)).encode(), "a.jsonl") for part in parts)  # type: ignore[return-value]


def ended(service: Service, sweep_id: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while (sweep := service.get(f"fine_tuning/sweeps/{sweep_id}"))["status"] == "running":
        assert time.monotonic() < deadline, f"{sweep}\n{service.log()}"
        time.sleep(0.05)
    return sweep


def test_every_job_has_evidence_and_the_best_is_ranked_first(service: Service, files: tuple[str, str]) -> None:
    """The metric of the ranking is the one of the job's own last evaluation."""
    training, validation = files
    job = {"model": MODEL, "training_file": training, "validation_file": validation, "seed": 1}
    job |= {"freeze_policy": {"freeze": ["bias"]}, "hyperparameters": {"n_epochs": 4, "batch_size": 8}}
    body = {"job": job, "grid": {"hyperparameters": {"learning_rate": [0.0001, 0.1, 0.01]}}, "metric": "rmse"}
    sweep = ended(service, service.post("fine_tuning/sweeps", body)["id"])
    assert sweep["status"] == "succeeded", sweep
    assert [row["rank"] for row in sweep["ranking"]] == [1, 2, 3]
    assert [row["value"] for row in sweep["ranking"]] == sorted(row["value"] for row in sweep["ranking"])
    assert {row["verdict"] for row in sweep["ranking"]} == {"verified"}
    for row in sweep["ranking"]:
        points = service.get(f"fine_tuning/jobs/{row['job_id']}/metrics?split=valid")["data"]
        assert (points[-1]["step"], points[-1]["values"]["rmse"]) == (row["step"], row["value"])
    assert sweep["best"]["fine_tuned_model"] == sweep["ranking"][0]["fine_tuned_model"]


def test_a_job_that_falls_behind_is_stopped(service: Service, files: tuple[str, str]) -> None:
    """The last of the list learns nothing, and would run for hours; its trainer ends, and its state says cancelled."""
    training, validation = files
    job = {"model": MODEL, "training_file": training, "validation_file": validation, "seed": 1}
    job |= {"hyperparameters": {"batch_size": 8, "eval_steps": 5, "lr_schedule": "constant"}}
    good = [{"hyperparameters": {"max_steps": 10, "learning_rate": rate}} for rate in (0.1, 0.05)]
    bad = {"hyperparameters": {"max_steps": 10_000_000, "learning_rate": 1e-9}}
    body = {"job": job, "variations": [*good, bad], "early_stopping": {"type": "median", "min_jobs": 2}}
    sweep = ended(service, service.post("fine_tuning/sweeps", body)["id"])
    last = sweep["ranking"][-1]
    assert (sweep["status"], last["status"], last["rank"]) == ("succeeded", "cancelled", None)
    assert "worse than the median" in last["stopped"]
    events = service.get(f"fine_tuning/jobs/{last['job_id']}/events?limit=1")["data"]
    assert events[0]["data"]["jobs"] == 2 and events[0]["level"] == "warn"
