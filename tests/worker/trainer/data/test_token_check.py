"""Tokenizers that do not fit their model are named before the first step, whatever line shows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BartConfig, BartForSequenceClassification

from tests.worker.trainer import tiny
from tests.worker.trainer.attempts import Attempt, attempt, data, work_order
from tests.worker.trainer.zoo import KINDS
from worker.protocol import Workspace

PLAIN = [{"text": "the cat sat on the mat"}] * 6
PAIRS = [{"text": "the cat", "label": "a"}, {"text": "a dog", "label": "b"}] * 3


def run(place: Workspace, rows: list[dict[str, Any]], *, task: str) -> Attempt:
    order = work_order(
        job_id="ftjob-test",
        stage="train",
        model={"type": "transformers", "path": "tiny"},
        task=task,
        data=data(place, rows),
        hyperparameters={"n_epochs": 1, "batch_size": 2},
        device="cpu",
    )
    return attempt(order, place.root)


@pytest.fixture
def grown(tmp_path: Path) -> Workspace:
    """A decoder whose tokenizer has learned two words that its embeddings have no rows for."""
    place = Workspace(tmp_path).create()
    tiny.llama(place.base, vocab_size=28)
    tokenizer = AutoTokenizer.from_pretrained(place.base)
    tokenizer.add_tokens(["zebra", "yak"])
    tokenizer.save_pretrained(place.base)
    return place


def test_an_id_without_a_row_is_named_by_line(grown: Workspace) -> None:
    """The model's fault, and not a crash: a trial of two examples would not have met line 7."""
    done = run(grown, [*PLAIN, {"text": "the zebra"}, *PLAIN], task="causal-lm")
    assert done.code == 1
    assert (done.failure["code"], done.failure["param"]) == ("tokenizer_does_not_fit", "model")
    assert "ids up to 29, and the model's embeddings have 28 rows: line 7" in done.failure["message"]
    assert "'zebra', the id 28" in done.failure["message"]


def test_an_id_without_a_row_that_nothing_uses_is_a_note(grown: Workspace) -> None:
    """Gemma 3 has such a token for pictures."""
    done = run(grown, PLAIN, task="causal-lm")
    assert done.code == 0
    assert any("beyond the 28 rows" in each["message"] for each in done.of("event"))


def test_a_pad_token_without_a_row_is_refused(tmp_path: Path) -> None:
    """Every batch would be padded with it."""
    place = Workspace(tmp_path).create()
    tiny.llama(place.base, vocab_size=28)
    tokenizer = AutoTokenizer.from_pretrained(place.base)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(place.base)
    done = run(place, PLAIN, task="causal-lm")
    assert done.failure["code"] == "tokenizer_does_not_fit"
    assert "pad token '<pad>' has the id 28" in done.failure["message"]


def test_segments_without_an_embedding_are_refused(tmp_path: Path) -> None:
    """A tokenizer that numbers both texts of a pair, over a model with one token type."""
    place = Workspace(tmp_path).create()
    path = tiny.bert(place.base, type_vocab_size=1) / "model.safetensors"
    assert load_file(path)["embeddings.token_type_embeddings.weight"].shape[0] == 1
    rows = [*PAIRS, {"text": "the cat", "text_pair": "a dog", "label": "a"}]
    done = run(place, rows, task="text-classification")
    assert done.failure["code"] == "tokenizer_does_not_fit"
    assert "line 7" in done.failure["message"] or "line 1" in done.failure["message"]
    assert "the segment 1, and the model has 1 token types" in done.failure["message"]


@pytest.mark.parametrize("task", ["causal-lm", "text-classification"])
def test_texts_without_a_known_word_are_refused(tmp_path: Path, task: str) -> None:
    """Their share is in the message."""
    place = Workspace(tmp_path).create()
    rows: list[dict[str, Any]] = [{"text": f"xyz{at} qqq", "label": "ab"[at % 2]} for at in range(6)]
    if task == "causal-lm":
        tiny.llama(place.base)
        rows = [{"text": row["text"]} for row in rows]
    else:
        tiny.bert(place.base)
    done = run(place, rows, task=task)
    assert done.failure["code"] == "tokenizer_does_not_fit"
    assert "6 of 6 examples of the training_file (100%)" in done.failure["message"]


