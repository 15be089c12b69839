"""Tools, their calls and results, as the templates of known models write them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from app.errors import DataError, ModelError
from app.files import formats
from tests.worker.trainer import tiny
from tests.worker.trainer.attempts import attempt, data, work_order
from tests.worker.trainer.data import templates
from worker.protocol import Workspace
from worker.trainer.data import chat, language, preference

ANSWERS = ("The sun shines.", "You are welcome!")
#: As OpenAI's guide to fine-tuning with tools writes them.
OPENAI: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": "How is the weather in Oslo?"},
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "id": "call00001",
                    "type": "function",
                    "function": {"name": "current_weather", "arguments": '{"city": "Oslo, Norway", "days": 1}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call00001", "content": '{"sky": "clear"}'},
        {"role": "assistant", "content": ANSWERS[0]},
        {"role": "user", "content": "Thank you"},
        {"role": "assistant", "content": ANSWERS[1]},
    ],
    "parallel_tool_calls": False,
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "current_weather",
                "description": "How the weather is",
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                    "required": ["city"],
                },
            },
        }
    ],
}
ARGUMENTS = '{"city": "Oslo, Norway", "days": 1}'
HERMES_CALL = f'<tool_call>\n{{"name": "current_weather", "arguments": {ARGUMENTS}}}\n</tool_call><|im_end|>\n'
#: Template, and what is learned of the conversation above.
KNOWN = {
    "qwen 2.5": (templates.QWEN25, [HERMES_CALL, *(f"{answer}<|im_end|>\n" for answer in ANSWERS)]),
    "qwen 3": (
        templates.QWEN3,
        [HERMES_CALL, f"{ANSWERS[0]}<|im_end|>\n", f"<think>\n\n</think>\n\n{ANSWERS[1]}<|im_end|>\n"],
    ),
    "llama 3.1": (
        templates.LLAMA31,
        [
            f'{{"name": "current_weather", "parameters": {ARGUMENTS}}}<|eot_id|>',
            *(f"{answer}<|eot_id|>" for answer in ANSWERS),
        ],
    ),
    "mistral": (
        templates.MISTRAL,
        [
            f'[TOOL_CALLS] [{{"name": "current_weather", "arguments": {ARGUMENTS}, "id": "call00001"}}]</s>',
            *(f" {answer}</s>" for answer in ANSWERS),
        ],
    ),
    "deepseek": (
        templates.DEEPSEEK,
        [
            f"<|calls|><|call|>function<|sep|>current_weather\n```json\n{ARGUMENTS}\n```<|endcall|><|endcalls|></s>",
            *(f"{answer}</s>" for answer in ANSWERS),
        ],
    ),
    "gpt-oss": (
        templates.HARMONY,
        [
            f" to=functions.current_weather<|channel|>commentary json<|message|>{ARGUMENTS}<|call|>",
            f"<|channel|>final<|message|>{ANSWERS[0]}<|end|>",
            f"<|channel|>final<|message|>{ANSWERS[1]}<|return|>",
        ],
    ),
}


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    tiny.tokenizer(tmp_path / "caller", ("<unk>", "<s>", "</s>"), bert_like=False)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "caller")
    loaded.pad_token = loaded.eos_token
    return loaded


def example(tmp_path: Path, record: dict[str, Any], task: str = "causal-lm") -> dict[str, Any]:
    """A record as the trainer reads it from a file."""
    path = tmp_path / "chats.jsonl"
    path.write_text((json.dumps(record) + "\n") * 2)
    return next(row for _, row in formats.read(path, format="jsonl", task=task))


def learned(row: dict[str, Any], tokenizer: Any) -> list[str]:
    rendered = chat.render(row["messages"], tokenizer, tools=row.get("tools"))
    return [rendered.text[start:stop] for start, stop in rendered.spans]


def changed(record: dict[str, Any], at: int, **fields: Any) -> dict[str, Any]:
    """The record with other fields in one message."""
    record = copy.deepcopy(record)
    record["messages"][at] |= fields
    return record


@pytest.mark.parametrize("model", KNOWN)
def test_calls_and_answers_are_learned(tmp_path: Path, tokenizer: Any, model: str) -> None:
    """Each whole, with its marks; questions, tools and their results are context."""
    tokenizer.chat_template, spans = KNOWN[model]
    assert learned(example(tmp_path, OPENAI), tokenizer) == spans


@pytest.mark.parametrize("model", KNOWN)
def test_weight_0_and_a_call_at_the_end(tmp_path: Path, tokenizer: Any, model: str) -> None:
    """A conversation that ends with a call learns the call, and a call of weight 0 is context."""
    tokenizer.chat_template, spans = KNOWN[model]
    assert learned(example(tmp_path, changed(OPENAI, 1, weight=0)), tokenizer) == spans[1:]

    (call,) = learned(example(tmp_path, OPENAI | {"messages": OPENAI["messages"][:2]}), tokenizer)
    assert call.removeprefix("<think>\n\n</think>\n\n") == spans[0]


@pytest.mark.parametrize("model", KNOWN)
def test_preferences_between_calls(tmp_path: Path, tokenizer: Any, model: str) -> None:
    """OpenAI's preference format with tools: the better call against an answer without one."""
    tokenizer.chat_template, spans = KNOWN[model]
    record = {
        "input": {"messages": OPENAI["messages"][:1], "tools": OPENAI["tools"], "parallel_tool_calls": True},
        "preferred_output": OPENAI["messages"][1:2],
        "non_preferred_output": [{"role": "assistant", "content": "I do not know."}],
    }
    row = example(tmp_path, record, "preference")
    rendered = chat.render_answer(row["messages"], row["chosen"], tokenizer, tools=row["tools"])
    ((start, stop),) = rendered.spans
    assert rendered.text[start:stop].removeprefix("<think>\n\n</think>\n\n") == spans[0]
    assert row["rejected"] == "I do not know."

    encoded = preference.encode([row], tokenizer, limit=500)
    shows_tools = "current_weather" in rendered.text[:start]
    assert shows_tools == (model != "deepseek") == (encoded.notes == ())


