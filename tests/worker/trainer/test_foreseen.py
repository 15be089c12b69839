"""What a verifier would reject whatever training does is refused before the first step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.worker.trainer import tiny
from tests.worker.trainer.attempts import Attempt, attempt, data, work_order
from worker.protocol import Workspace


def run(root: Path) -> Attempt:
    """A short run over the base in its place, whose embeddings are frozen."""
    place = Workspace(root).create()
    order = work_order(
        job_id="ftjob-test",
        stage="train",
        model={"type": "transformers", "path": "tiny"},
        task="causal-lm",
        data=data(place, [{"text": "the cat sat"}] * 2),
        hyperparameters={"n_epochs": 1},
        policy={"freeze": ["model.embed_tokens.**", "lm_head.**"]},
        device="cpu",
    )
    return attempt(order, root)


def test_tied_names_with_other_bytes(tmp_path: Path) -> None:
    """transformers 5 leaves the two apart, which config.json says are one."""
    path = tiny.llama(Workspace(tmp_path).create().base) / "model.safetensors"
    weights = load_file(path)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + 1
    save_file(weights, path, metadata={"format": "pt"})
    done = run(tmp_path)
    assert (done.failure["code"], done.of("step")) == ("unsupported_model", [])
    assert "config.json ties it to 'model.embed_tokens.weight'" in done.failure["message"]


@pytest.mark.parametrize(
    "content", ["{not json", '{"eos_token_id": 2, "eos_token_id": 3}', "[]"], ids=["no JSON", "a key twice", "a list"]
)
def test_configuration_that_is_copied(tmp_path: Path, content: str) -> None:
    """transformers takes a generation_config.json that cannot be read for a missing one; a verifier does not."""
    base = tiny.llama(Workspace(tmp_path).create().base)
    (base / "generation_config.json").write_text(content)
    done = run(tmp_path)
    assert (done.failure["code"], done.failure["param"], done.of("step")) == ("invalid_model", "model", [])
    assert "generation_config.json" in done.failure["message"]


def test_nothing_to_reject(tmp_path: Path) -> None:
    """Other keys of a configuration do not matter."""
    base = tiny.llama(Workspace(tmp_path).create().base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "made_by": "hand"}))
    assert run(tmp_path).code == 0
