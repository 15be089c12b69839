"""`permafrost bom` and `pack` against a running service, and the packed folder under `permafrost verify`."""

import json
from pathlib import Path

from fastapi import FastAPI

from app.evidence.format.keys import TrustedKey, write_ring
from app.evidence.verifier.verify import main as verify
from app.jobs.queue import lifecycle
from tests.app.cli.commands import Command
from tests.app.jobs.jobs import new_job
from tests.app.papers.attested import attested
from tests.tamper.kit import KEY, World


def test_a_packed_job_is_verified_as_it_is(
    permafrost: Command, socket_url: str, embedded: FastAPI, tmp_path: Path
) -> None:
    """Attestation, keys, both bills of materials, report and result, at level 3 with the base."""
    backends = embedded.state.backends
    backends.settings.signing_key_path.parent.mkdir(exist_ok=True)
    write_ring(backends.settings.signing_key_path, [TrustedKey(KEY.public_pem)])
    world = World(tmp_path / "world")
    job = attested(backends, world)
    folder = tmp_path / "filed" / "case"
    packed = permafrost("pack", job, "--output", str(folder), "--json", PERMAFROST_SERVER=socket_url)
    assert packed.returncode == 0, packed.stderr
    assert json.loads(packed.stdout)["files"] == [
        "README.md",
        "attestation.json",
        "bom.cdx.json",
        "bom.spdx.json",
        "keys.json",
        "report.html",
        "result/config.json",
        "result/model.safetensors",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["case"]
    assert verify([str(folder), "--base", str(world.base), "--require-recipe", "--level", "3"]) == 0
    assert f"# {job}" in (folder / "README.md").read_text("utf-8")

    again = permafrost("pack", job, "--output", str(folder), PERMAFROST_SERVER=socket_url)
    assert again.returncode == 1 and "--output DIR" in again.stderr

    shown = permafrost("bom", job, "--format", "spdx", PERMAFROST_SERVER=socket_url)
    assert shown.stdout.encode() == (folder / "bom.spdx.json").read_bytes()


def test_what_cannot_be_packed_leaves_nothing(
    permafrost: Command, socket_url: str, embedded: FastAPI, tmp_path: Path
) -> None:
    """A job that has not ended, and one that is not there, each named."""
    lifecycle.submit(embedded.state.backends.database, new_job(id="ftjob-waits"))
    for job, reason in (("ftjob-waits", "it is queued"), ("ftjob-none", "permafrost jobs")):
        refused = permafrost("pack", job, "-o", str(tmp_path / "x" / job), PERMAFROST_SERVER=socket_url)
        assert refused.returncode == 1 and reason in refused.stderr
    assert list((tmp_path / "x").iterdir()) == []
    wrong = permafrost("bom", "ftjob-waits", "--format", "word", PERMAFROST_SERVER=socket_url)
    assert wrong.returncode == 2 and "cyclonedx" in wrong.stderr
