"""The facts of a job's bills of materials, and that they say unknown where nothing is known."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi import FastAPI

from app.evidence.tables import Evidence
from app.jobs.queue.tables import Job
from app.models.tables import Model
from app.papers.facts import BillFacts, Compute, facts_of
from app.papers.licences import Licence
from tests.app.papers.attested import attested
from tests.tamper import recipes
from tests.tamper.kit import World


def facts(embedded: FastAPI, job_id: str) -> BillFacts:
    backends = embedded.state.backends
    with backends.database.read() as session:
        job, evidence = session.get_one(Job, job_id), session.get_one(Evidence, job_id)
        return facts_of(session, backends.storage, job, evidence)


def test_everything_that_is_known_is_there(embedded: FastAPI, tmp_path: Path) -> None:
    """From the statement, the recipe, the curves and the base's README."""
    world = World(tmp_path / "world")
    world.sign()
    honest = recipes.honest(world)
    recipe = honest._replace(reported=replace(honest.reported, flops=10**12))
    found = facts(embedded, attested(embedded.state.backends, world, recipe=recipe))
    assert (found.base.root, found.base.word.licence) == (
        world.pinned,
        Licence("apache-2.0", "Apache-2.0", "README.md"),
    )
    assert [file.name for file in found.base.files] == ["config.json", "model.safetensors"]
    assert [(part.role, part.id, part.sha256) for part in found.data] == [("training", "file-1", "11" * 32)]
    assert found.compute == Compute(flops=10**12, seconds=120, device="cpu", tokens=640, steps=20)
    assert found.hyperparameters == {"n_epochs": "3", "seed": "0"}
    assert found.metrics == {"valid_accuracy": "0.75", "valid_loss": "0.5"}
    named = dict(found.named())
    assert (named["compute:base-flops"], named["compute:share-of-base"]) == ("1200000000000", "0.833")


def test_what_nobody_says_is_unknown(embedded: FastAPI, tmp_path: Path) -> None:
    """Of a base without papers: no licence, and no share of its compute."""
    job_id = attested(embedded.state.backends, World(tmp_path / "world"), readme=None)
    named = dict(facts(embedded, job_id).named())
    assert {name for name, value in named.items() if value == "unknown"} == {
        "compute:flops",
        "compute:processor",
        "compute:base-flops",
        "compute:share-of-base",
    }
    assert facts(embedded, job_id).base.word.licence is None


@pytest.mark.parametrize("version", ["urn:permafrost:fine-tuning:v9", None])
def test_an_attestation_without_a_recipe_that_can_be_read(
    embedded: FastAPI, tmp_path: Path, version: str | None
) -> None:
    """From before there were recipes, or of a newer version: the statement is enough for the rest."""
    job_id = attested(embedded.state.backends, World(tmp_path / "world"))
    with embedded.state.backends.database.write() as session:
        row = session.get_one(Evidence, job_id)
        envelope = json.loads(row.envelope or b"")
        if version is None:
            del envelope["recipe"]
        else:
            envelope["recipe"]["payload"] = "e30="
        row.envelope = json.dumps(envelope).encode()
    found = facts(embedded, job_id)
    assert (found.compute, found.data, found.versions) == (Compute(), (), {})
    assert found.hyperparameters == {"n_epochs": "auto", "seed": "0"}


def test_the_licence_is_that_of_the_first_base(embedded: FastAPI, tmp_path: Path) -> None:
    """A fine-tune of a fine-tune stands under what its first base's publisher declared."""
    job_id = attested(embedded.state.backends, World(tmp_path / "world"))
    with embedded.state.backends.database.write() as session:
        job, base = session.get_one(Job, job_id), session.get_one(Model, "toy")
        between = Model(id="ft:between", project="default", owned_by="default", kind="fine_tuned", status="ready")
        between.spec, between.base_id, between.created_at = base.spec, "toy", base.created_at
        session.add(between)
        job.base_model = "ft:between"
    licence = facts(embedded, job_id).base.word.licence
    assert licence is not None and licence.spdx == "Apache-2.0"
