"""How models of each kind are fetched, loaded and served."""

from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.db import Database
from tests.app.conftest import AFFINE
from tests.app.pages.test_models import CHAT, base, tuned
from tests.app.pages.test_routes import read

LORA = CHAT | {"adapter": {"type": "lora", "r": 8}}


@pytest.fixture
def db(embedded: FastAPI) -> Database:
    made: Database = embedded.state.backends.database
    return made


def test_a_task_that_was_found_from_the_file_counts(client: TestClient, db: Database) -> None:
    """The head is loaded, too: the model's spec does not name it."""
    base(db)
    made = tuned(db, "chat", {"type": "transformers", "path": "chat"}, task="text-classification")
    assert "AutoModelForSequenceClassification.from_pretrained" in read(client, f"/models/{made}").text


@pytest.mark.parametrize(
    ("spec", "load", "serve"),
    [
        (CHAT, "AutoModelForCausalLM.from_pretrained('model')", "vllm serve ./model"),
        (LORA, "PeftModel.from_pretrained(AutoModelForCausalLM", "--lora-modules mine=./model"),
        (CHAT | {"task": "pairs"}, "SentenceTransformer('model')", ""),
        (CHAT | {"task": "text-ranking"}, "CrossEncoder('model')", ""),
        (LORA | {"task": "text-ranking"}, "AutoModelForSequenceClassification", ""),
        (CHAT | {"task": "contrastive-image-text"}, "AutoModelForZeroShotImageClassification", ""),
        (CHAT | {"task": "image-classification"}, "AutoImageProcessor", ""),
        (AFFINE, "affine(in_features=2, out_features=1)", ""),
    ],
)
def test_a_model_says_how_it_is_used(client: TestClient, db: Database, spec: Any, load: str, serve: str) -> None:
    """By its kind; where no server takes it, none is named."""
    base(db)
    text = read(client, f"/models/{tuned(db, 'chat', spec)}").text
    assert load in text and "permafrost models get ft:affine" in text
    assert ("vllm" in text) == bool(serve) and serve in text
