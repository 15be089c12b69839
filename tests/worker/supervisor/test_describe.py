"""Registered models, described or refused with the reason."""

import pytest

from app.db import now
from app.models.tables import Model
from tests.conftest import Deployment
from worker.supervisor.describe import Describer
from worker.supervisor.runner import Runner


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("model.safetensors", b"not a tensor file", "model.safetensors"),
        ("pytorch_model.bin", b"a pickle", "no .safetensors file"),
    ],
)
def test_unreadable_model_says_why(
    deployment: Deployment, runner: Runner, name: str, content: bytes, says: str
) -> None:
    """Weights that are no safetensors end as a failed model with the reason, and not as a job that fails later."""
    folder = runner.settings.models / "broken"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / name).write_bytes(content)
    with deployment.db.write() as session:
        row = Model(id="broken", project=None, owned_by="permafrost", kind="base", status="pending")
        row.created_at, row.spec = now(session), {"type": "transformers", "path": "broken"}
        session.add(row)
    Describer(runner).describe("broken")
    with deployment.db.read() as session:
        model = session.get_one(Model, "broken")
        assert model.status == "failed"
        assert model.error is not None
        assert says in model.error
