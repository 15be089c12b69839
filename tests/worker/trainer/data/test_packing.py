"""Examples that share a row: which ones, that they are the same examples, and which models keep them apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from transformers import BloomConfig, BloomForCausalLM, OPTConfig, OPTForCausalLM

from app.errors import InvalidRequest
from tests.worker.trainer import tiny
from tests.worker.trainer.attempts import Attempt, attempt, data, work_order
from worker.protocol import WorkOrder, Workspace
from worker.trainer.data.batch import IGNORED
from worker.trainer.data.language import LanguageExamples
from worker.trainer.data.language_example import LanguageExample, LanguageSequences
from worker.trainer.data.packing import pack, share
from worker.trainer.data.padded import Tokens
from worker.trainer.training.isolation import refuse_leaks

SHAPE = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 2}


def passage(*ids: int, prompt: int = 1) -> LanguageExample:
    array = np.array(ids, dtype=np.int32)
    targets = array.copy()
    targets[:prompt] = IGNORED
    return LanguageExample(Tokens(array), targets)


@given(some.lists(some.integers(1, 50), min_size=1, max_size=40))
def test_every_example_has_a_place(lengths: list[int]) -> None:
    """Once, in a row that holds it; no two rows would fit into one."""
    rows = share(lengths)
    assert sorted(at for row in rows for at in row) == list(range(len(lengths)))
    sizes = sorted(sum(lengths[at] for at in row) for row in rows)
    assert sizes[-1] == max(lengths)
    assert len(sizes) == 1 or sizes[0] + sizes[1] > max(lengths)


def test_rows_hold_the_examples_and_nothing_of_the_next() -> None:
    """Positions begin anew; the first token of an example is no target of the one before it; the rest is padding."""
    inputs, targets = pack([passage(11, 12), passage(21, 22, 23, 24, 25, prompt=2), passage(31, 32)], pad=0)
    assert inputs["input_ids"].tolist() == [[21, 22, 23, 24, 25], [11, 12, 31, 32, 0]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 3, 4], [0, 1, 0, 1, 0]]
    assert targets.tolist() == [[-100, -100, 23, 24, 25], [-100, 12, -100, 32, -100]]


def test_as_many_tokens_carry_loss_as_without() -> None:
    """Also where an example learns its first token, which nothing predicts."""
    sequences = [passage(1, 2, 3, prompt=0), passage(4, prompt=0), passage(5, 6, prompt=1), passage(7, 8, 9, prompt=2)]
    rows, positions = LanguageSequences.of(sequences, pad=0), np.arange(4)
    plain, packed = (LanguageExamples(rows, pad=0, packed=each).batch(positions) for each in (False, True))
    assert (plain.weight, plain.examples) == (packed.weight, packed.examples)
    assert packed.inputs["input_ids"].shape == (3, 3)


def order(root: Path, **hyperparameters: Any) -> WorkOrder:
    place = Workspace(root).create()
    if not (place.base / "config.json").exists():
        tiny.llama(place.base)
    words = tiny.WORDS
    rows = [{"prompt": " ".join(words[: at % 7 + 1]), "completion": " " + words[at % 11]} for at in range(48)]
    chosen = {"n_epochs": 2, "batch_size": 16, "learning_rate": 1e-3, "validation_fraction": 0.25}
    return work_order(
        job_id="ftjob-packing",
        stage="train",
        model={"type": "transformers", "path": "tiny"},
        task="causal-lm",
        data=data(place, rows),
        hyperparameters=chosen | hyperparameters,
        policy={"freeze": ["model.layers.0.**"]},
        seed=3,
        device="cpu",
    )


def trained(root: Path, **hyperparameters: Any) -> Attempt:
    done = attempt(order(root, **hyperparameters), root)
    assert done.code == 0, done.failure
    return done


def curve(done: Attempt) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (done.place.files / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("more", [{}, {"gradient_accumulation_steps": 3, "length_bucketing": True}])
def test_packing_changes_nothing_but_the_padding(tmp_path: Path, more: dict[str, Any]) -> None:
    """The same steps with the same losses, metrics and weights, up to rounding."""
    plain, packed = trained(tmp_path / "plain", **more), trained(tmp_path / "packed", packing=True, **more)
    losses = [[row["loss"] for row in curve(done) if "loss" in row] for done in (plain, packed)]
    assert len(losses[0]) == 6
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    one, other = plain.of("done")[0], packed.of("done")[0]
    assert one["metrics"] == pytest.approx(other["metrics"], rel=1e-3)
    assert (one["steps"], one["trained_tokens"]) == (other["steps"], other["trained_tokens"])
    assert set(plain.changed) == set(packed.changed)
    for name, tensor in plain.changed.items():
        torch.testing.assert_close(packed.changed[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (OPTForCausalLM(OPTConfig(**SHAPE, num_hidden_layers=1, ffn_dim=32, word_embed_proj_dim=32)), "see the one"),
        (BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=1, n_head=2)), "see the one"),
    ],
    ids=["opt", "bloom"],
)
def test_models_that_mix_examples_are_refused(model: Any, why: str) -> None:
    """Their attention is built in other ways; that is found out by trying."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)

    def logits(row: dict[str, torch.Tensor]) -> torch.Tensor:
        found: torch.Tensor = model(**row, use_cache=False).logits
        return found

    with pytest.raises(InvalidRequest, match=why) as refused:
        refuse_leaks(model, logits, passage(5, 6, 7, 8), passage(9, 10, 11))
    assert refused.value.param == "hyperparameters.packing"
    assert model.training


def test_a_model_without_own_positions_is_refused() -> None:
    """Kept apart, yet the second example is not read as it is by itself."""
    torch.manual_seed(0)
    places = torch.nn.Embedding(64, 32)
    words = torch.nn.Linear(32, 64)

    def logits(row: dict[str, torch.Tensor]) -> torch.Tensor:
        width = row["input_ids"].shape[1]
        return words(places(torch.arange(width)))[None]

    with pytest.raises(InvalidRequest, match="begin at position 0"):
        refuse_leaks(torch.nn.Sequential(places, words), logits, passage(5, 6, 7), passage(8, 9))


def test_packing_of_another_task_is_refused(tmp_path: Path) -> None:
    """By name, before training."""
    refused = attempt(
        WorkOrder.from_json(
            order(tmp_path, packing=True).to_json() | {"task": "preference", "data": preferences(tmp_path)}
        ),
        tmp_path,
    )
    assert refused.failure["param"] == "hyperparameters.packing"


def preferences(root: Path) -> dict[str, Any]:
    rows = [{"prompt": "the cat", "chosen": " sat", "rejected": " ran"}] * 4
    return data(Workspace(root).create(), rows, name="preferences.jsonl")


def test_prompt_tuning_is_refused(tmp_path: Path) -> None:
    """Its virtual tokens stand before the row, not before each example, and peft drops positions."""
    fields = order(tmp_path, packing=True).to_json()
    adapter = {"type": "prompt_tuning", "num_virtual_tokens": 4}
    model = {"type": "transformers", "path": "tiny", "adapter": adapter}
    refused = attempt(WorkOrder.from_json(fields | {"model": model, "policy": {"default": "train"}}), tmp_path)
    assert refused.failure["param"] == "hyperparameters.packing"
