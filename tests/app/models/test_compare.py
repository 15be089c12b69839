"""What changed between two stored models, and whether a policy's frozen tensors are identical."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.evidence.diff.changes import Change
from app.http.dependencies import Backends
from app.models.schemas import ChangeStatistics, ModelComparison
from tests.app.models.models import NAMES, add_model, add_result


def compare(client: TestClient, base: Any, result: Any, **options: Any) -> Any:
    answer = client.post("models/compare", json={"base": base, "result": result, **options})
    return answer.json() if answer.status_code == 200 else (answer.status_code, answer.json()["error"])


def test_what_changed_between_two_models(client: TestClient, backends: Backends, tmp_path: Path) -> None:
    """Changed tensors with statistics; all of them, or without statistics, when asked for."""
    base = add_model(backends, tmp_path)
    result = add_result(backends, tmp_path, base)
    found = compare(client, base.id, result.id)
    ModelComparison.model_validate(found, extra="forbid")
    assert found["counts"] == {"same": 2, "changed": 1, "dtype": 0, "shape": 0, "added": 0, "removed": 0}
    (tensor,) = found["tensors"]
    assert (tensor["name"], tensor["status"]) == (NAMES[2], "changed")
    assert (tensor["change"]["changed"], tensor["change"]["max_abs"], found["verdict"]) == (6, 7.0, None)
    assert set(ChangeStatistics.model_fields) == {field.name for field in fields(Change)}
    plain = compare(client, base.id, result.id, statistics=False, unchanged=True)
    assert [(each["status"], each["change"]) for each in plain["tensors"]] == [
        ("same", None),
        ("same", None),
        ("changed", None),
    ]


@pytest.mark.parametrize(("names", "verdict"), [(["bert.**"], "identical"), (["**"], "violated")])
def test_a_policy_makes_it_an_audit(
    client: TestClient, backends: Backends, tmp_path: Path, names: list[str], verdict: str
) -> None:
    """What the policy freezes has to be the base's; the rest may be anything."""
    base = add_model(backends, tmp_path)
    result = add_result(backends, tmp_path, base)
    found = compare(client, base.id, result.id, freeze_policy={"freeze": names})
    assert found["verdict"] == verdict
    broken = [{"name": NAMES[2], "rule": "rule-1", "reason": "its bytes changed"}]
    assert found["violations"] == (broken if verdict == "violated" else [])


def test_what_cannot_be_compared_is_refused_before_the_answer_begins(
    client: TestClient, backends: Backends, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unknown models and policies that do not fit, by field; a model that is not read yet; a blob that is missing."""
    base = add_model(backends, tmp_path)
    result = add_result(backends, tmp_path, base)
    assert compare(client, "nobody", base.id)[0] == 404
    status, error = compare(client, base.id, result.id, freeze_policy={"freeze": ["bret.**"]})
    assert (status, error["code"]) == (400, "invalid_freeze_policy")
    assert error["param"].startswith("freeze_policy")
    assert compare(client, base.id, result.id, extra=1)[0] == 400
    pending = add_model(backends, tmp_path, "pending", status="pending", tensors=[])
    assert compare(client, base.id, pending.id)[1]["code"] == "model_not_read"
    monkeypatch.setattr("app.storage.blobs.UNSETTLED_SECONDS", -60)  # both models stored these bytes just now
    assert backends.storage.delete(base.tensors[0]["blob"])
    status, error = compare(client, base.id, result.id)
    assert (status, "doctor" in error["message"]) == (404, True)
