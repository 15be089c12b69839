"""Folders as base models."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from app.evidence.format.templates import FOLDER
from app.evidence.tables import Evidence
from app.models.tables import Model
from app.specs.models import TorchSpec, TransformersSpec
from tests.conftest import Deployment
from tests.worker.supervisor import stub_trainer
from tests.worker.supervisor.jobs import job_of, submit
from worker.supervisor.bases import makes_weights
from worker.supervisor.runner import Runner


def test_base_model_folder_is_registered_once(deployment: Deployment, runner: Runner, tmp_path: Path) -> None:
    """A folder under PERMAFROST_MODELS_DIR becomes a base model on first use, and stays as it was then."""
    folder = runner.settings.models / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["AffineForSequenceClassification"]}))
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / FOLDER).mkdir()
    (folder / FOLDER / "rag.jinja").write_text("{{ messages }}")
    (folder / FOLDER / "run.py").write_text("")
    stub_trainer.write_tensors(folder / "model.safetensors", {"bias": bytes(4), "weight": bytes(range(40))})
    spec = {"type": "transformers", "path": "tiny"}
    first = submit(deployment, model="tiny", model_spec=spec)
    runner.run_next()
    (folder / "model.safetensors").write_bytes(b"changed later")
    second = submit(deployment, model="tiny", model_spec=spec)
    runner.run_next()
    for job_id in (first, second):
        assert job_of(deployment.db, job_id).status == "succeeded", job_of(deployment.db, job_id).error
    with deployment.db.read() as session:
        model = session.get_one(Model, "tiny")
        assert (model.project, model.kind) == (None, "base")
        assert [file["name"] for file in model.files] == ["config.json", "model.safetensors", f"{FOLDER}/rag.jinja"]


def test_readme_and_licence_are_kept_and_no_statement_is_about_them(deployment: Deployment, runner: Runner) -> None:
    """Whoever has the base's folder without them can verify at level 3 all the same. A huge one is left alone."""
    folder = runner.settings.models / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "LICENSE").write_text("MIT License")
    with (folder / "NOTICE").open("wb") as file:
        file.truncate((4 << 20) + 1)
    stub_trainer.write_tensors(folder / "model.safetensors", {"bias": bytes(4), "weight": bytes(range(40))})
    job_id = submit(deployment, model="tiny", model_spec={"type": "transformers", "path": "tiny"})
    runner.run_next()
    with deployment.db.read() as session:
        files = session.get_one(Model, "tiny").files
        envelope = json.loads(session.get_one(Evidence, job_id).envelope or b"")
    loaded = ["config.json", "model.safetensors"]
    assert [file["name"] for file in files] == [*loaded, "LICENSE", "README.md"]
    stated = json.loads(base64.b64decode(envelope["payload"]))["predicate"]["base"]["files"]
    assert [file["name"] for file in stated] == loaded


def test_two_variants_of_weights_are_refused_by_name(deployment: Deployment, runner: Runner) -> None:
    """Published folders have a half-precision copy beside the weights; which of them is meant is not guessed."""
    folder = runner.settings.models / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    for name in ("model.safetensors", "model.fp16.safetensors"):
        stub_trainer.write_tensors(folder / name, {"bias": bytes(4), "weight": bytes(range(40))})
    job_id = submit(deployment, model="tiny", model_spec={"type": "transformers", "path": "tiny"})
    runner.run_next()
    error = job_of(deployment.db, job_id).error
    assert error is not None and error["code"] == "two_models"
    assert "model.fp16.safetensors and model.safetensors" in error["message"]


SMALL = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}


@pytest.mark.parametrize(
    ("config", "model", "makes"),
    [
        (json.dumps(SMALL), {"adapter": {"type": "lora"}}, True),
        (json.dumps({}), {"adapter": {"type": "lora"}, "quantize": "nf4"}, True),
        (json.dumps({}), {"adapter": {"type": "lora"}}, False),
        (json.dumps(SMALL), {}, False),  # which the trainer refuses
        (json.dumps({"quantization_config": {"quant_method": "gptq"}}), {"adapter": {"type": "lora"}}, False),
        ("[", {"adapter": {"type": "lora"}}, False),
        ("[]", {"adapter": {"type": "lora"}}, False),
    ],
)
def test_bases_of_which_loading_makes_other_weights(
    tmp_path: Path, config: str, model: dict[str, Any], makes: bool
) -> None:
    """Those that are quantised for a job, and those whose codes are decoded; what cannot be read is the trainer's."""
    (tmp_path / "config.json").write_text(config)
    spec = TransformersSpec.from_json({"type": "transformers", "path": "tiny", **model})
    assert makes_weights(spec, tmp_path) is makes
    assert not makes_weights(TorchSpec(architecture="affine"), tmp_path)