def test_a_few_texts_without_a_known_word_are_noted(tmp_path: Path) -> None:
    """A language model may meet a line in another alphabet; the events say how many."""
    place = Workspace(tmp_path).create()
    tiny.bert(place.base)
    done = run(place, [*PAIRS, {"text": "qqq", "label": "a"}], task="text-classification")
    assert done.code == 0
    assert any("1 of 7 examples" in each["message"] for each in done.of("event"))


def test_a_vocabulary_that_is_not_read_is_refused(tmp_path: Path) -> None:
    """RoBERTa's tokenizer does not read vocab.txt: transformers makes one without a word, and says nothing."""
    place = Workspace(tmp_path).create()
    KINDS["roberta"].save(place.base)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (place.base / name).unlink(missing_ok=True)
    (place.base / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *tiny.WORDS]))
    done = run(place, PAIRS, task="text-classification")
    assert done.failure["code"] == "tokenizer_does_not_fit"
    assert "has no vocabulary" in done.failure["message"]
    assert "vocab.txt" in done.failure["message"]


def test_an_error_of_the_tokenizers_library_is_the_models(tmp_path: Path) -> None:
    """It raises a bare Exception, here for a word where the vocabulary has no unknown token."""
    place = Workspace(tmp_path).create()
    tiny.bert(place.base)
    path = place.base / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"].pop("[UNK]")
    content["added_tokens"] = [each for each in content["added_tokens"] if each["content"] != "[UNK]"]
    path.write_text(json.dumps(content))
    settings = json.loads((place.base / "tokenizer_config.json").read_text())
    settings.pop("unk_token")
    (place.base / "tokenizer_config.json").write_text(json.dumps(settings))
    done = run(place, [*PAIRS, {"text": "qqq", "label": "a"}], task="text-classification")
    assert done.failure["code"] == "tokenizer_does_not_fit"
    assert "Missing [UNK] token" in done.failure["message"]


def test_fitting_models_are_not_touched(tmp_path: Path) -> None:
    """More rows than ids is usual: embeddings are padded to round numbers."""
    place = Workspace(tmp_path).create()
    path = tiny.llama(place.base) / "model.safetensors"
    save_file(load_file(path), path, metadata={"format": "pt"})
    done = run(place, PLAIN, task="causal-lm")
    assert done.code == 0
    assert not any("rows of the embeddings" in each["message"] for each in done.of("event"))


@pytest.fixture
def bart(tmp_path: Path) -> Workspace:
    """A classifier over an encoder and a decoder, which reads a text at its end token."""
    place = Workspace(tmp_path).create()
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    tokens = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3}
    config = BartConfig(vocab_size=64, d_model=16, encoder_ffn_dim=16, decoder_ffn_dim=16, **sizes, **tokens)
    BartForSequenceClassification(config).save_pretrained(place.base)
    tiny.tokenizer(place.base, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), bert_like=True)
    return place


def test_a_text_with_a_second_end_token_is_named(bart: Workspace) -> None:
    """The model would fail at its batch, in the middle of the run."""
    done = run(bart, [*PAIRS, {"text": "the cat [SEP] sat", "label": "a"}, PAIRS[1]], task="text-classification")
    assert (done.failure["code"], done.of("step")) == ("invalid_training_data", [])
    assert "line 7: has 2 end tokens '[SEP]', and the other texts have 1" in done.failure["message"]
    assert run(bart, PAIRS, task="text-classification").code == 0


def test_a_tokenizer_that_ends_no_text(bart: Workspace) -> None:
    """The model's fault, and not the data's."""
    path = bart.base / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "post_processor": None}))
    done = run(bart, PAIRS, task="text-classification")
    assert (done.failure["code"], done.failure["param"]) == ("tokenizer_does_not_fit", "model")
    assert "reads a text at its end token '[SEP]', the id 3, and the tokenizer writes none" in done.failure["message"]
