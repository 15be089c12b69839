"""The model of a request: what its fields may hold."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from app.jobs.requests.model_spec import ModelField, TransformersRequest, model_choice
from app.specs.models import RegisteredSpec
from app.specs.models import TransformersSpec as Spec

ADAPTER: TypeAdapter[Any] = TypeAdapter(ModelField)


def test_an_id_and_a_spec_become_what_the_worker_shares() -> None:
    """An id alone stands for a registered model."""
    assert model_choice("minilm") == RegisteredSpec(id="minilm")
    request = ADAPTER.validate_python({"type": "transformers", "path": "minilm", "num_labels": 2})
    assert isinstance(request, TransformersRequest)
    choice = model_choice(request)
    assert isinstance(choice, Spec)
    assert (choice.path, choice.num_labels) == ("minilm", 2)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"type": "onnx"}, "whose `type` is `transformers` or `torch`"),
        ({"type": "transformers", "path": "minilm", "revision": "main"}, "revision belongs to a model of a hub"),
        ({"type": "transformers", "path": "a", "new_tokens": ["x"], "adapter": {"type": "ia3"}}, "give one of them"),
        ({"type": "torch", "architecture": "mlp", "kwargs": {"width": 2**63}}, "more than 64 bits"),
        ({"type": "torch", "architecture": "mlp", "kwargs": {"width": "\ud800"}}, "surrogate pair"),
        ({"type": "torch", "architecture": "mlp", "kwargs": {"width": float("inf")}}, "not finite"),
    ],
)
def test_a_spec_that_cannot_be_meant_is_refused(spec: dict[str, Any], words: str) -> None:
    """Fields that exclude each other, and numbers and text that no database stores."""
    with pytest.raises(ValidationError, match=words):
        ADAPTER.validate_python(spec)
