"""The policy's OpenAPI shape agrees with the language in policy.py."""

import json
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from app.errors import PolicyError
from app.freeze.policy import Policy
from app.freeze.schemas import EXAMPLES, FreezePolicy, json_schema


class Body(BaseModel):
    freeze_policy: FreezePolicy | None = None


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_mean_what_the_language_says(name):
    """What comes in through the schema is what policy.py reads, and its normal form comes in again."""
    policy = Body(freeze_policy=EXAMPLES[name]).freeze_policy.normal()  # type: ignore[arg-type]
    assert policy == Policy.from_json(EXAMPLES[name])
    assert FreezePolicy.of(policy).normal() == policy


def test_refusals_keep_their_code_and_path():
    """The language's own error reaches the caller instead of pydantic's."""
    with pytest.raises(PolicyError, match="did you mean 'name'") as caught:
        Body.model_validate({"freeze_policy": {"rules": [{"action": "freeze", "select": {"nmae": "x"}}]}})
    assert caught.value.param == "freeze_policy.rules[0].select.nmae"


def test_no_policy_is_no_policy():
    """Null is a job that freezes nothing, not a refusal."""
    assert Body.model_validate({"freeze_policy": None}).freeze_policy is None


KEYS = ("default", "rules", "freeze", "train", "mechanism", "buffers", "enforce", "on_violation")
RULES = [example["rules"] for example in EXAMPLES.values() if "rules" in example]
VALUES = ["freeze", "train", "pin", "track", "detach", "abort", True, False, None, [], ["a.**"], 3, *RULES]


@given(st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=3))
def test_the_schema_takes_whatever_the_language_takes(policy: dict[str, Any]):
    """A policy that policy.py reads is never refused by the shape that OpenAPI publishes."""
    try:
        wanted = Policy.from_json(policy)
    except PolicyError:
        return
    assert FreezePolicy.model_validate(policy).normal() == wanted


def test_the_json_schema_is_closed_and_has_the_examples():
    """Unknown keys are refused at every level, and the page has something to try."""
    schema = FreezePolicy.model_json_schema()
    assert len(schema["examples"]) == len(EXAMPLES)
    objects = [schema, *schema["$defs"].values()]
    assert {part["additionalProperties"] for part in objects} == {False}
    assert json.loads(json.dumps(schema)) == schema


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_schema_takes_every_example(name):
    """In the short form and in the normal form, which is what a job returns."""
    validator = jsonschema_rs.validator_for(json_schema())
    validator.validate(EXAMPLES[name])
    validator.validate(Policy.from_json(EXAMPLES[name]).to_json())


@pytest.mark.parametrize(
    "policy",
    [
        {"freez": ["a"]},
        {"freeze": 3},
        {"default": "thaw"},
        {"rules": [{"action": "freeze"}]},
        {"rules": [{"action": "freeze", "select": {"nmae": "a"}}]},
        {"rules": [{"action": "freeze", "select": {"layers": {"first": 2}}}]},
        {"rules": [{"action": "freeze", "select": {"name": "a", "rows": [[0, 1, 2]]}}]},
        {"rules": [{"action": "freeze", "select": {"name": "a"}, "when": [{"to_step": 0}]}]},
        {"rules": [{"action": "freeze", "select": {"name": "a"}, "mechanism": "lr=0"}]},
        {"enforce": "no"},
    ],
    ids=repr,
)
def test_the_schema_refuses_what_the_language_refuses(policy):
    """Unknown keys, wrong types and values: known before a request is sent."""
    with pytest.raises(PolicyError):
        Policy.from_json(policy)
    assert not jsonschema_rs.validator_for(json_schema()).is_valid(policy)
