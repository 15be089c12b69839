"""Resolving a freeze policy: over 100,000 tensors with every kind of selector, beside the cost of one plain regex."""

import re
import statistics
import time
from collections.abc import Iterable

from app.freeze.plan import TensorInfo, resolve
from app.freeze.policy import Policy
from benchmarks.figure import Figure

TENSORS = 100_000
RUNS = 7
POLICY = {
    "rules": [
        {"action": "train", "select": {"name": ["**.bias", "head.**"]}},
        {"action": "train", "select": {"module_type": "RMSNorm"}},
        {"action": "freeze", "select": {"layers": {"path": "model.layers", "first": 100}}},
        {"action": "freeze", "select": {"regex": r"model\.layers\.\d+\.experts\.1\d*\.(up|down)\..*"}},
        {"action": "freeze", "mechanism": "detach", "select": {"module": "model.layers.*.experts"}},
    ]
}


def figures() -> Iterable[Figure]:
    tensors, policy = model(TENSORS), Policy.from_json(POLICY)
    seconds = [timed(policy, tensors) for _ in range(RUNS)]
    names = [tensor.name for tensor in tensors]
    floor = statistics.median(one_regex(names) for _ in range(RUNS))
    beside = f"at most 1; one re.fullmatch per name, without a plan: {floor:.3f}"
    yield Figure(f"resolve 5 rules over {TENSORS:,} tensors, median of {RUNS}", statistics.median(seconds), "s", beside)
    yield Figure(f"resolve 5 rules over {TENSORS:,} tensors, slowest of {RUNS}", max(seconds), "s")


def timed(policy: Policy, tensors: list[TensorInfo]) -> float:
    began = time.perf_counter()
    resolve(policy, tensors)
    return time.perf_counter() - began


def one_regex(names: list[str]) -> float:
    began = time.perf_counter()
    matches = re.compile(r"model\.layers\.\d+\.experts\.1\d*\.(up|down)\..*").fullmatch
    sum(matches(name) is not None for name in names)
    return time.perf_counter() - began


def model(count: int) -> list[TensorInfo]:
    """A mixture of experts: layers of 8 attention and norm tensors and of experts with 2 tensors each."""
    root = ("Model", "Decoder", "ModuleList", "Layer")
    tensors = [TensorInfo("head.weight", (64, 8), "BF16", module_types=("Model", "Linear"))]
    layer = 0
    while len(tensors) < count:
        path = f"model.layers.{layer}"
        tensors += [TensorInfo(f"{path}.norm.weight", (8,), "BF16", module_types=(*root, "RMSNorm"))]
        for part in "qkvo":
            for kind, shape in (("weight", (8, 8)), ("bias", (8,))):
                inner = (*root, "Attention", "Linear")
                tensors.append(TensorInfo(f"{path}.attention.{part}.{kind}", shape, "BF16", module_types=inner))
        for expert in range(128):
            for part in ("up", "down"):
                name = f"{path}.experts.{expert}.{part}.weight"
                owners = (*root, "ModuleList", "Expert", "Linear")
                tensors.append(TensorInfo(name, (8, 8), "BF16", module_types=owners))
        layer += 1
    return tensors[:count]