@pytest.mark.parametrize("model", ["qwen 2.5", "qwen 3", "deepseek"])
def test_several_calls_at_once(tmp_path: Path, tokenizer: Any, model: str) -> None:
    """All of them are one answer."""
    tokenizer.chat_template, _ = KNOWN[model]
    (call,) = OPENAI["messages"][1]["tool_calls"]
    other = {"id": "call00002", "type": "function", "function": {"name": "tides", "arguments": "{}"}}
    span = learned(example(tmp_path, changed(OPENAI, 1, tool_calls=[call, other])), tokenizer)[0]
    assert span.index(ARGUMENTS) < span.index("tides") < span.index("{}")


def test_a_template_without_calls_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    """It would leave out the call, and an empty answer would be learned. The line and the template are named."""
    tokenizer.chat_template = templates.CHATML
    with pytest.raises(DataError) as caught:
        language.encode([example(tmp_path, OPENAI)], tokenizer, limit=500, lines=[7])
    (problem,) = caught.value.errors
    assert (problem["line"], problem["code"]) == (7, "left_out_by_template")
    assert "template of caller leaves out the call of the tool 'current_weather' in messages[1]" in problem["message"]


def test_a_template_without_results_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    """An answer that rests on a result is not learned without it."""
    tokenizer.chat_template = templates.QWEN25.replace("\n{{ m.content }}\n</tool_response>", "</tool_response>")
    with pytest.raises(DataError, match=r"leaves out the result of a tool in messages\[2\]"):
        language.encode([example(tmp_path, OPENAI)], tokenizer, limit=500)


def test_content_beside_calls(tmp_path: Path, tokenizer: Any) -> None:
    """Written by Qwen's template, left out by DeepSeek's together with the calls."""
    row = example(tmp_path, changed(OPENAI, 1, content="Let me see."))
    tokenizer.chat_template = templates.QWEN25
    assert learned(row, tokenizer)[0] == f"Let me see.\n{HERMES_CALL}"

    tokenizer.chat_template = templates.DEEPSEEK
    with pytest.raises(DataError, match="leaves out the call of the tool 'current_weather'"):
        language.encode([row], tokenizer, limit=500)


def test_the_template_s_own_reason(tmp_path: Path, tokenizer: Any) -> None:
    """What it refuses is refused by line in its words."""
    for template, calls, reason in (
        (templates.LLAMA31, OPENAI["messages"][1]["tool_calls"] * 2, "only supports one call at once"),
        (templates.MISTRAL, [OPENAI["messages"][1]["tool_calls"][0] | {"id": "call_abc"}], "should have length 9"),
    ):
        tokenizer.chat_template = template
        with pytest.raises(DataError, match=reason) as caught:
            language.encode([example(tmp_path, changed(OPENAI, 1, tool_calls=calls))], tokenizer, limit=500)
        assert caught.value.errors[0]["code"] == "template_refused"


