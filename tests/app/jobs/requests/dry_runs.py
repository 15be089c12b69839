"""A dry run as a test asks for one, and a model that it knows."""

from typing import Any

from starlette.testclient import TestClient

from app.db import Database, now
from app.models.tables import Model

TEXTS = [{"text": f"some words number {n}", "label": "ab"[n % 2]} for n in range(40)]


WIDE = [{"x": [float(n), 1.0], "y": [0.0, 2.0 * n]} for n in range(8)]


HIDDEN = 8


def look(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("fine_tuning/jobs", json={"dry_run": True, **body})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["object"], answer.json()["dry_run"]) == ("fine_tuning.job.dry_run", True)
    return dict(answer.json())


def register(db: Database) -> None:
    def row(name: str, shape: list[int], module: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "shape": shape, "dtype": "F32", "module_types": ["Bert", module], **more}

    manifest = [
        row("bert.embeddings.weight", [1_000, HIDDEN], "Embedding"),
        row("bert.layer.weight", [HIDDEN, HIDDEN], "Linear"),
        row("classifier.weight", [3, HIDDEN], "Linear", initialised=True, labels=True),
    ]
    with db.write() as session:
        model = Model(id="small", created_at=now(session), owned_by="permafrost", kind="base", status="ready")
        model.spec = {"type": "transformers", "path": "small"}
        model.files, model.tensors = [{"name": "config.json", "size": 2, "sha256": "0", "blob": "x"}], []
        model.manifest = {"text-classification": manifest}
        session.add(model)
