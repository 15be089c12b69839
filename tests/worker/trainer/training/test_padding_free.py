"""Whether padding is computed: where leaving it out pays and is possible, and the same in every attempt at a job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker.trainer import tiny, zoo
from tests.worker.trainer.attempts import attempt, attempt_json
from tests.worker.trainer.padding.runs import TASKS, order, prepared
from tests.worker.trainer.training.test_checkpoints import assert_same, copy_checkpoints, rewrite_manifest
from worker.protocol import WorkOrder, Workspace
from worker.trainer.padding import removal as ways
from worker.trainer.training import padding_free

LONG: dict[str, Any] = {"lengths": [1, 26, 3, 2, 19, 5, 3, 11] * 4}


def job(root: Path, **wanted: Any) -> WorkOrder:
    given = {"n_epochs": 3, "checkpoint_steps": 2, "keep_checkpoints": 9, "validation_fraction": 0.25} | wanted
    return order(root, tiny.bert, "text-classification", **LONG, **given)


def message(root: Path) -> str:
    lines = [json.loads(line) for line in Workspace(root).reports.read_text().splitlines()]
    (found,) = [line["message"] for line in lines if "padding" in str(line.get("message", ""))]
    return str(found)


def test_auto_leaves_padding_out_where_that_pays(tmp_path: Path) -> None:
    run = prepared(order(tmp_path, tiny.bert, "text-classification"), tmp_path)
    assert run.passes.removal.way == run.state.padding == "layers"
    assert message(tmp_path).startswith("computed without padding: the layers run on real tokens alone, 2.")


def test_auto_keeps_little_padding(tmp_path: Path) -> None:
    run = prepared(order(tmp_path, tiny.bert, "text-classification", lengths=[12] * 7 + [11]), tmp_path)
    assert run.passes.removal.way == "kept"
    assert "less than 10%" in message(tmp_path)


def test_micro_batches_where_attention_needs_padded_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ways.FIXED, "cpu", 4)
    run = prepared(order(tmp_path, zoo.KINDS["deberta-v2"].save, "text-classification"), tmp_path)
    assert run.passes.removal.way == "micro_batches"
    assert "examples of similar length pass together" in message(tmp_path)


def test_auto_keeps_padding_where_short_texts_make_micro_batches_dear(tmp_path: Path) -> None:
    short = [1, 6, 2, 1, 5, 2, 1, 3]
    run = prepared(order(tmp_path, zoo.KINDS["deberta-v2"].save, "text-classification", lengths=short), tmp_path)
    assert run.passes.removal.way == "kept"
    assert "would save" in message(tmp_path)


@pytest.mark.parametrize(("task", "wanted"), [("causal-lm", {"packing": True}), ("causal-lm", {"padding_free": False})])
def test_conditions(tmp_path: Path, task: str, wanted: dict[str, Any]) -> None:
    run = prepared(order(tmp_path, tiny.llama, task, **wanted), tmp_path)
    assert run.passes.removal.way == "kept"


def test_refused_where_it_is_wanted_and_not_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(padding_free, "difference", lambda *_: "it differs")
    done = attempt(order(tmp_path, tiny.bert, "text-classification", padding_free=True), tmp_path)
    assert done.failure["param"] == "hyperparameters.padding_free"
    assert "it differs" in done.failure["message"]


@pytest.mark.parametrize("task", TASKS)
def test_job_ends_as_with_padding(tmp_path: Path, task: str) -> None:
    """Steps, tokens, metrics and weights, with dropout off, up to rounding; a base whose dropout is on trains too."""
    save = tiny.llama if task in ("causal-lm", "preference") else _still_bert
    wanted: dict[str, Any] = {**LONG, "validation_fraction": 0.25, "optimizer": {"name": "sgd"}, "learning_rate": 0.1}
    one, other = (
        attempt(order(tmp_path / str(free), save, task, padding_free=free, **wanted), tmp_path / str(free))
        for free in (True, False)
    )
    assert one.code == other.code == 0, (one.reports[-1], other.reports[-1])
    first, second = one.of("done")[0], other.of("done")[0]
    assert (first["steps"], first["trained_tokens"]) == (second["steps"], second["trained_tokens"])
    assert first["metrics"] == pytest.approx(second["metrics"], rel=1e-3, abs=1e-5)
    assert set(one.changed) == set(other.changed)
    for name, tensor in other.changed.items():
        torch.testing.assert_close(one.changed[name], tensor, rtol=1e-3, atol=1e-5)


def test_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    """With dropout; the way is that of the first attempt, whatever would be chosen now."""
    done = attempt(job(tmp_path / "whole"), tmp_path / "whole")
    assert done.code == 0
    resumed = job(tmp_path / "resumed")
    copy_checkpoints(done, tmp_path / "resumed", drop=1)
    assert_same(done, attempt(resumed, tmp_path / "resumed"))


def test_checkpoint_from_before_goes_on_with_padding(tmp_path: Path) -> None:
    """To the bits of a run with padding, which is all that there was."""
    padded = attempt(job(tmp_path / "padded", padding_free=False), tmp_path / "padded")
    resumed = job(tmp_path / "resumed")
    fresh = attempt(job(tmp_path / "fresh"), tmp_path / "fresh")
    identity = json.loads((min(fresh.place.checkpoints.iterdir()) / "manifest.json").read_text())["run"]
    copy_checkpoints(padded, tmp_path / "resumed", drop=1)
    for path in Workspace(tmp_path / "resumed").checkpoints.iterdir():
        state = json.loads((path / "state.json").read_text())
        del state["padding"]
        (path / "state.json").write_text(json.dumps(state))
        rewrite_manifest(path, run=identity)

    done = attempt(resumed, tmp_path / "resumed")
    assert any("goes on after step" in each["message"] for each in done.of("event"))
    assert_same(padded, done)
    assert any(not torch.equal(padded.changed[name], fresh.changed[name]) for name in fresh.changed)


def _still_bert(folder: Path) -> Path:
    return tiny.bert(folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


@pytest.mark.parametrize("wanted", [{"prefix_cache": True}, {"prefix_cache": True, "micro_batch_size": 3}])
def test_together_with_a_kept_prefix(tmp_path: Path, wanted: dict[str, Any]) -> None:
    """The layers behind it leave padding out, and the job ends as with padding."""
    found = {}
    for free in (True, False):
        given = order(tmp_path / str(free), _still_bert, "text-classification", padding_free=free, **wanted, **LONG)
        policy = {"freeze": ["bert.embeddings.**", "bert.encoder.layer.0.**"]}
        done = attempt_json(given.to_json() | {"policy": policy}, tmp_path / str(free))
        assert done.code == 0, done.reports[-1]
        assert done.of("prefix_cache")[0]["in_use"]
        found[free] = done
    assert "the layers run on real tokens" in message(tmp_path / "True")
    for name, tensor in found[False].changed.items():
        torch.testing.assert_close(found[True].changed[name], tensor, rtol=1e-2, atol=1e-4)


def test_prefix_that_stands_in_for_every_layer(tmp_path: Path) -> None:
    given = order(tmp_path, tiny.bert, "text-classification", prefix_cache=True, **LONG)
    done = attempt_json(given.to_json() | {"policy": {"freeze": ["bert.**"]}}, tmp_path)
    assert done.code == 0
    assert "stand in for every layer" in message(tmp_path)
