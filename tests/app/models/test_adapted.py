"""What a job with an adapter resolves, from the tensors of the model below it."""

import pytest

from app.errors import ModelError
from app.freeze.plan import resolve
from app.freeze.policy import Policy
from app.freeze.tensors import TensorInfo
from app.models.adapted import with_adapter
from app.models.manifest import Manifest
from app.specs.adapters import LoraSpec

ROOT = "BertForSequenceClassification"


def tensor(name: str) -> TensorInfo:
    return TensorInfo(name, (4, 4), "F32", module_types=(ROOT, "Linear"))


BELOW = Manifest([tensor("bert.query.weight"), tensor("classifier.weight")], frozenset({"classifier.weight"}))


def test_an_adapter_and_a_new_head_train_over_a_frozen_base() -> None:
    policy, manifest = with_adapter(Policy(), BELOW, LoraSpec(r=2))
    counts = resolve(policy, manifest.tensors).counts()
    assert (counts["frozen"]["tensors"], counts["trainable"]["tensors"]) == (1, 3)
    assert manifest.initialised == {"base_model.model.classifier.weight"}


def test_a_merged_adapter_leaves_the_models_own_tensors() -> None:
    """Those that it is merged into may change."""
    policy, manifest = with_adapter(Policy(), BELOW, LoraSpec(merge=True))
    assert manifest is BELOW
    assert resolve(policy, manifest.tensors).counts()["frozen"]["tensors"] == 0


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(ModelError, match="no module called 'kwery'"):
        with_adapter(Policy(), BELOW, LoraSpec(target_modules=("kwery",)))
