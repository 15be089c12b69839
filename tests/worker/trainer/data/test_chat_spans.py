"""Where answers begin and end in templates whose generation prompt and end mark are not those of the history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.worker.trainer import tiny
from tests.worker.trainer.data import templates
from worker.trainer.data.chat_spans import spans_of
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
    found = [spans_of(template, messages, at, text) for at in turns]
    return ["".join(text[start:stop] for start, stop in each) or None for each in found]


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


PHI35 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
ASKS_AFTER_QUESTIONS = (  # Granite, GigaChat
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt and messages[-1].role == 'user' %}<|assistant|>{% endif %}"
)
ASKS_ALWAYS = (  # Command A
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}<|start|><|assistant|>"
)
CALL: dict[str, Any] = {"id": "1", "type": "function", "function": {"name": "film", "arguments": {}}}


@pytest.mark.parametrize(
    ("source", "learned"),
    [
        (PHI35, ["sat on<|end|>\n", "ran<|end|>\n</s>"]),
        (ASKS_ALWAYS, ["sat on</s>", "ran</s>"]),
    ],
    ids=["end token behind the last", "prompt behind each"],
)
def test_what_follows_an_answer_is_not_learned(tokenizer: Any, source: str, learned: list[str]) -> None:
    """Neither the header of the next message, nor a piece of its tag that the end has in common with it."""
    assert spans(tokenizer, source, CHAT) == learned


@pytest.mark.parametrize("source", [PHI35, ASKS_AFTER_QUESTIONS], ids=["Phi 3.5", "Granite"])
def test_two_answers_in_a_row(tokenizer: Any, source: str) -> None:
    """The header between them belongs to neither."""
    messages = [CHAT[0], CHAT[1], CHAT[3], *CHAT[2:]]
    assert [each.partition("<")[0] for each in map(str, spans(tokenizer, source, messages))] == ["sat on", "ran", "ran"]


def test_a_call_that_begins_like_the_prompt_ends(tokenizer: Any) -> None:
    """The prompt opens `<think>`; a call in the history begins with `<tool_call>`, which is learned as a whole."""
    source = (
        "{% for m in messages %}<|{{ m.role }}|>{% if loop.last and m.role == 'assistant' and not m.tool_calls %}"
        "<think></think>{% endif %}"
        "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
        "{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|><think>{% endif %}"
    )
    messages: list[dict[str, Any]] = [
        CHAT[0],
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "a"},
    ]
    call = '<tool_call>{"name": "film", "arguments": {}}</tool_call><|end|>'
    assert spans(tokenizer, source, [*messages, CHAT[3]]) == [call, "</think>ran<|end|>"]


def test_results_within_a_message(tokenizer: Any) -> None:
    """Gemma 4 writes the results of calls before the text beside them: call and text are learned, results are not."""
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role != 'tool' %}<turn>{{ m.role }}\n"
        "{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}<call|>"
        "{% endfor %}"
        "{% if m.tool_calls and messages[loop.index0 + 1] is defined %}"
        "<result>{{ messages[loop.index0 + 1].content }}<result|>{% endif %}"
        "{{ m.content }}<turn|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
    )
    calling = {"role": "assistant", "content": "it was", "tool_calls": [CALL]}
    messages: list[dict[str, Any]] = [CHAT[0], calling, {"role": "tool", "content": "red"}, CHAT[3]]
    template = ChatTemplate(tokenizer)
    text = template.rendered(messages)
    learned = [text[start:stop] for start, stop in spans_of(template, messages, 1, text)]
    assert learned == ['<call>{"name": "film", "arguments": {}}<call|>', "it was<turn|>\n"]
