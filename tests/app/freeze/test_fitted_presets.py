"""Policies by a word, resolved on models of several shapes."""

from typing import Any

import pytest

from app.errors import InvalidRequest
from app.freeze.fitted_presets import PRESETS, policy
from app.freeze.plan import resolve
from app.freeze.policy import Policy
from app.freeze.tensors import TensorInfo


def tensor(name: str, elements: int = 4, module: str = "Linear", aliases: tuple[str, ...] = ()) -> TensorInfo:
    return TensorInfo(name, (elements,), "F32", module_types=("Model", module), aliases=aliases)


BERT = [
    tensor("bert.embeddings.word.weight", 100, "Embedding"),
    *(tensor(f"bert.encoder.layer.{at}.dense.{part}", 50) for at in range(12) for part in ("weight", "bias")),
    tensor("classifier.weight"),
    tensor("classifier.bias"),
]
HEAD = {"classifier.weight", "classifier.bias"}
#: Its output layer is tied to its embedding.
GPT = [
    tensor("model.wte.weight", 100, "Embedding", aliases=("lm_head.weight",)),
    *(tensor(f"model.h.{at}.dense.weight", 50) for at in range(3)),
]
AFFINE = [tensor("weight", 20), tensor("bias", 2)]


@pytest.mark.parametrize(
    ("preset", "tensors", "new", "trained"),
    [
        ("everything", BERT, HEAD, {each.name for each in BERT}),
        ("head", BERT, HEAD, HEAD),
        ("head", AFFINE, set(), {"bias"}),
        ("head", GPT, set(), {"model.h.2.dense.weight"}),
        ("layers", BERT, HEAD, {e.name for e in BERT if "layer.0." not in e.name and "layer.1." not in e.name}),
        ("embeddings", GPT, set(), {f"model.h.{at}.dense.weight" for at in range(3)}),
        ("biases", BERT, HEAD, {e.name for e in BERT if e.name.endswith("bias")} | HEAD),
    ],
)
def test_a_preset_means_what_it_says(preset: str, tensors: Any, new: Any, trained: set[str]) -> None:
    """Resolved as a job's policy is: no rule without a match, and no tie that is decided twice."""
    made = policy(preset, tensors, initialised=new, layers=2)
    plan = resolve(Policy.from_json(made), tensors)
    assert {each.name for each in plan.decisions if each.action == "train"} == trained


@pytest.mark.parametrize("preset", ["layers", "embeddings", "other"])
def test_a_model_without_the_part_is_refused(preset: str) -> None:
    """In words, by the field of the form."""
    with pytest.raises(InvalidRequest) as caught:
        policy(preset, AFFINE)
    assert caught.value.param == "preset"
    assert set(PRESETS) == {"everything", "head", "layers", "embeddings", "biases"}
