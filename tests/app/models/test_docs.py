"""docs/models.md is true: each request on the page is one that the API takes."""

import json
import re
from pathlib import Path

import pytest

from app.jobs.requests.schemas import JobCreate

PAGE = (Path(__file__).parents[3] / "docs" / "models.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)


def test_every_block_is_found() -> None:
    """No JSON on the page escapes."""
    assert len(BLOCKS) == PAGE.count("```json") >= 7


@pytest.mark.parametrize("block", BLOCKS)
def test_requests_on_the_page_are_valid(block: str) -> None:
    """As they stand, with a policy in its normal form where there is one."""
    JobCreate.model_validate(json.loads(block)).policy()
