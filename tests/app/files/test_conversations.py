"""Conversations with tools: what is accepted, in which one shape it is read, and each mistake by field."""

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import DataError
from app.files.formats import validate
from tests.app.files.training_files import PREFERRED, found, lines, read

ASK = {"role": "user", "content": "weather in Oslo?"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
CALLING = {"role": "assistant", "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "rain"}
ANSWER = {"role": "assistant", "content": "It rains."}
FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
TOOL = {"type": "function", "function": FUNCTION}
RECORD = {"messages": [ASK, CALLING, RESULT, ANSWER], "tools": [TOOL], "parallel_tool_calls": False}

READ = {
    "messages": [
        ASK,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
            ],
        },
        RESULT,
        ANSWER,
    ],
    "tools": [TOOL],
}


def one(put: Any, record: dict[str, Any], task: str = "causal-lm") -> dict[str, Any]:
    example: dict[str, Any] = next(read(put(lines(record, record)), format="jsonl", task=task))
    return example


def with_message(at: int, message: Any) -> dict[str, Any]:
    messages: list[Any] = [*RECORD["messages"]]  # type: ignore[misc]
    messages[at] = message
    return RECORD | {"messages": messages}


@pytest.mark.parametrize(
    "record",
    [
        RECORD,
        with_message(1, CALLING | {"content": None}),
        with_message(1, CALLING | {"content": ""}),
        with_message(
            1, CALLING | {"tool_calls": [CALL | {"function": {"name": "weather", "arguments": {"city": "Oslo"}}}]}
        ),
        with_message(1, CALLING | {"tool_calls": [{"id": "call_1", "name": "weather", "arguments": {"city": "Oslo"}}]}),
        with_message(1, CALLING | {"weight": 1, "refusal": None, "function_call": None}),
        with_message(
            0, ASK | {"content": [{"type": "text", "text": "weather in "}, {"type": "text", "text": "Oslo?"}]}
        ),
        with_message(0, ASK | {"content": [{"type": "text", "text": ASK["content"], "image_url": None}]}),
        with_message(0, ASK | {"tool_calls": [], "tool_call_id": None}),
        RECORD | {"tools": [FUNCTION]},
        RECORD | {"tools": [{"type": "function", **FUNCTION}]},
        RECORD | {"tools": json.dumps([TOOL]), "functions": []},
        RECORD | {"tools": None, "functions": [FUNCTION | {"description": None}]},
    ],
)
def test_one_shape_for_all(put, record):
    """However people write a conversation with tools, the trainer gets the same."""
    assert one(put, record) == READ


