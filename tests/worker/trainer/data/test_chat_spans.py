"""Where answers begin and end in templates whose generation prompt and end mark are not those of the history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.worker.trainer import tiny
from tests.worker.trainer.data import templates
from worker.trainer.data.chat_spans import span_of
from worker.trainer.data.chat_template import ChatTemplate

CHAT = [
    {"role": "user", "content": "the cat"},
    {"role": "assistant", "content": "sat on"},
    {"role": "user", "content": "a dog"},
    {"role": "assistant", "content": "ran"},
]


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    tiny.tokenizer(tmp_path / "tiny", ("<unk>", "<s>", "</s>"), bert_like=False)
    return AutoTokenizer.from_pretrained(tmp_path / "tiny")


def spans(tokenizer: Any, source: str, messages: list[dict[str, Any]], tools: Any = None) -> list[str | None]:
    """The text of each of the assistant's messages."""
    tokenizer.chat_template = source
    template = ChatTemplate(tokenizer, tools)
    text = template.rendered(messages)
    turns = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    found = [span_of(template, messages, at, text) for at in turns]
    return [text[span[0] : span[1]] if span else None for span in found]


def test_another_end_mark_within_the_history(tokenizer: Any) -> None:
    """gpt-oss ends its last answer by another mark, and each is whole."""
    first, last = spans(tokenizer, templates.HARMONY, CHAT)
    assert (first, last) == (
        "<|channel|>final<|message|>sat on<|end|>",
        "<|channel|>final<|message|>ran<|return|>",
    )


def test_the_space_before_an_answer(tokenizer: Any) -> None:
    """Mistral's tools move to the last question, so nothing before it is a prefix; the space belongs to the answer."""
    tool = {"type": "function", "function": {"name": "film", "parameters": {"type": "object", "properties": {}}}}
    assert spans(tokenizer, templates.MISTRAL, CHAT, [tool]) == [" sat on</s>", " ran</s>"]


def test_an_answer_before_any_question(tokenizer: Any) -> None:
    """A conversation may begin with the assistant, whose header is not learned."""
    assert spans(tokenizer, templates.CHATML, CHAT[1:])[0] == "sat on<|im_end|>\n"


def test_an_answer_that_is_not_shown(tokenizer: Any) -> None:
    """None, whatever comes after it."""
    source = "{% for m in messages %}{% if loop.last or m.role == 'user' %}{{ m.content }} {% endif %}{% endfor %}"
    assert spans(tokenizer, source, CHAT) == [None, "ran "]
