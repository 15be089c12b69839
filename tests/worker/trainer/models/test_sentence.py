"""Folders of sentence-transformers: trained with their own pooling and layers, and loaded again by the library."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from app.errors import ModelError
from tests.worker.trainer import tiny
from tests.worker.trainer.attempts import Attempt, attempt, data, work_order
from tests.worker.trainer.judging import judge, objections_to
from tests.worker.trainer.sentence_folders import MODES, PAIRS, saved
from worker.protocol import Workspace
from worker.trainer.models import sentence
from worker.trainer.models.loading import read_base


def trained(root: Path, *kinds: str, pooling: str = "cls", policy: Any = None, adapter: Any = None) -> Attempt:
    place = Workspace(root).create()
    saved(place.base, *kinds, pooling=pooling)
    order = work_order(
        job_id="ftjob-pairs",
        stage="train",
        model={"type": "transformers", "path": "tiny"} | ({"adapter": adapter} if adapter else {}),
        task="pairs",
        data=data(place, PAIRS),
        hyperparameters={"n_epochs": 1, "batch_size": 4, "learning_rate": 1e-2},
        policy=policy or {},
        device="cpu",
    )
    return attempt(order, root)


def composed(done: Attempt, folder: Path) -> Path:
    """The result's files, as the supervisor makes them."""
    shutil.copytree(done.place.files, folder)
    base, changed = read_base(done.place.base), done.changed
    assert set(done.result) == set(base)
    held: dict[str, dict[str, torch.Tensor]] = {}
    for name, each in done.result.items():
        inside, _, rest = name.partition(".") if name.startswith("2_Dense.") else ("", "", name)
        path = done.place.base / inside / "model.safetensors"
        tensor = changed[name] if each["from"] == "changed" else load_file(path)[rest]
        held.setdefault(inside, {})[rest] = tensor
    for inside, tensors in held.items():
        save_file(tensors, folder / inside / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("pooling", MODES)
def test_the_result_gives_the_vectors_that_were_trained(pooling: str, tmp_path: Path) -> None:
    """`SentenceTransformer(result)` embeds as the job did, with its pooling, its dense layer and normalisation."""
    from sentence_transformers import SentenceTransformer

    done = trained(
        tmp_path / "job",
        "Dense",
        "Normalize",
        pooling=pooling,
        policy={"freeze": ["embeddings.**", "encoder.layer.0.**"]},
    )
    assert done.code == 0, done.reports[-1]
    judged = judge(done)
    assert (judged.verdict, objections_to(done, judged)) == ("verified", [])
    folder = composed(done, tmp_path / "result")

    texts = ["the cat sat on the mat", "a dog"]
    library = SentenceTransformer(str(folder), device="cpu")
    theirs = library.encode(texts, convert_to_tensor=True)
    model: Any = library[0].auto_model
    head = sentence.attach(model, folder)
    assert head is not None
    encoded = library.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        ours = head(model(**encoded).last_hidden_state, encoded["attention_mask"])
    assert theirs.shape == (2, 8)
    assert torch.allclose(ours, theirs, atol=1e-6)
    before = SentenceTransformer(str(done.place.base), device="cpu").encode(texts, convert_to_tensor=True)
    assert not torch.allclose(before, theirs, atol=1e-4)


def test_the_dense_layer_is_frozen_by_the_policy(tmp_path: Path) -> None:
    """Its tensors are called after its folder; frozen, they are proved, and the transformer trains through it."""
    done = trained(tmp_path, "Dense", policy={"freeze": ["2_Dense.**"]})
    judged = judge(done)
    assert (judged.verdict, objections_to(done, judged)) == ("verified", [])
    roles = {row.name: row.role for row in judged.rows}
    assert roles["2_Dense.linear.weight"] == roles["2_Dense.linear.bias"] == "frozen"
    assert roles["encoder.layer.0.output.dense.weight"] == "trainable"


def test_the_dense_layer_trains(tmp_path: Path) -> None:
    """Alone, over a frozen transformer."""
    done = trained(tmp_path, "Dense", policy={"train": ["2_Dense.**"]})
    assert {name for name, each in done.result.items() if each["from"] == "changed"} == {
        "2_Dense.linear.weight",
        "2_Dense.linear.bias",
    }


def test_an_adapter_leaves_the_dense_layer_as_it_is(tmp_path: Path) -> None:
    """It is part of the frozen base, and the adapter's file has nothing of it."""
    done = trained(tmp_path, "Dense", adapter={"type": "lora", "r": 2, "target_modules": ["query", "linear"]})
    assert done.code == 0, done.reports[-1]
    judged = judge(done)
    assert (judged.verdict, objections_to(done, judged)) == ("verified", [])
    assert not any("2_Dense" in name for name in done.result)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}, "pools by cls and max"),
        ({"pooling_mode_cls_token": False, "pooling_mode_weightedmean_tokens": True}, "pools by weightedmean"),
    ],
)
def test_another_pooling_is_refused(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    """By name, and never replaced by the mean."""
    path = saved(tmp_path) / "1_Pooling" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=says) as refused:
        sentence.attach(nn.Module(), tmp_path)
    assert refused.value.code == "unsupported_model"


def test_another_module_is_refused(tmp_path: Path) -> None:
    """A layer of a kind that is not followed, an activation of other code, and weights that are not there."""
    with pytest.raises(ModelError, match=r"sentence_transformers\.models\.LSTM"):
        sentence.listed(saved(tmp_path / "a", "LSTM"))
    path = saved(tmp_path / "b", "Dense") / "2_Dense" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"activation_function": "my_code.Swish"}))
    with pytest.raises(ModelError, match="2_Dense is not a dense layer that is supported"):
        sentence.attach(tiny_model(), tmp_path / "b")
    (saved(tmp_path / "c", "Dense") / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no 2_Dense/model\.safetensors"):
        sentence.attach(tiny_model(), tmp_path / "c")


def test_padding_on_either_side_does_not_count() -> None:
    """The first real token, the last one, and the mean of the real ones."""
    hidden = torch.arange(8.0).reshape(2, 4, 1)
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]])
    assert sentence.pool(hidden, mask, "cls").flatten().tolist() == [0, 5]
    assert sentence.pool(hidden, mask, "lasttoken").flatten().tolist() == [1, 7]
    assert sentence.pool(hidden, mask, "mean").flatten().tolist() == [0.5, 6]


def tiny_model() -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(**tiny.SMALL, intermediate_size=64, max_position_embeddings=32))