def test_the_old_form(tmp_path: Path, tokenizer: Any) -> None:
    """`functions`, `function_call` and the role `function` are read as tools, calls and results."""
    record = {
        "messages": [
            OPENAI["messages"][0],
            {
                "role": "assistant",
                "content": None,
                "function_call": OPENAI["messages"][1]["tool_calls"][0]["function"],
            },
            {"role": "function", "name": "current_weather", "content": '{"sky": "clear"}'},
            *OPENAI["messages"][3:],
        ],
        "functions": [tool["function"] for tool in OPENAI["tools"]],
    }
    tokenizer.chat_template, spans = KNOWN["qwen 2.5"]
    assert learned(example(tmp_path, record), tokenizer) == spans


def test_reasoning_beside_calls(tmp_path: Path, tokenizer: Any) -> None:
    """Learned where the template shows it, counted in a note where it does not."""
    record = changed(OPENAI, 1, reasoning_content="I should look.")
    row = example(tmp_path, record | {"messages": record["messages"][:4]})
    tokenizer.chat_template = templates.QWEN3
    assert learned(row, tokenizer)[0] == f"<think>\nI should look.\n</think>\n\n{HERMES_CALL}"
    assert language.encode([row], tokenizer, limit=500).notes == ()

    whole = example(tmp_path, record)  # a later question drops it
    assert language.encode([whole], tokenizer, limit=500).notes == (
        "1 texts of reasoning are not learned: the chat template of caller leaves them out of the conversation",
    )


@pytest.mark.parametrize(
    ("record", "note"),
    [
        (OPENAI | {"messages": OPENAI["messages"][4:]}, "1 conversations do not show their tools"),
        (
            {"messages": [{"role": "developer", "content": "Be brief."}, *OPENAI["messages"][4:]]},
            "1 messages of other roles are not shown",
        ),
    ],
    ids=["tools", "developer"],
)
def test_context_that_is_left_out_is_counted(tmp_path: Path, tokenizer: Any, record: dict[str, Any], note: str) -> None:
    """Tools and instructions that a template does not know are not dropped in silence."""
    turn = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    tokenizer.chat_template = templates.CHATML.replace(turn, f"{{% if m.role != 'developer' %}}{turn}{{% endif %}}")
    notes = language.encode([example(tmp_path, record)], tokenizer, limit=500).notes
    assert notes == (f"{note}: the chat template of caller leaves them out of the conversation",)


@pytest.mark.parametrize("task", ["causal-lm", "preference"])
def test_jobs_with_tools(tmp_path: Path, task: str) -> None:
    """A whole attempt on a file as OpenAI's SDK uploads it; what the template leaves out is in the events."""
    place = Workspace(tmp_path).create()
    tiny.llama(place.base, template=templates.QWEN3, max_position_embeddings=512)
    record = changed(OPENAI, 1, reasoning_content="the cat")
    if task == "preference":
        chosen, other = record["messages"][1], {"role": "assistant", "content": "the film"}
        asked = {"messages": OPENAI["messages"][:1], "tools": OPENAI["tools"]}
        record = {"input": asked, "preferred_output": [chosen], "non_preferred_output": [other]}
    order = work_order(
        job_id="ftjob-tools",
        stage="train",
        model={"type": "transformers", "path": "tiny"},
        task=task,
        data=data(place, [record] * 4),
        hyperparameters={"n_epochs": 1, "batch_size": 2},
        policy={"train": ["model.layers.1.**"]},
        seed=1,
        device="cpu",
    )
    done = attempt(order, tmp_path)
    assert done.code == 0, done.of("failed")
    said = [report["message"] for report in done.of("event")]
    assert any("4 texts of reasoning are not learned" in message for message in said) == (task == "causal-lm")


def test_a_template_that_is_no_template(tmp_path: Path, tokenizer: Any) -> None:
    """The model's fault, by its name, and not that of the first line."""
    tokenizer.name_or_path = "org/broken"
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }"
    with pytest.raises(ModelError, match=r"the chat template of broken cannot be read: .* in its line 1"):
        chat.ensure_template(tokenizer, [OPENAI])


@pytest.mark.parametrize("model", ["a chat model", "org/a chat model"])
def test_templates_are_named_as_the_model_is(tmp_path: Path, model: str) -> None:
    """And not by the folder in which an attempt has it."""
    place = Workspace(tmp_path).create()
    tiny.llama(place.base, template="{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}")
    order = work_order(
        job_id="ftjob-test",
        stage="train",
        model={"type": "transformers", "path": model},
        task="causal-lm",
        data=data(place, [OPENAI] * 2),
        device="cpu",
    )
    message = attempt(order, tmp_path).failure["message"]
    assert "the chat template of a chat model leaves out" in message
