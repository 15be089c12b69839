"""Previewing a policy over a registered model of 300 tensors: the endpoint over a kept connection, and its parts."""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from app.db import Database, now
from app.freeze.plan import TensorInfo
from app.freeze.preview import preview
from app.freeze.schemas import FreezePolicy
from app.models import manifest
from app.models.tables import Model
from app.settings import Settings
from benchmarks.figure import Figure
from demo.service import Service

RUNS = 200
TASKS = ("text-classification", "token-classification", "causal-lm", "pairs")
POLICY = {
    "default": "freeze",
    "rules": [
        {"action": "train", "select": {"layers": {"path": "bert.encoder.layer", "last": 2}}},
        {"action": "train", "select": {"module_type": "LayerNorm"}},
        {"action": "train", "select": {"name": ["**.bias", "classifier.**"]}},
    ],
}


def figures() -> Iterable[Figure]:
    """A page of 100 rows, as by default, and all rows; then what of it is neither HTTP nor database."""
    stored = {task: [tensor.to_json() for tensor in model()] for task in TASKS} | {"": TASKS[0]}
    with tempfile.TemporaryDirectory(prefix="permafrost-bench-") as folder, Service(Path(folder)) as service:
        register(Path(folder), stored)
        body = {"model": "bench", "freeze_policy": POLICY}
        paged = timed(lambda: service.post("/v1/freeze_policies/preview", body))
        whole = timed(lambda: service.post("/v1/freeze_policies/preview", {**body, "limit": 1000}))
    yield Figure("POST of a preview, 300 tensors, median", statistics.median(paged), "ms", "at most 20")
    yield Figure("POST of a preview, 300 tensors, p99", paged[int(RUNS * 0.99)], "ms")
    yield Figure("POST of a preview, all 300 rows, median", statistics.median(whole), "ms", "at most 20")
    text = json.dumps(stored)
    parts = timed(lambda: previewed(text))
    yield Figure("preview without HTTP and database, median", statistics.median(parts), "ms")


def register(home: Path, stored: dict[str, Any]) -> None:
    """A base model as a worker would have left it, so far as previews look at it."""
    database = Database(Settings(data_dir=home).database)
    with database.write() as session:
        row = Model(id="bench", owned_by="permafrost", kind="base", status="ready", created_at=now(session))
        row.spec, row.manifest = {"type": "transformers", "path": "bench"}, stored
        session.add(row)
    database.close()


def timed(do: Callable[[], Any]) -> list[float]:
    """Milliseconds, sorted; the first call is not counted."""
    do()
    found = []
    for _ in range(RUNS):
        began = time.perf_counter()
        do()
        found.append((time.perf_counter() - began) * 1e3)
    return sorted(found)


def previewed(text: str) -> str:
    """From the request's JSON and the stored manifest to the answer's JSON."""
    known = manifest.for_task(json.loads(text), TASKS[0])
    assert known is not None
    found = preview(FreezePolicy.model_validate(POLICY).normal(), known.tensors, initialised=known.initialised)
    return json.dumps({**found.to_json(), "data": found.rows})


def model() -> list[TensorInfo]:
    """300 tensors in the shape of an encoder: 18 layers of 16, embeddings, a head."""
    root = ("Bert", "BertModel")
    tensors = [TensorInfo(f"bert.embeddings.e{i}.weight", (512, 64), "F32", module_types=root) for i in range(10)]
    tensors += [TensorInfo(f"classifier.{kind}", (4,), "F32", module_types=("Bert", "Linear")) for kind in "wb"]
    for layer in range(18):
        path, types = f"bert.encoder.layer.{layer}", (*root, "BertEncoder", "ModuleList", "BertLayer")
        for part in ("query", "key", "value", "dense", "up", "down"):
            for kind in ("weight", "bias"):
                tensors.append(TensorInfo(f"{path}.{part}.{kind}", (64, 64), "F32", module_types=(*types, "Linear")))
        for part in ("norm_in", "norm_out"):
            for kind in ("weight", "bias"):
                tensors.append(TensorInfo(f"{path}.{part}.{kind}", (64,), "F32", module_types=(*types, "LayerNorm")))
    return tensors
