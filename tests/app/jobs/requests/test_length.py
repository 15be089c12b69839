"""The length of a run."""

import pytest

from app.files.formats import Summary
from app.files.tables import File
from app.jobs.requests.examples import RequestExamples
from app.jobs.requests.length import length_of
from app.specs.data import DataSpec
from app.specs.hyperparameters import Hyperparameters


def examples(count: int, *, validated: bool = False, task: str = "tabular-regression") -> RequestExamples:
    summary = Summary(count, None, 2, 1, bytes=40 * count)
    return RequestExamples(
        task, DataSpec(), (File(), File() if validated else None), (summary, summary if validated else None)
    )


@pytest.mark.parametrize(
    ("options", "steps", "seen"),
    [
        ({"n_epochs": 2, "batch_size": 30}, 8, 200),
        ({"n_epochs": 50, "batch_size": 10, "max_steps": 7}, 7, 70),
        ({"n_epochs": 1, "batch_size": 10, "max_steps": 25}, 25, 250),
        ({"n_epochs": 1, "batch_size": 1000}, 1, 100),
        ({"n_epochs": 1, "batch_size": 30, "max_steps": 5}, 5, 130),
    ],
)
def test_steps_are_those_of_the_trainer(options: dict[str, int], steps: int, seen: int) -> None:
    """`max_steps` is the number of steps, above that of the epochs, too; the last batch of an epoch may be smaller."""
    length = length_of(examples(100), Hyperparameters.from_json(options))
    assert length is not None
    assert (length.steps, length.seen) == (steps, seen)


def test_examples_that_are_held_out_are_not_trained_on() -> None:
    """At least one is, and all are trained on where there is a validation file."""
    held_out = Hyperparameters(n_epochs=1, batch_size=1, validation_fraction=0.001)
    lengths = [length_of(examples(100, validated=validated), held_out) for validated in (False, True)]
    assert [length.examples if length else None for length in lengths] == [99, 100]


def test_tokens_are_estimated_for_texts_alone() -> None:
    """From the bytes of an example, up to max_length."""
    lengths = [
        length_of(examples(100, task=task), Hyperparameters(max_length=most))
        for task, most in (("causal-lm", None), ("causal-lm", 4), ("tabular-regression", None))
    ]
    assert [length.tokens if length else None for length in lengths] == [10, 4, None]
