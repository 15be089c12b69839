"""The request that a filled-in form makes."""

import json

import pytest

from app.errors import InvalidRequest
from app.freeze.tensors import TensorInfo
from app.jobs.requests.model_spec import TransformersRequest
from app.models.manifest import Manifest
from app.pages.job_form import JobForm

MANIFEST = Manifest([TensorInfo("a.w", (4,), "F32"), TensorInfo("b.w", (2,), "F32")])


def test_what_is_left_empty_is_left_out() -> None:
    """So that the service decides, as for a request without it."""
    request = JobForm(model=" m ", training_file="file-1").request({})
    assert request.model_dump(exclude_unset=True, mode="json") == {"model": "m", "training_file": "file-1"}


def test_every_field_is_in_the_request() -> None:
    """Also those that the form has no field for; its own hyperparameters give way to those."""
    form = JobForm(model="m", training_file="f", validation_file="v", task="causal-lm", adapter="lora", rank="4")
    more = json.dumps({"priority": 3, "hyperparameters": {"n_epochs": 9, "weight_decay": 0.1}})
    form = form.model_copy(
        update={
            "n_epochs": "2",
            "learning_rate": "1e-4",
            "batch_size": "auto",
            "seed": "5",
            "tags": "a,,b",
            "more": more,
        }
    )
    request = form.request({"freeze": ["a.**"]})
    assert isinstance(request.model, TransformersRequest)
    assert request.model.model_dump(exclude_unset=True)["adapter"]["r"] == 4
    assert (request.task, request.priority, request.seed, request.tags) == ("causal-lm", 3, 5, ["a", "b"])
    chosen = request.chosen().model_dump(exclude_unset=True)
    assert chosen == {"n_epochs": 9, "learning_rate": 1e-4, "batch_size": "auto", "weight_decay": 0.1}


def test_a_policy_is_a_preset_or_ones_own() -> None:
    """An audit declares it without enforcing it; a preset needs the model's tensors."""
    assert JobForm(preset="head").freeze_policy(MANIFEST) == {"freeze": ["a.**"]}
    own = JobForm(preset="json", policy='{"freeze": ["b.w"]}', audit="1")
    assert own.freeze_policy(None) == {"freeze": ["b.w"], "enforce": False}
    assert JobForm(preset="everything", audit="1").freeze_policy(None) == {}
    with pytest.raises(InvalidRequest, match="not known yet"):
        JobForm(preset="head").freeze_policy(None)
