"""Numbers as labels on a base that classifies: its own task, or a question."""

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.app.conftest import Upload

CONFIG = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
CLASSIFIER = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "bad", "1": "good"}}
REGRESSOR = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}


def ask(client: TestClient, upload: Upload, labels: list[Any], **more: Any) -> dict[str, Any]:
    """The answer to a dry run with these labels."""
    rows = [{"text": f"text {at}", "label": label} for at, label in enumerate(labels)]
    policy = {"freeze": ["bert.**"]}
    body = {"model": {"type": "transformers", "path": "small"}, "training_file": upload(rows), "freeze_policy": policy}
    answer: dict[str, Any] = client.post("fine_tuning/jobs", json={**body, "dry_run": True, **more}).json()
    return answer


def describe(folder: Path, **config: Any) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | config))


@pytest.mark.parametrize(
    ("config", "labels", "task"),
    [
        (CLASSIFIER, [0, 1, 0, 1], "text-classification"),
        ({"architectures": ["BertForSequenceClassification"]}, [0, 1, 0, 1], "text-classification"),
        (REGRESSOR, [0, 1, 0, 1], "text-regression"),
        (CLASSIFIER | {"problem_type": "regression"}, [0, 1, 0, 1], "text-regression"),
        ({"architectures": ["BertModel"]}, [0, 1, 0, 1], "text-regression"),
        (CLASSIFIER, ["bad", "good", "bad", "good"], "text-classification"),
    ],
)
def test_the_base_s_own_task(
    client: TestClient, upload: Upload, folder: Path, config: Any, labels: Any, task: str
) -> None:
    """A base that classifies keeps classifying; one that gives a number, or has no head, regresses."""
    describe(folder, **config)
    assert ask(client, upload, labels)["task"] == task


@pytest.mark.parametrize("labels", [[0, 1, 2, 2], [0.5, 1.5], [-1, 1]])
def test_numbers_that_are_no_classes_are_a_question(
    client: TestClient, upload: Upload, folder: Path, labels: Any
) -> None:
    """A head would be drawn anew: that has to be meant."""
    describe(folder, **CLASSIFIER)
    error = ask(client, upload, labels)["error"]
    assert (error["param"], error["code"]) == ("task", "missing_field")
    assert "name the task: 'text-classification'" in error["message"]
    assert ask(client, upload, labels, task="text-regression")["task"] == "text-regression"


def test_a_csv_of_classes(client: TestClient, upload: Upload, folder: Path) -> None:
    """Where every value is text."""
    describe(folder, **CLASSIFIER)
    file = upload(b"text,label\na,0\nb,1\nc,0\nd,1\n", name="t.csv")
    body = {"model": {"type": "transformers", "path": "small"}, "training_file": file, "dry_run": True}
    answer = client.post("fine_tuning/jobs", json={**body, "freeze_policy": {"freeze": ["bert.**"]}}).json()
    assert answer["task"] == "text-classification"


def test_warnings_about_the_files(client: TestClient, upload: Upload, folder: Path) -> None:
    """Twins among labels, and a validation file that is the training file again, by id or by bytes."""
    describe(folder, **CLASSIFIER)
    rows = [{"text": f"text {at}", "label": label} for at, label in enumerate(["bad", "bad ", "good"] * 2)]
    for validation in (upload(rows), None):
        training = upload(rows)
        answer = ask(client, upload, ["a"], training_file=training, validation_file=validation or training)
        assert any("differ only by spaces" in warning for warning in answer["warnings"])
        assert any("same bytes as the training file" in warning for warning in answer["warnings"])
