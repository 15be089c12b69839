"""Jobs that a real worker ran, and what an auditor has of them: attestation, key, data, base."""

import base64
import json
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.db import Database
from app.evidence.tables import Evidence
from app.models.catalog import layout
from app.models.tables import Model
from tests.conftest import Deployment
from tests.worker.supervisor.jobs import job_of, submit, upload
from tests.worker.trainer import tiny
from worker.protocol import Workspace
from worker.reproduction import rerun
from worker.reproduction.command import main
from worker.supervisor.runner import Runner
from worker.trainer.main import run as run_trainer

#: Eight steps of four examples.
ROWS = [{"text": f"the {word} sat", "label": ("good", "bad")[at % 2]} for at, word in enumerate(tiny.WORDS[:16])]
HYPERPARAMETERS: dict[str, Any] = {
    "n_epochs": 2,
    "batch_size": 4,
    "learning_rate": 0.01,
    "checkpoint_steps": 2,
    "keep_checkpoints": 9,
}
HEAD: dict[str, Any] = {"freeze": ["bert.**"]}


@dataclass(frozen=True)
class Attested:
    """A job's attestation and material as files. `base` is None where the base was drawn from the seed."""

    attestation: Path
    key: Path
    data: Path
    base: Path | None
    result: Path

    def reproduce(self, *options: str) -> int:
        """As an auditor would, on the command line."""
        given = [str(self.attestation), "--key", str(self.key), "--data", str(self.data), *options]
        if self.base is not None and "--base" not in options:
            given += ["--base", str(self.base)]
        return main(given)

    @property
    def recipe(self) -> Any:
        return json.loads(base64.b64decode(json.loads(self.attestation.read_text())["recipe"]["payload"]))["predicate"]


@dataclass
class Workshop:
    """A worker whose jobs are attested."""

    deployment: Deployment
    runner: Runner
    folder: Path

    def classifier(self, *, rows: list[dict[str, Any]] | None = None, attempts: int = 1, **columns: Any) -> Attested:
        """A fine-tune of a tiny encoder."""
        job_id = self.submitted(rows=rows, **columns)
        for _ in range(attempts):
            assert self.runner.run_next()
        data, base = self.folder / "data.jsonl", self.deployment.settings.models / "tiny"
        return self.attested(job_id, data=data, base=base)

    def submitted(self, *, rows: list[dict[str, Any]] | None = None, **columns: Any) -> str:
        """The id of a job that waits."""
        base = self.deployment.settings.models / "tiny"
        if not base.exists():
            tiny.bert(base)
        content = "".join(json.dumps(row) + "\n" for row in rows or ROWS).encode()
        data = self.folder / "data.jsonl"
        data.write_bytes(content)
        values: dict[str, Any] = {
            "model": "tiny",
            "model_spec": {"type": "transformers", "path": "tiny"},
            "task": "text-classification",
            "training_file": upload(self.deployment, content, filename="data.jsonl"),
            "data": {"format": "jsonl"},
            "hyperparameters": HYPERPARAMETERS,
            "policy": HEAD,
        }
        return submit(self.deployment, **values | columns)

    def attested(self, job_id: str, *, data: Path, base: Path | None) -> Attested:
        job = job_of(self.deployment.db, job_id)
        assert job.status == "succeeded", job.error
        place = self.folder / job_id
        place.mkdir()
        with self.deployment.db.read() as session:
            envelope = session.get_one(Evidence, job_id).envelope
        assert envelope is not None
        (place / "attestation.json").write_bytes(envelope)
        (place / "key.pub").write_text(self.deployment.settings.signing_key_path.with_suffix(".pub").read_text())
        self._download(self.deployment.db, str(job.fine_tuned_model), place / "result")
        return Attested(place / "attestation.json", place / "key.pub", data, base, place / "result")

    def _download(self, db: Database, model_id: str, folder: Path) -> None:
        folder.mkdir()
        with db.read() as session:
            model = session.get_one(Model, model_id)
            _ = model.tensors
        for file in model.files:
            if file["blob"] is None:
                content = b"".join(layout(model, file["name"]).stream(self.runner.storage.open))
                (folder / file["name"]).write_bytes(content)


def in_process(workspace: Workspace, environment: Any) -> int:
    """The trainer here, where torch is imported already. The same bits: threads and seeds are set by the trainer."""
    try:
        with workspace.log.open("a") as log, redirect_stdout(log):
            run_trainer(workspace.root)
    except SystemExit as ended:
        return int(ended.code or 0)
    raise AssertionError("a trainer ends by SystemExit")


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rerun, "run_trainer", in_process)