def test_the_old_form(put):
    """`function_call` and the role `function`, which have no ids."""
    function = {"name": "weather", "arguments": '{"city": "Oslo"}'}
    calling = {"role": "assistant", "content": None, "function_call": function}
    result = {"role": "function", "name": "weather", "content": "rain"}
    example = one(put, {"messages": [ASK, calling, result, ANSWER], "functions": [FUNCTION]})
    (call,) = example["messages"][1]["tool_calls"]
    assert call == {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    assert example["messages"][2] == {"role": "tool", "name": "weather", "content": "rain"}
    assert example["tools"] == [TOOL]


def test_names_weights_and_reasoning(put):
    """A name stays, weight 1 is the default, and reasoning is found under each of its names."""
    for name in ("reasoning_content", "reasoning", "thinking"):
        answer = {"role": "assistant", "content": "It rains.", "name": "bot", "weight": 1, name: "I looked."}
        example = one(put, {"messages": [ASK | {"name": "eva"}, answer]})
        assert example["messages"] == [
            ASK | {"name": "eva"},
            ANSWER | {"name": "bot", "reasoning_content": "I looked."},
        ]


def test_preferences_with_tools(put):
    """An answer that calls a tool is a message; one that is words alone is a text."""
    record = {
        "input": {"messages": [ASK], "tools": [TOOL], "parallel_tool_calls": True},
        "preferred_output": [CALLING | {"weight": 1}],
        "non_preferred_output": [ANSWER],
    }
    example = one(put, record, "preference")
    assert example == {
        "messages": [ASK],
        "tools": [TOOL],
        "chosen": READ["messages"][1],
        "rejected": "It rains.",
    }


@pytest.mark.parametrize(
    ("record", "field", "code"),
    [
        (with_message(1, CALLING | {"tool_calls": "x"}), "messages[1].tool_calls", "wrong_type"),
        (with_message(1, CALLING | {"tool_calls": [7]}), "messages[1].tool_calls[0]", "wrong_type"),
        (
            with_message(1, CALLING | {"tool_calls": [CALL | {"type": "custom"}]}),
            "messages[1].tool_calls[0].type",
            "wrong_type",
        ),
        (
            with_message(1, CALLING | {"tool_calls": [{"function": {"arguments": {}}}]}),
            "messages[1].tool_calls[0].function.name",
            "wrong_type",
        ),
        (
            with_message(1, CALLING | {"tool_calls": [{"function": {"name": "a", "arguments": "{"}}]}),
            "messages[1].tool_calls[0].function.arguments",
            "not_json",
        ),
        (
            with_message(1, CALLING | {"tool_calls": [{"function": {"name": "a", "arguments": "[1]"}}]}),
            "messages[1].tool_calls[0].function.arguments",
            "wrong_type",
        ),
        (
            with_message(1, CALLING | {"tool_calls": [{"function": {"name": "a", "arguments": {"b": ["\ud83d"]}}}]}),
            "messages[1].tool_calls[0].function.arguments",
            "not_unicode",
        ),
        (
            with_message(1, CALLING | {"function_call": {"name": "a"}}),
            "messages[1].function_call",
            "conflict",
        ),
        (with_message(0, ASK | {"tool_calls": [CALL]}), "messages[0].tool_calls", "unknown_field"),
        (with_message(3, ANSWER | {"tool_call_id": "x"}), "messages[3].tool_call_id", "unknown_field"),
        (with_message(3, ANSWER | {"name": 7}), "messages[3].name", "wrong_type"),
        (with_message(3, ANSWER | {"reasoning": "a", "thinking": "b"}), "messages[3].thinking", "conflict"),
        (with_message(3, ANSWER | {"content": []}), "messages[3].content", "empty_value"),
        (with_message(3, ANSWER | {"content": ["a"]}), "messages[3].content[0]", "wrong_type"),
        (
            with_message(0, ASK | {"content": [{"type": "image_url", "image_url": {"url": "data:"}}]}),
            "messages[0].content[0]",
            "unsupported_part",
        ),
        (with_message(2, RESULT | {"content": None}), "messages[2].content", "wrong_type"),
        (RECORD | {"tools": "[{"}, "tools", "not_json"),
        (RECORD | {"tools": {"a": 1}}, "tools", "wrong_type"),
        (RECORD | {"tools": [TOOL, 7]}, "tools[1]", "wrong_type"),
        (RECORD | {"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name", "wrong_type"),
        (
            RECORD | {"tools": [{"function": FUNCTION | {"parameters": "x"}}]},
            "tools[0].function.parameters",
            "wrong_type",
        ),
        (RECORD | {"functions": [FUNCTION]}, "functions", "conflict"),
        (RECORD | {"parallel_tool_calls": "no"}, "parallel_tool_calls", "wrong_type"),
        (RECORD | {"tool": [TOOL]}, "tool", "unknown_field"),
    ],
)
def test_mistakes_by_field(put, record, field, code):
    """Each is named where it is."""
    assert (2, field, code) in found(put(lines(RECORD, record)), task="causal-lm")


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.sampled_from(["text", "function", "{}", "[]"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "text", "function", "name", "arguments", "parameters"]), inner)
    ),
    max_leaves=8,
)


@given(st.data())
def test_any_value_in_any_field(tmp_path_factory, data):
    """Read, or refused in its line: whatever is in a message, a call, a tool or an answer."""
    base, task = data.draw(st.sampled_from([(RECORD, "causal-lm"), (PREFERRED, "preference")]))
    record = json.loads(json.dumps(base))
    place = record
    while isinstance(place, dict | list) and place:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or data.draw(st.booleans()):
            place[key] = data.draw(ANY)
            break
        place = place[key]
    path = tmp_path_factory.getbasetemp() / "conversation.jsonl"
    path.write_bytes(lines(base, record))
    try:
        assert validate(path, format="jsonl", task=task).examples == 2
    except DataError as error:
        assert {entry["line"] for entry in error.errors} == {2}


def test_conversations_in_parquet(tmp_path):
    """Every struct has the fields of all of them, null where they are not there; tools as they are or as JSON text."""
    other = {"type": "function", "function": {"name": "tides", "arguments": {"day": 3}}}
    calling = CALLING | {"tool_calls": [CALL | {"function": {"name": "weather", "arguments": {"city": "Oslo"}}}, other]}
    for tools in ([TOOL], json.dumps([TOOL])):
        record = with_message(1, calling) | {"tools": tools}
        pq.write_table(pa.Table.from_pylist([record] * 2), tmp_path / "t.parquet")
        example = next(read(tmp_path / "t.parquet", format="parquet", task="causal-lm"))
        calls = example["messages"][1]["tool_calls"]
        assert [call["function"]["arguments"] for call in calls] == [{"city": "Oslo"}, {"day": 3}]
        assert example["messages"][::3] == [ASK, ANSWER] and example["tools"] == [TOOL]
