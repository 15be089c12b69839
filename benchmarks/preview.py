"""Previewing a policy over a registered model of 300 tensors: the work of the endpoint without HTTP and database."""

import json
import statistics
import time
from collections.abc import Iterable

from app.freeze.plan import TensorInfo
from app.freeze.preview import preview
from app.freeze.schemas import FreezePolicy
from benchmarks.figure import Figure

RUNS = 200
POLICY = {
    "default": "freeze",
    "rules": [
        {"action": "train", "select": {"layers": {"path": "bert.encoder.layer", "last": 2}}},
        {"action": "train", "select": {"module_type": "LayerNorm"}},
        {"action": "train", "select": {"name": ["**.bias", "classifier.**"]}},
    ],
}


def figures() -> Iterable[Figure]:
    manifest = json.dumps([tensor.to_json() for tensor in model()])
    milliseconds = sorted(previewed(manifest) for _ in range(RUNS))
    median = statistics.median(milliseconds)
    yield Figure("preview of 300 tensors, median", median, "ms", "at most 20")
    yield Figure("preview of 300 tensors, p99", milliseconds[int(RUNS * 0.99)], "ms")


def previewed(manifest: str) -> float:
    """From the request's JSON and the stored manifest to the answer's JSON."""
    began = time.perf_counter()
    policy = FreezePolicy.model_validate(POLICY).normal()
    found = preview(policy, map(TensorInfo.from_json, json.loads(manifest)))
    json.dumps({**found.to_json(), "data": found.rows})
    return (time.perf_counter() - began) * 1e3


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
