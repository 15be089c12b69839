"""Conversations as TRL, ShareGPT and Alpaca write them: read as one shape, and each mistake by field."""

from typing import Any

import pytest

from app.files.formats import infer_task
from tests.app.files.training_files import found, lines, read


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


CALL = {"type": "function", "function": {"name": "tides", "arguments": {"day": 3}}}
TOOL = {"type": "function", "function": {"name": "tides"}}
COMPARED = {"messages": [user("a")], "chosen": "c", "rejected": "d"}
CHOSEN, REJECTED = [user("a"), assistant("c")], [user("a"), assistant("d")]


@pytest.mark.parametrize(
    ("record", "example"),
    [
        (
            {"prompt": [user("a"), assistant("x"), user("b")], "completion": [assistant("c")]},
            {"messages": [user("a"), assistant("x", weight=0), user("b"), assistant("c")]},
        ),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "weight": None}]},
            {"messages": [user("a"), assistant("b")]},
        ),
        ({"conversations": [user("a"), assistant("b")]}, {"messages": [user("a"), assistant("b")]}),
        (
            {
                "system": "s",
                "tools": '[{"name": "tides"}]',
                "conversations": [
                    {"from": "human", "value": "a"},
                    {"from": "function_call", "value": '{"name": "tides", "arguments": {"day": 3}}'},
                    {"from": "observation", "value": "low"},
                    {"from": "gpt", "value": "b"},
                ],
            },
            {
                "messages": [
                    {"role": "system", "content": "s"},
                    user("a"),
                    assistant("", tool_calls=[CALL]),
                    {"role": "tool", "content": "low"},
                    assistant("b"),
                ],
                "tools": [TOOL],
            },
        ),
        ({"instruction": "a", "input": "", "output": "b"}, {"messages": [user("a"), assistant("b")]}),
        (
            {"instruction": "a", "input": "x", "output": "b", "system": "s"},
            {"messages": [{"role": "system", "content": "s"}, user("a\nx"), assistant("b")]},
        ),
        ({"prompt": [user("a")], "chosen": CHOSEN[1:], "rejected": REJECTED[1:]}, COMPARED),
        ({"prompt": [user("a")], "chosen": CHOSEN, "rejected": REJECTED}, COMPARED),
        ({"chosen": CHOSEN, "rejected": REJECTED}, COMPARED),
        ({"prompt": "a", "chosen": CHOSEN, "rejected": REJECTED}, COMPARED),
    ],
)
def test_one_shape_for_all(put, record, example):
    """The task is seen from the fields, and the trainer gets what it gets of OpenAI's form."""
    path = put(lines(record, record))
    task = infer_task(path, "jsonl")
    assert task == ("preference" if "chosen" in record else "causal-lm")
    assert next(read(path, format="jsonl", task=task)) == example


PROMPTED = {"prompt": [user("a")], "completion": [assistant("c")]}
SHARED = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
PREFERRED = {"chosen": CHOSEN, "rejected": REJECTED}


def said(*turns: Any) -> dict[str, Any]:
    return {"conversations": [SHARED["conversations"][0], *turns]}


@pytest.mark.parametrize(
    ("good", "bad", "field", "code"),
    [
        (PROMPTED, {"prompt": "a", "completion": "c"}, "prompt", "mixed_shapes"),
        (PROMPTED, PROMPTED | {"completion": "c"}, "completion", "wrong_type"),
        (PROMPTED, PROMPTED | {"completion": [user("c")]}, "completion", "nothing_to_learn"),
        ({"prompt": "a", "completion": "c"}, {"prompt": "a", "completion": "c", "tools": []}, "tools", "unknown_field"),
        (SHARED, {"conversations": "a"}, "conversations", "wrong_type"),
        (SHARED, said({"from": "alien", "value": "b"}), "conversations[1].from", "unknown_role"),
        (SHARED, said({"from": "gpt", "value": ""}), "conversations[1].value", "empty_value"),
        (SHARED, said({"from": "gpt", "value": "b", "loss": 1}), "conversations[1].loss", "unknown_field"),
        (SHARED, said({"from": "function_call", "value": "{"}), "conversations[1].value", "not_json"),
        (SHARED, said(), "conversations", "nothing_to_learn"),
        (SHARED, SHARED | {"system": 7}, "system", "wrong_type"),
        ({"instruction": "a", "output": "b"}, {"instruction": "a", "output": ""}, "output", "empty_value"),
        (PREFERRED, {"chosen": CHOSEN, "rejected": CHOSEN}, "rejected", "no_preference"),
        (PREFERRED, {"chosen": CHOSEN, "rejected": [user("b"), assistant("d")]}, "rejected", "no_prompt"),
        (PREFERRED, {"chosen": [*CHOSEN, user("e")], "rejected": REJECTED}, "chosen", "wrong_type"),
        (PREFERRED, {"chosen": "c", "rejected": "d"}, "prompt", "missing_field"),
        (PREFERRED, {"chosen": [], "rejected": REJECTED}, "chosen", "wrong_type"),
    ],
)
def test_mistakes_by_field(put, good, bad, field, code):
    """Each is named where it is, by the field that the file has."""
    task = "preference" if "chosen" in good else "causal-lm"
    assert (2, field, code) in found(put(lines(good, bad)), task=task)


def test_a_prompt_that_says_something_else_is_a_conflict(put):
    """Beside whole conversations, the text of a prompt may repeat the question and nothing else."""
    record = PREFERRED | {"prompt": "a"}
    assert (2, "prompt", "conflict") in found(put(lines(record, record | {"prompt": "z"})), task="preference")


def test_roles_of_other_formats_are_explained(put):
    """`human` and `gpt` are not near to any role by their letters."""
    path = put(lines(*[{"messages": [{"role": "human", "content": "a"}, {"role": "gpt", "content": "b"}]}] * 2))
    assert [entry[2] for entry in found(path, task="causal-lm")][:2] == ["unknown_role", "unknown_role"]
