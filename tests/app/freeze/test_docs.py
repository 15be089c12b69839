"""docs/freeze-policy.md is true: every policy on the page does what the page says."""

import json
import re
from pathlib import Path

import pytest

from app.errors import PolicyError
from app.freeze.plan import resolve
from app.freeze.policy import Policy
from app.freeze.schemas import EXAMPLES, FreezePolicy

PAGE = (Path(__file__).parents[3] / "docs" / "freeze-policy.md").read_text(encoding="utf-8")
BLOCK = re.compile(
    r"```json(?P<info>[^\n]*)\n(?P<policy>.*?)```\n\n(?:```text\n(?P<message>.*?)\n```|(?P<counts>\d[^\n]*)\.\n)",
    re.DOTALL,
)
BLOCKS = [found.groupdict() | {"line": PAGE.count("\n", 0, found.start()) + 1} for found in BLOCK.finditer(PAGE)]


def test_every_block_is_found():
    """No JSON on the page escapes these tests for want of a count or a message after it."""
    assert len(BLOCKS) == PAGE.count("```json") >= 15


@pytest.mark.parametrize("block", [b for b in BLOCKS if b["counts"]], ids=lambda b: f"line {b['line']}")
def test_policies_freeze_what_the_page_says(block, request):
    """The counts under each policy are those of its plan."""
    policy = FreezePolicy.model_validate(json.loads(block["policy"])).normal()
    plan = resolve(policy, request.getfixturevalue(block["info"].strip()))
    counts = plan.counts()
    found = f"{counts['frozen']['tensors']} frozen, {counts['trainable']['tensors']} trainable"
    found += f", {len(plan.scheduled)} of them later" if plan.scheduled else ""
    assert block["counts"] == found


@pytest.mark.parametrize("block", [b for b in BLOCKS if b["message"]], ids=lambda b: f"line {b['line']}")
def test_refusals_say_what_the_page_says(block, request):
    """The messages on the page are the real ones."""
    model, refused = block["info"].split()
    assert refused == "refused"
    with pytest.raises(PolicyError) as caught:
        resolve(Policy.from_json(json.loads(block["policy"])), request.getfixturevalue(model))
    assert caught.value.message == block["message"]


def test_the_page_teaches_every_example_of_the_openapi_page():
    """The ten examples stand on both pages, and mean the same."""
    taught = [Policy.from_json(json.loads(block["policy"])) for block in BLOCKS]
    examples = [name for name in EXAMPLES if not name.startswith("frozen by")]
    assert len(examples) == PAGE.count("\n### ") == 10
    assert [name for name in examples if Policy.from_json(EXAMPLES[name]) not in taught] == []
