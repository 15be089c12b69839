"""Which tokens carry loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from app.errors import DataError
from tests.worker.trainer import tiny
from worker.trainer.data import preference
from worker.trainer.data.batch import IGNORED
from worker.trainer.data.chat import PLAIN_TEMPLATE, ensure_template
from worker.trainer.data.language import encode

CHATML = (
    "{% for m in messages %}<s> {{ m.role }} : {{ m.content }} </s> {% endfor %}"
    "{% if add_generation_prompt %}<s> assistant : {% endif %}"
)
FORGETFUL = (  # what the assistant said before the last turn is left out
    "{% for m in messages %}{% if loop.last or m.role == 'user' %}"
    "{{ m.role }} : {{ m.content }} {% endif %}{% endfor %}"
)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    special = ("<unk>", "<s>", "</s>", "user", "assistant", ":", "User", "Assistant")
    tiny.tokenizer(tmp_path, special, bert_like=False)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    loaded.pad_token = loaded.eos_token
    return loaded


def learned(rows: list[dict[str, Any]], tokenizer: Any, *, limit: int = 64) -> list[list[str]]:
    """The tokens of each example that carry loss, in words."""
    examples = encode(rows, tokenizer, limit=limit).examples
    return [
        tokenizer.convert_ids_to_tokens([int(at) for at in each.targets if at != IGNORED])
        for each in examples.sequences
    ]


def test_completion_alone_is_learned(tokenizer: Any) -> None:
    """The prompt is context; the completion and the end are learned."""
    assert learned([{"prompt": "the cat", "completion": " sat on"}], tokenizer) == [["sat", "on", "</s>"]]


def test_plain_text_is_learned_whole(tokenizer: Any) -> None:
    """All of it, and where it ends."""
    assert learned([{"text": "the cat sat"}], tokenizer) == [["the", "cat", "sat", "</s>"]]


def test_all_turns_of_the_assistant_are_learned(tokenizer: Any) -> None:
    """Each answer with its end mark; no word of the user's."""
    tokenizer.chat_template = CHATML
    messages = [
        {"role": "user", "content": "the cat"},
        {"role": "assistant", "content": "sat on"},
        {"role": "user", "content": "a dog"},
        {"role": "assistant", "content": "ran"},
    ]
    assert learned([{"messages": messages}], tokenizer) == [["sat", "on", "</s>", "ran", "</s>"]]


def test_answer_of_weight_0_is_context(tokenizer: Any) -> None:
    """OpenAI's way to leave it out of the loss; the template never sees the weight."""
    tokenizer.chat_template = (
        CHATML + "{% for m in messages if m.weight is defined %}{{ raise_exception('!') }}{% endfor %}"
    )
    messages = [
        {"role": "user", "content": "the cat"},
        {"role": "assistant", "content": "sat on", "weight": 0},
        {"role": "user", "content": "a dog"},
        {"role": "assistant", "content": "ran"},
    ]
    assert learned([{"messages": messages}], tokenizer) == [["ran", "</s>"]]


def test_template_that_drops_earlier_turns(tokenizer: Any) -> None:
    """Only the turn that is in the text as it was said carries loss."""
    tokenizer.chat_template = FORGETFUL
    messages = [
        {"role": "user", "content": "the cat"},
        {"role": "assistant", "content": "sat"},
        {"role": "user", "content": "a dog"},
        {"role": "assistant", "content": "ran"},
    ]
    found = learned([{"messages": messages}], tokenizer)
    assert "sat" not in found[0]
    assert "ran" in found[0]


def test_missing_template_is_replaced_and_said(tokenizer: Any) -> None:
    """A plain one is put in, and the note says how messages are written."""
    rows = [{"messages": [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]}]
    assert "Role: content" in str(ensure_template(tokenizer, rows))
    assert tokenizer.chat_template == PLAIN_TEMPLATE
    assert learned(rows, tokenizer) == [["sat"]]
    assert ensure_template(tokenizer, rows) is None


@pytest.mark.parametrize(
    "template",
    ["{{ raise_exception('roles must alternate') }}", "{{ messages.__class__.__mro__ }}", "{% for x in %}"],
    ids=["refuses", "reaches out", "broken"],
)
def test_template_that_fails_is_a_data_error(tokenizer: Any, template: str) -> None:
    """Its own complaint, a forbidden attribute, bad syntax: each is told with the example's number."""
    tokenizer.chat_template = template
    rows = [{"messages": [{"role": "user", "content": "the"}, {"role": "assistant", "content": "sat"}]}]
    with pytest.raises(DataError, match="line 1"):
        encode(rows, tokenizer, limit=64)


def test_completion_behind_the_cut_is_refused(tokenizer: Any) -> None:
    """A prompt that fills the model leaves nothing to learn: said by number."""
    rows = [{"text": "the cat sat"}, {"prompt": "the cat " * 10, "completion": " sat"}]
    with pytest.raises(DataError, match="line 2: has no completion within the first 8 tokens"):
        encode(rows, tokenizer, limit=8)


def test_a_text_that_becomes_no_token_is_the_vocabularys_fault(tokenizer: Any) -> None:
    """A byte-level vocabulary without an unknown token drops every character that it does not have."""
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"</s>": 0, "Z": 1}, [])), eos_token="</s>")
    with pytest.raises(DataError, match="line 1: becomes no token: the model's tokenizer"):
        encode([{"text": "the cat sat"}], bare, limit=8)


def test_answers_to_a_conversation(tokenizer: Any) -> None:
    """A preference over a chat: the template writes the conversation, and only the answers carry loss."""
    tokenizer.chat_template = CHATML
    chat = [
        {"role": "user", "content": "the cat"},
        {"role": "assistant", "content": "sat"},
        {"role": "user", "content": "a dog"},
    ]
    examples = preference.encode(
        [{"messages": chat, "chosen": "ran", "rejected": "was bad"}], tokenizer, limit=64
    ).examples
    found = [[int(at) for at in each.targets if at != IGNORED] for each in examples.both.sequences]
    assert [tokenizer.convert_ids_to_tokens(each) for each in found] == [["ran", "</s>"], ["was", "bad", "</s>"]]


def test_answer_behind_the_cut_is_refused(tokenizer: Any) -> None:
    """A comparison with nothing on one side teaches nothing: said by number and side."""
    rows = [{"prompt": "the cat", "chosen": " sat", "rejected": " ran"}] * 2
    rows[1] = {"prompt": "the cat " * 10, "chosen": " sat", "rejected": " ran"}
    with pytest.raises(DataError, match="line 2: has no chosen answer within the first 8 tokens"):
        preference.encode(rows, tokenizer, limit=8)


def test_batch_counts_what_carries_loss(tokenizer: Any) -> None:
    """weight is the learned tokens."""
    rows = [{"prompt": "the cat", "completion": " sat"}, {"prompt": "a", "completion": " dog ran on"}]
    examples = encode(rows, tokenizer, limit=64).examples
    batch = examples.batch(np.array([0, 1]))
    assert (batch.weight, batch.examples) == (2 + 4, 2)
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
