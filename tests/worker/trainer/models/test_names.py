"""Live names, base names, result names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from tests.worker.trainer import tiny
from tests.worker.trainer.attempts import Attempt, attempt, data, work_order
from tests.worker.trainer.judging import judge, objections_to
from worker.protocol import Workspace
from worker.trainer.freeze.inventory import tensors
from worker.trainer.models import names
from worker.trainer.models.loading import read_base
from worker.trainer.models.names import StoredTensor, match, stored_form
from worker.trainer.witness.observe import digest


def test_new_tensor_is_never_paired_by_its_bytes(tmp_path: Path) -> None:
    """A new head of zeros has the bytes of some base tensor of zeros, and is not taken for it."""
    save_file({"old.bias": torch.zeros(3)}, tmp_path / "model.safetensors")
    base = read_base(tmp_path)
    head = StoredTensor("classifier.bias", torch.zeros(3), "classifier.bias")
    digests = {"classifier.bias": digest(head.tensor)}
    assert match([head], digests, base, prefix="") == {"classifier.bias": "old.bias"}
    assert match([head], digests, base, prefix="", new={"classifier.bias"}) == {}


@pytest.mark.parametrize("name", ["x.weight", "bert.x.weight"])
def test_base_model_prefix_is_bridged_both_ways(tmp_path: Path, name: str) -> None:
    """An encoder's file under a classifier, and a classifier's file under an encoder."""
    save_file({name: torch.ones(2)}, tmp_path / "model.safetensors")
    other = "bert.x.weight" if name == "x.weight" else "x.weight"
    stored = StoredTensor(other, torch.ones(2), other)
    found = match([stored], {other: digest(stored.tensor)}, read_base(tmp_path), prefix="bert")
    assert found == {other: name}


def test_ambiguous_bytes_pair_nothing(tmp_path: Path) -> None:
    """Two base tensors with the same bytes and other names: no guess."""
    save_file({"a": torch.ones(2), "b": torch.ones(2)}, tmp_path / "model.safetensors")
    stored = StoredTensor("c", torch.ones(2), "c")
    assert match([stored], {"c": digest(stored.tensor)}, read_base(tmp_path), prefix="") == {}


def test_cast_tensor_is_still_its_base_tensor(tmp_path: Path) -> None:
    """Same name and shape with other bytes: the same weight, though it can never count as identical."""
    save_file({"w": torch.ones(2, dtype=torch.float16)}, tmp_path / "model.safetensors")
    stored = StoredTensor("w", torch.ones(2), "w")
    assert match([stored], {"w": digest(stored.tensor)}, read_base(tmp_path), prefix="") == {"w": "w"}


def test_torch_ties_are_stored_once() -> None:
    """The second name of a tie is not in a saved file."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert [each.name for each in stored_form(model, tensors(model), base={})] == ["0.weight", "0.bias", "1.bias"]


@pytest.mark.parametrize(
    ("copy", "names"),
    [(torch.ones(3, 3), ["0.weight", "1.weight"]), (torch.zeros(3, 3), ["0.weight"])],
    ids=["same", "stale"],
)
def test_torch_ties_are_stored_as_the_base_stores_them(tmp_path: Path, copy: torch.Tensor, names: list[str]) -> None:
    """Under both names where the base has both; a copy with other bytes is nothing that the model had."""
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    save_file({"0.weight": torch.ones(3, 3), "1.weight": copy}, tmp_path / "model.safetensors")
    found = stored_form(model, tensors(model), base=read_base(tmp_path))
    assert [(each.name, each.live) for each in found] == [(name, "0.weight") for name in names]


def test_codes_are_not_numbered() -> None:
    """A column of bytes would have a number of eight bytes for each: eight times the model, at every look at it."""
    codes, weight = torch.zeros(1000, 1, dtype=torch.uint8), torch.zeros(4, 3)
    numbers, starts = names._numbered({"codes": codes, "weight": weight})
    assert numbers["codes"] is codes
    assert (numbers["weight"].tolist(), starts) == ([[0], [1], [2], [3]], [0, 0])


def test_mixture_of_experts_is_saved_as_it_was_stored(tmp_path: Path) -> None:
    """transformers fuses the experts while it loads; the result has the base's names and, where frozen, its bytes."""
    done = mixtral(tmp_path)
    assert done.code == 0
    names = set(load_file(done.place.base / "model.safetensors"))
    assert set(done.result) == names
    for name, each in done.result.items():
        trained = "layers.1" in name or name == "model.norm.weight"
        assert each["from"] == ("changed" if trained else "base"), name
    folder = tmp_path / "loaded"
    save_to = folder / "model.safetensors"
    folder.mkdir()
    for path in done.place.files.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    save_file(done.composed(), save_to, metadata={"format": "pt"})
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    live = loaded.state_dict()["model.layers.0.mlp.experts.gate_up_proj"]
    assert digest(live) == done.observed["model.layers.0.mlp.experts.gate_up_proj"]["trained"]


@pytest.mark.parametrize("policy", [{"freeze": ["model.layers.**"]}, {"freeze": ["model.embed_tokens.*", "lm_head.*"]}])
@pytest.mark.parametrize("adapter", [None, {"type": "lora", "r": 2}])
def test_a_tie_that_is_stored_twice_is_proved(
    tmp_path: Path, policy: dict[str, Any], adapter: dict[str, Any] | None
) -> None:
    """Qwen3-0.6B's files hold `lm_head.weight` beside tied embeddings; it sorts before the name that owns it."""
    place = Workspace(tmp_path).create()
    path = tiny.llama(place.base) / "model.safetensors"
    weights = load_file(path)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, path, metadata={"format": "pt"})
    order = work_order(
        job_id="ftjob-tied",
        stage="train",
        model={"type": "transformers", "path": "x"} | ({"adapter": adapter} if adapter else {}),
        task="causal-lm",
        data=data(place, [{"text": "the cat sat on the mat"}] * 4),
        hyperparameters={"n_epochs": 1, "batch_size": 4, "learning_rate": 1e-2},
        **({} if adapter else {"policy": policy}),
        device="cpu",
    )
    done = attempt(order, tmp_path)
    judged = judge(done)
    assert judged.verdict == "verified"
    assert objections_to(done, judged) == []
    if adapter is None:
        rows = {row.name: row for row in judged.rows}
        assert rows["lm_head.weight"].alias_of == "model.embed_tokens.weight"
        assert rows["model.embed_tokens.weight"].aliases == ("lm_head.weight",)


def mixtral(root: Path) -> Attempt:
    place = Workspace(root / "attempt").create()
    tiny.mixtral(place.base, layers=2)
    order = work_order(
        job_id="ftjob-experts",
        stage="train",
        model={"type": "transformers", "path": "x"},
        task="causal-lm",
        data=data(place, [{"text": "the cat sat on the mat"}] * 4),
        hyperparameters={"n_epochs": 1, "batch_size": 4, "learning_rate": 1e-2},
        policy={"freeze": ["model.layers.0.**", "model.embed_tokens.*", "lm_head.*"]},
        device="cpu",
    )
    return attempt(order, place.root)
