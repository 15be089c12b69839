"""Every task of docs/training.md, as the page has it: its file uploaded, its job posted, its result verified."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from app.files.formats import TASKS
from tests.end_to_end.conftest import ROOT, Service

#: Metrics that a job of each kind reports when something is held out.
METRICS = {
    "causal-lm": {"perplexity", "token_accuracy"},
    "preference": {"accuracy", "margin"},
    "text-classification": {"accuracy", "macro_f1", "majority_baseline"},
    "text-regression": {"mse", "rmse", "mae"},
    "text-ranking": {"accuracy", "mrr", "ndcg"},
    "token-classification": {"token_accuracy"},
    "pairs": {"accuracy", "mrr"},
    "image-classification": {"accuracy", "macro_f1"},
    "contrastive-image-text": {"accuracy", "mrr"},
    "image-text": {"perplexity", "token_accuracy"},
    "tabular-regression": {"mse", "rmse", "mae"},
    "tabular-classification": {"accuracy", "macro_f1"},
}

#: What data becomes does not depend on database or broker, and jobs take their time.
EMBEDDED = pytest.mark.parametrize("service", ["embedded"], indirect=True)


def sections() -> dict[str, dict[str, str]]:
    """The page's tasks, each with its fenced blocks by language."""
    text = (ROOT / "docs" / "training.md").read_text().partition("\n## Tasks\n")[2].partition("\n## ")[0]
    found = {}
    for part in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        blocks = dict(re.findall(r"^```(\w+)\n(.*?)^```$", part, flags=re.MULTILINE | re.DOTALL))
        found[part[1 : part.index("`", 1)]] = blocks
    return found


def picture(at: int) -> bytes:
    image = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    image.new("RGB", (8, 8), (40 + at, 0, 0) if at % 2 else (0, 0, 40 + at)).save(buffer, "PNG")
    return buffer.getvalue()


def upload(service: Service, blocks: dict[str, str]) -> str:
    """The page's lines, twelve times over: a few examples are enough to read, and too few to train on."""
    if "csv" in blocks:
        header, _, rows = blocks["csv"].partition("\n")
        return service.upload((header + "\n" + rows * 12).encode(), "train.csv")
    lines = blocks["jsonl"].splitlines() * 12
    for at, line in enumerate(lines):
        lines[at] = line.replace("iVBORw0KGgo…", base64.b64encode(picture(at)).decode())
    return service.upload("\n".join(lines).encode(), "train.jsonl")


@pytest.fixture(scope="module")
def models(service: Service) -> Path:
    """Tiny ones under the names that the page uses."""
    pytest.importorskip("transformers", reason="the worker's dependencies are not installed")
    from tests.worker.trainer import tiny, two_towers, vision_language

    tiny.bert(service.settings.models / "encoder")
    tiny.llama(service.settings.models / "decoder")
    vision_language.save("llava", service.settings.models / "llava")
    two_towers.save("clip", service.settings.models / "clip")
    return service.settings.models


def test_the_page_has_every_task() -> None:
    """With a file and a job for each."""
    found = sections()
    assert set(found) == set(TASKS) == set(METRICS)
    assert all("json" in blocks and ("jsonl" in blocks or "csv" in blocks) for blocks in found.values())


@EMBEDDED
@pytest.mark.parametrize("task", TASKS)
def test_task_of_the_page(service: Service, models: Path, task: str) -> None:
    """It is the task that the file speaks of; it ends verified, with the task's metrics."""
    blocks = sections()[task]
    body: dict[str, Any] = json.loads(blocks["json"]) | {"training_file": upload(service, blocks), "seed": 1}
    place = body.get("hyperparameters") or body["method"]["dpo"]["hyperparameters"]
    place.setdefault("validation_fraction", 0.25)
    made = service.post("fine_tuning/jobs", body)
    assert made["task"] == task
    job = service.ended(made["id"])
    assert job["status"] == "succeeded", (job["error"], service.log())
    assert job["evidence"]["verdict"] == "verified"
    assert job["method"]["type"] == ("dpo" if task == "preference" else "supervised")
    points = service.get(f"fine_tuning/jobs/{job['id']}/metrics?split=valid")["data"]
    assert METRICS[task] <= set(points[-1]["values"])
    assert points[-1]["values"]["loss"] >= 0


@EMBEDDED
def test_preferences_through_the_sdk(service: Service, models: Path) -> None:
    """As OpenAI's clients ask for DPO and are told of it, strictly; what was frozen is proved over its own base."""
    blocks = sections()["preference"]
    body = json.loads(blocks["json"])
    options: Any = {"api_key": "none", "max_retries": 0, "_strict_response_validation": True}
    with OpenAI(base_url=str(service.client.base_url), **options) as sdk:
        lines = blocks["jsonl"].encode() * 12
        file = sdk.files.create(file=("p.jsonl", lines), purpose="fine-tune")
        ours = {"freeze_policy": body["freeze_policy"]}
        made = sdk.fine_tuning.jobs.create(
            model="decoder", training_file=file.id, method=body["method"], extra_body=ours
        )
        service.ended(made.id)
        job = sdk.fine_tuning.jobs.retrieve(made.id)
    assert (job.status, job.method.type) == ("succeeded", "dpo")
    settled = {"n_epochs": 1, "batch_size": 4, "learning_rate_multiplier": 1.0, "beta": 0.2}
    assert job.method.dpo.hyperparameters.model_dump() == settled
    assert job.model_extra["evidence"]["verdict"] == "verified"
    assert job.model_extra["evidence"]["frozen_tensors"] > 0


@EMBEDDED
def test_pictures_in_parquet(service: Service, models: Path) -> None:
    """As the `datasets` library writes them, of any size: the model's own processor resizes."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    from tests.worker.trainer import tiny

    tiny.vit(models / "vision")
    rows = [{"image": {"bytes": picture(at), "path": None}, "label": at % 2} for at in range(24)]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    body: dict[str, Any] = {"model": "vision", "training_file": service.upload(buffer.getvalue(), "train.parquet")}
    body |= {"freeze_policy": {"freeze": ["vit.embeddings.**"]}, "hyperparameters": {"n_epochs": 1, "batch_size": 8}}
    job = service.ended(service.post("fine_tuning/jobs", body)["id"])
    assert (job["status"], job["task"]) == ("succeeded", "image-classification"), job["error"]
    assert job["evidence"]["verdict"] == "verified", service.get(f"fine_tuning/jobs/{job['id']}/evidence")["reason"]
