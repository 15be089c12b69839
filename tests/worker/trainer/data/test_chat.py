"""Which characters of a rendered conversation are learned, whatever the template does with earlier turns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.worker.trainer import tiny
from worker.trainer.data import chat, language, preference
from worker.trainer.data.batch import IGNORED

CHAT = [
    {"role": "user", "content": "the cat"},
    {"role": "assistant", "content": "sat on"},
    {"role": "user", "content": "a dog"},
    {"role": "assistant", "content": "ran"},
]
OPENS_A_BLOCK = (  # DeepSeek R1, Qwen3 Thinking: the prompt opens a block that the history does not have
    "{% for m in messages %}<s> {{ m.role }} : {{ m.content }} </s> {% endfor %}"
    "{% if add_generation_prompt %}<s> assistant : <think> {% endif %}"
)
DROPS_REASONING = (  # Qwen3: the last answer gets a block, earlier ones lose theirs
    "{% for m in messages %}<s> {{ m.role }} : "
    "{% if m.role == 'assistant' and loop.last %}<think> {{ m.reasoning_content or '' }} </think> {% endif %}"
    "{{ m.content.split('</think>')[-1] }} </s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s> assistant : {% endif %}"
)
NEEDS_A_USER = (  # Qwen3.5: a conversation without a user message is an error
    "{% if not messages | selectattr('role', 'equalto', 'user') | list %}{{ raise_exception('no user query') }}"
    "{% endif %}{% for m in messages %}<s> {{ m.role }} : {{ m.content }} </s> {% endfor %}"
    "{% if add_generation_prompt %}<s> assistant : {% endif %}"
)
MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<s> {% generation %}{{ m.content }} </s>{% endgeneration %} "
    "{% else %}{{ m.role }} : {{ m.content }} {% endif %}{% endfor %}"
)
DATED = "{{ strftime_now('%Y %H:%M:%S.%f') }} " + OPENS_A_BLOCK
LAST_ONLY = (
    "{% for m in messages %}{% if loop.last or m.role == 'user' %}"
    "{{ m.role }} : {{ m.content }} {% endif %}{% endfor %}"
)
CALLS = (
    "{% if tools %}tools {{ tools | length }} {% endif %}"
    "{% for m in messages %}<s> {{ m.role }} : {{ m.content }}"
    "{% for c in m.tool_calls or [] %} call {{ c.function.name }}{% endfor %} </s> {% endfor %}"
    "{% if add_generation_prompt %}<s> assistant : {% endif %}"
)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    special = (
        "<unk>",
        "<s>",
        "</s>",
        "user",
        "assistant",
        "tool",
        "system",
        ":",
        "call",
        "tools",
        "<think>",
        "</think>",
    )
    tiny.tokenizer(tmp_path / "thinker", special, bert_like=False)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "thinker")
    loaded.pad_token = loaded.eos_token
    return loaded


def shown(messages: list[dict[str, Any]], tokenizer: Any, **options: Any) -> list[str]:
    """The learned spans of the conversation, as text."""
    rendered = chat.render(messages, tokenizer, **options)
    return [rendered.text[start:stop].strip() for start, stop in rendered.spans]


@pytest.mark.parametrize(
    ("template", "learned"),
    [
        (OPENS_A_BLOCK, ["sat on </s>", "ran </s>"]),
        (DATED, ["sat on </s>", "ran </s>"]),
        (DROPS_REASONING, ["sat on </s>", "<think>  </think> ran </s>"]),
        (NEEDS_A_USER, ["sat on </s>", "ran </s>"]),
        (MARKED, ["sat on </s>", "ran </s>"]),
    ],
    ids=["opens a block", "writes the time", "drops reasoning", "needs a user", "marks generations"],
)
def test_every_answer_that_is_shown_is_learned(tokenizer: Any, template: str, learned: list[str]) -> None:
    """Each with its end mark, and none of the words around it."""
    tokenizer.chat_template = template
    assert shown(CHAT, tokenizer) == learned


def test_answer_that_begins_like_the_block(tokenizer: Any) -> None:
    """An answer may share characters with the block that the prompt opens: they are learned all the same."""
    tokenizer.chat_template = OPENS_A_BLOCK
    messages = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "<thin cat"}]
    assert shown(messages, tokenizer) == ["<thin cat </s>"]


def test_greeting_before_any_user_message(tokenizer: Any) -> None:
    """The template refuses the beginning of the conversation alone, but not the conversation."""
    tokenizer.chat_template = NEEDS_A_USER
    messages = [{"role": "system", "content": "a"}, {"role": "assistant", "content": "it was"}, *CHAT]
    assert shown(messages, tokenizer) == ["it was </s>", "sat on </s>", "ran </s>"]


def test_equal_answers_are_told_apart(tokenizer: Any) -> None:
    """Both spans are found where two answers are the same text."""
    tokenizer.chat_template = OPENS_A_BLOCK
    messages = [{**each, "content": "sat"} for each in CHAT]
    rendered = chat.render(messages, tokenizer)
    assert len(set(rendered.spans)) == 2
    assert [rendered.text[a:b] for a, b in rendered.spans] == ["sat </s> "] * 2


@pytest.mark.parametrize("template", [MARKED, OPENS_A_BLOCK])
def test_weight_0_is_context(tokenizer: Any, template: str) -> None:
    """With the template's own marks as without."""
    tokenizer.chat_template = template
    assert shown([CHAT[0], {**CHAT[1], "weight": 0}, *CHAT[2:]], tokenizer) == ["ran </s>"]


