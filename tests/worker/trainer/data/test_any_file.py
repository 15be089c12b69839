"""Any file at all in the trainer: read and encoded, or refused with a code; never an error that would come again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from app.errors import PermafrostError
from app.files.formats import TASKS
from app.specs.data import DataSpec
from app.specs.models import TransformersSpec
from tests.app.files.odd_files import FILES
from tests.worker.trainer import tiny, vision_language
from tests.worker.trainer.data import templates
from worker.trainer.data import reading
from worker.trainer.models import loading
from worker.trainer.models.loading import Loaded
from worker.trainer.training import tasks


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Loaded]:
    """A decoder with a template that knows tools, an encoder, and a model of pictures; by task."""
    spec, folder = TransformersSpec(path="tiny"), tmp_path_factory.mktemp("models")
    made = {
        "causal-lm": tiny.llama(folder / "llama", template=templates.QWEN3),
        "token-classification": tiny.bert(folder / "bert"),
        "image-classification": tiny.vit(folder / "vit"),
        "image-text": vision_language.save("llava", folder / "llava"),
    }
    loaded = {
        task: loading.load(
            spec, place, task=task, labels=None if task in ("causal-lm", "image-text") else ("a", "b"), seed=0
        )
        for task, place in made.items()
    }
    same = {"preference": "causal-lm", **dict.fromkeys(TASKS[1:5], "token-classification")}
    return {task: loaded[same.get(task, task)] for task in TASKS if same.get(task, task) in loaded}


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(FILES, FILES | st.none(), st.sampled_from(TASKS), st.sampled_from([None, 4]))
def test_any_file_in_the_trainer(
    models: dict[str, Loaded],
    tmp_path: Path,
    training: tuple[str, bytes],
    validation: tuple[str, bytes] | None,
    task: str,
    length: int | None,
) -> None:
    """Every task: inferred, read and encoded, with a validation file or a part held out."""
    (tmp_path / training[0]).write_bytes(training[1])
    held_out = None if validation is None else f"held-{validation[0]}"
    if validation is not None:
        (tmp_path / f"held-{validation[0]}").write_bytes(validation[1])
    data = DataSpec(training=training[0], validation=held_out)

    try:
        tasks.name_of(TransformersSpec(path="tiny"), None, workspace=tmp_path, data=data)
    except PermafrostError as error:
        assert error.status == 400
    try:
        splits = reading.read(tmp_path, data, task=task, fraction=0.5)
    except PermafrostError as error:
        assert error.status == 400
        return

    assume(task in models)
    try:
        encoded = tasks.encode(task, splits, models[task], asked_length=length)
    except PermafrostError as error:
        assert error.status == 400
    else:
        assert len(encoded.training) == len(splits.training)
