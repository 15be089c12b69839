"""Every page in a real browser, light and dark, wide and on a phone: accessible by axe, no wider than its window.

With PERMAFROST_TEST_SCREENSHOTS each is kept there as a picture, to be looked at.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from fastapi import FastAPI
from openai import OpenAI
from playwright.sync_api import Page

from app.db import Database, now
from app.evidence.tables import Evidence
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates, Outcome
from app.models.tables import Model
from tests.app.conftest import AFFINE
from tests.app.jobs.jobs import claim, new_job, parameter, result
from tests.app.pages.test_browser import tab, upload

pytestmark = pytest.mark.slow

#: The words of cells that are not below their table's heading for them.
MISPLACED = """() => [...document.querySelectorAll("table")].flatMap((table) => {
  const heads = [...table.querySelectorAll("thead th")].map((head) => head.getBoundingClientRect().left);
  return [...table.querySelectorAll("tbody tr")].flatMap((row) => [...row.cells].filter((cell, at) =>
    row.cells.length === heads.length && Math.abs(cell.getBoundingClientRect().left - heads[at]) > 1
  ).map((cell) => cell.innerText));
})"""

PAGES = {
    "dashboard": "/",
    "filtered": "/?status=succeeded&verdict=violated&q=job",
    "empty": "/?tag=none",
    "new-job": "/new?model=tiny&training_file={file}",
    "queued": "/jobs/{queued}",
    "verified": "/jobs/ftjob-verified",
    "violated": "/jobs/ftjob-violated?log=step",
    "failed": "/jobs/ftjob-failed",
    "curves": "/curves?job=ftjob-verified&job=ftjob-violated",
    "models": "/models",
    "model": "/models/{model}",
    "long names": "/models/{long}",
    "long names of a job": "/curves?job=ftjob-0123456789012345678901234567890123456789",
    "compare": "/compare?base=tiny&result=tiny2",
    "sweeps": "/sweeps",
    "sweep": "/sweeps/{sweep}",
    "no-such": "/jobs/none",
    "report": "/v1/fine_tuning/jobs/ftjob-verified/report",
}
PHONE = 640  # on a narrower window, tables are cards
#: Words of a table's cells that stand over others, as a label over what it labels, or stick out of their cell.
OVERLAPPING = """() => [...document.querySelectorAll("table.cards td")].filter((cell) => {
  const [a] = [...cell.children].map((each) => each.getBoundingClientRect()), box = cell.getBoundingClientRect();
  const label = getComputedStyle(cell, "::before").content !== "none" && cell.dataset.label;
  return a && a.width && (a.right > box.right + 1 || (label && a.left < box.left + 60));
}).map((cell) => `${cell.dataset.label}: ${cell.innerText}`)"""


@pytest.fixture
def ids(socket_url: str, embedded: FastAPI) -> dict[str, str]:
    """One of everything that a page shows."""
    db: Database = embedded.state.backends.database
    _base(db, "tiny", embedded)
    _base(db, "tiny2", embedded)
    verified = _ended(db, "ftjob-verified", "verified")
    _ended(db, "ftjob-violated", "violated")
    long = _ended(db, f"ftjob-{'0123456789' * 4}", "verified", suffix="s" * 64)
    error: dict[str, Any] = {"code": "invalid_training_data", "message": "2 problems", "errors": [{"line": 3}]}
    error["errors"] = [{"line": line, "field": "x", "code": "c", "message": "x is text"} for line in (3, 4)]
    lifecycle.submit(db, new_job(id="ftjob-failed"))
    lifecycle.finish(db, claim(db), Outcome("failed", error=error))
    with OpenAI(base_url=f"{socket_url}/v1", api_key="none") as sdk:
        file = upload(sdk)
        more = {"model": AFFINE, "freeze_policy": {"freeze": ["weight"]}, "tags": ["nightly"]}
        queued = sdk.fine_tuning.jobs.create(model="-", training_file=file, extra_body=more).id
        sweep = {"job": {"model": AFFINE, "training_file": file}, "grid": {"seed": [1, 2]}}
        made = sdk.post("/fine_tuning/sweeps", body=sweep, cast_to=object)
    assert isinstance(made, dict)
    return {"file": file, "queued": queued, "model": verified, "sweep": str(made["id"]), "long": long}


def _base(db: Database, name: str, application: FastAPI) -> None:
    layers = [f"body.layer.{layer}.{part}" for layer in range(4) for part in ("weight", "bias")]
    with application.state.backends.storage.writer() as writer:
        writer.write(name.encode() * 100)
    row = {"file": "model.safetensors", "dtype": "F32", "shape": [2, 4], "nbytes": 32, "blob": writer.blob.key}
    with db.write() as session:
        model = Model(id=name, owned_by="permafrost", kind="base", status="ready", created_at=now(session))
        model.spec, model.root = {"type": "transformers", "path": "tiny", "task": "causal-lm"}, "ef" * 32
        model.files = [{"name": "model.safetensors", "size": 10**6, "sha256": "ab" * 32, "blob": writer.blob.key}]
        model.tensors = [
            row | {"name": each, "offset": 32 * at, "sha256": f"{at}{name}"} for at, each in enumerate(layers)
        ]
        model.manifest = [
            {"name": each, "shape": [2, 4], "dtype": "F32", "module_types": ["Linear"]} for each in layers
        ]
        session.add(model)


def _ended(db: Database, job_id: str, verdict: str, *, suffix: str = "a") -> str:
    """A job with curves, a log, checkpoints and a freeze map; the id of the model that it leaves."""
    policy = {"default": "train", "rules": [{"id": "a", "action": "freeze", "select": {"name": ["body.**"]}}]}
    job = new_job(id=job_id, model="tiny", base_model="tiny", suffix=suffix, freeze_policy=policy, tags=["x"])
    lifecycle.submit(db, job)
    lease = claim(db)
    values = {"learning_rate": 0.1, "grad_norm": 1.0, "examples_per_second": 50.0}
    points = [(step, "train", {"loss": 1 / step, **values}) for step in range(1, 50)]
    progress = {"step": 49, "total_steps": 49, "epoch": 1.0, "percent": 100.0}
    lifecycle.beat(db, lease, AttemptUpdates(progress=progress, metrics=[*points, (49, "valid", {"loss": 0.5})]))
    evidence = Evidence(job_id=job_id, attempt=1, verdict=verdict, frozen_tensors=2, frozen_bytes=16)
    evidence.base_root, evidence.frozen_root, evidence.checks = "ab" * 32, "cd" * 32, {"count": 3}
    evidence.violations = [{"name": "body.0.w", "first_bad_step": 1}] if verdict == "violated" else []
    evidence.envelope, evidence.keyid = b'{"payload":"e30="}', "k"
    tensors = [parameter(job_id, 0, "body.0.w", "frozen", verdict == "violated")]
    tensors += [parameter(job_id, at, f"body.{at}.w", "trainable", True) for at in (1, 2)]
    for at, tensor in enumerate(tensors[1:], start=1):
        tensor.stats = {"relative_l2": 0.01 * at}
        tensor.history = [{"step": step, "relative_l2": 0.001 * at * step} for step in (10, 20, 40)]
    tensors.append(parameter(job_id, 3, "head.w", "new", False))
    tensors[-1].changed = None
    model = result(job_id)
    model.base_id, model.spec = "tiny", {"type": "transformers", "path": "tiny", "task": "causal-lm"}
    lifecycle.finish(db, lease, Outcome("succeeded", evidence=evidence, parameters=tensors, model=model))
    return model.id


@pytest.fixture
def page(socket_url: str) -> Iterator[Page]:
    with tab(socket_url, expected="404") as opened:
        yield opened


@pytest.mark.parametrize(
    ("scheme", "width", "height"), [("light", 1280, 900), ("dark", 1280, 900), ("light", 390, 844), ("dark", 390, 844)]
)
def test_every_page(page: Page, ids: dict[str, str], scheme: Any, width: int, height: int) -> None:
    """axe has nothing to say of it, nothing sticks out to the right, and nothing comes from elsewhere."""
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": height})
    folder = os.environ.get("PERMAFROST_TEST_SCREENSHOTS")
    found: list[str] = []
    for name, path in PAGES.items():
        page.goto(path.format(**ids))
        if name == "new-job":
            page.locator("#preview section").first.wait_for()
        for violation in Axe().run(page).response["violations"]:
            targets = [node["target"] for node in violation["nodes"]][:3]
            found.append(f"{name}: {violation['id']}: {violation['help']} at {targets}")
        if page.evaluate("document.documentElement.scrollWidth") > width:
            found.append(f"{name}: wider than its window")
        if width > PHONE and (cells := page.evaluate(MISPLACED)):
            found.append(f"{name}: not below their headings: {cells[:3]}")
        if width < PHONE and (cells := page.evaluate(OVERLAPPING)):
            found.append(f"{name}: over each other: {cells[:3]}")
        if folder:
            page.screenshot(path=Path(folder) / f"{name}-{scheme}-{width}.png", full_page=True)
    assert found == []
