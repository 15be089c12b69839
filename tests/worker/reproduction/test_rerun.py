"""A trainer that does not get to the end is reported in its own words."""

from pathlib import Path

import pytest

from app.freeze.policy import Policy
from tests.tamper import recipes
from tests.tamper.kit import World
from tests.worker.reproduction.attested import quick
from worker.reproduction.material import Material
from worker.reproduction.rerun import RerunFailed, rerun


def test_a_trainer_that_refuses_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is no model: what the trainer says of it, and no traceback."""
    quick(monkeypatch)
    world = World(tmp_path / "world")
    world.sign()
    recipe = recipes.honest(world)
    request = recipe.request._replace(policy=Policy().to_json())
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "a", "label": "b"}\n' * 4)
    with pytest.raises(RerunFailed, match="the trainer refused it"):
        rerun(
            recipe._replace(request=request),
            Material(training=data, base=world.base),
            None,
            base_files=world.predicate().base_files,
            folder=tmp_path / "work",
            device="cpu",
        )
