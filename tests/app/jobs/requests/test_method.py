"""OpenAI's `method` of a request, and the task of its files."""

import pytest

from app.errors import InvalidRequest
from app.jobs.requests.method import refuse_other_method


@pytest.mark.parametrize(
    ("method", "task"),
    [(None, "preference"), (None, "pairs"), ("dpo", "preference"), ("supervised", "causal-lm")],
)
def test_a_method_that_fits_its_task(method: str | None, task: str) -> None:
    """Without a method the task decides."""
    refuse_other_method(method, task)


@pytest.mark.parametrize(
    ("method", "task", "words"),
    [("supervised", "preference", "which is trained by DPO"), ("dpo", "causal-lm", "dpo learns from preferences")],
)
def test_a_method_of_another_task_is_refused(method: str, task: str, words: str) -> None:
    """The message says what the method, or the file, would have to be."""
    with pytest.raises(InvalidRequest, match=words) as refused:
        refuse_other_method(method, task)
    assert (refused.value.param, refused.value.code) == ("method.type", "method_does_not_fit")