def test_reasoning_is_learned_where_it_is_shown(tokenizer: Any) -> None:
    """`reasoning_content` reaches the template, and is part of the answer."""
    tokenizer.chat_template = DROPS_REASONING
    messages = [*CHAT[:3], {"role": "assistant", "content": "ran", "reasoning_content": "it was red"}]
    assert shown(messages, tokenizer)[-1] == "<think> it was red </think> ran </s>"


def test_tools_and_their_calls(tokenizer: Any) -> None:
    """Tools reach the template; calls are part of the answer, results are context."""
    tokenizer.chat_template = CALLS
    call = {"type": "function", "function": {"name": "film", "arguments": {}}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "the cat"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "a book"},
        {"role": "assistant", "content": "ran"},
    ]
    tool = {"type": "function", "function": {"name": "film", "parameters": {"type": "object", "properties": {}}}}
    assert shown(messages, tokenizer, tools=[tool]) == ["call film </s>", "ran </s>"]
    assert chat.render(messages, tokenizer, tools=[tool]).text.startswith("tools 1 ")


def test_what_cannot_be_learned_is_counted(tokenizer: Any) -> None:
    """An answer that the template leaves out is in a note, with the tokenizer's name."""
    tokenizer.chat_template = LAST_ONLY
    encoded = language.encode([{"messages": CHAT}], tokenizer, limit=64)
    assert chat.render(CHAT, tokenizer).hidden == 1
    assert encoded.notes == (
        "1 assistant messages are not learned: the chat template of thinker leaves them out of the conversation",
    )


@pytest.mark.parametrize("opened", ["", "<think> "], ids=["prompt opens", "content opens"])
def test_reasoning_in_a_content_is_counted(tokenizer: Any, opened: str) -> None:
    """DeepSeek R1 and Qwen3 cut it out of earlier answers."""
    tokenizer.chat_template = DROPS_REASONING
    messages = [CHAT[0], {"role": "assistant", "content": f"{opened}it was </think> sat on"}, *CHAT[2:]]
    rendered = chat.render(messages, tokenizer)
    assert +rendered.left_out == {chat.REASONING: 1}


def test_text_beside_calls_is_counted(tokenizer: Any) -> None:
    """Llama 3.1 and Hermes write the call alone."""
    tokenizer.chat_template = CALLS.replace("{{ m.content }}", "{{ '' if m.tool_calls else m.content }}").replace(
        "call {{ c.function.name }}", "call {{ c.function.name }} {{ c.function.arguments }}"
    )
    call = {"type": "function", "function": {"name": "film", "arguments": {}}}
    messages: list[dict[str, Any]] = [
        CHAT[0],
        {"role": "assistant", "content": "it was", "tool_calls": [call]},
        {"role": "tool", "content": "a"},
    ]
    assert chat.render([*messages, CHAT[3]], tokenizer).left_out[chat.BESIDE] == 1


def test_two_marks_in_one_answer_and_none_in_another(tokenizer: Any) -> None:
    """As many marks as answers need not be one for each."""
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }} {% elif loop.last %}"
        "{% generation %}<think> {% endgeneration %}{% generation %}{{ m.content }} </s>{% endgeneration %}"
        "{% else %}{{ m.content }} {% endif %}{% endfor %}"
    )
    assert shown(CHAT, tokenizer) == ["<think>", "ran </s>"]
    assert chat.render(CHAT, tokenizer).hidden == 1


SHOWS_PARTS = (
    "{% for m in messages %}{{ m.role }} : {% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}"
    "{% endfor %} </s> {% endfor %}{% if add_generation_prompt %}assistant : {% endif %}"
)
NEEDS_PARTS = (
    "{% for m in messages %}{{ m.role }} : {{ m.content[0].text + ' </s> ' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)


@pytest.mark.parametrize("template", [SHOWS_PARTS, NEEDS_PARTS], ids=["shows nothing else", "refuses others"])
def test_template_that_reads_parts_alone(tokenizer: Any, template: str) -> None:
    """SmolVLM, LLaVA: a content that is a text is not read, and is given as a part."""
    tokenizer.chat_template = template
    rendered = chat.render(CHAT, tokenizer)
    assert shown(CHAT, tokenizer) == ["sat on </s>", "ran </s>"]
    assert rendered.text.startswith("user : the cat </s>")
    assert not any(rendered.left_out.values())


@pytest.mark.parametrize("template", [OPENS_A_BLOCK, DROPS_REASONING, NEEDS_A_USER, DATED])
def test_preferences_over_a_chat(tokenizer: Any, template: str) -> None:
    """Answers of a comparison are learned as those of a conversation are."""
    tokenizer.chat_template = template
    rows = [{"messages": CHAT[:3], "chosen": "ran", "rejected": "was bad"}]
    examples = preference.encode(rows, tokenizer, limit=64).examples
    words = [[int(at) for at in each.targets if at != IGNORED] for each in examples.both.sequences]
    assert [tokenizer.decode(each).removeprefix("<unk> " * 6) for each in words] == ["ran </s>", "was bad </s>"]


def test_time_does_not_reach_the_text(tokenizer: Any) -> None:
    """A job that resumes tomorrow trains on the same text, and the events say which date it has."""
    tokenizer.chat_template = DATED
    assert chat.render(CHAT, tokenizer).text.startswith("2024 00:00:00.000000")
    assert "26 Jul 2024" in str(chat.ensure_template(tokenizer, [{"messages": CHAT}]))
