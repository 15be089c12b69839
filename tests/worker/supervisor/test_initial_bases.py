"""Bases that were drawn from a seed, for the next job with the same one."""

from pathlib import Path
from typing import Any

import pytest

from app.jobs.queue.tables import Job
from tests.conftest import Deployment
from tests.worker.supervisor.jobs import job_of, submit
from worker.supervisor import bases, initial_bases
from worker.supervisor.initial_bases import InitialBases
from worker.supervisor.runner import Runner

AFFINE = {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 10, "out_features": 1}}


def drawn(folder: Path, content: bytes = b"weights") -> Path:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(content)
    return folder


def job(project: str = "default", seed: int = 7, features: int = 10) -> Job:
    spec = AFFINE | {"kwargs": {"in_features": features, "out_features": 1}}
    return Job(project=project, model_spec=spec, seed=seed)


def test_the_same_request_gets_the_same_file(tmp_path: Path) -> None:
    kept = InitialBases()
    assert not kept.write(job(), tmp_path / "before")
    kept.keep(job(), drawn(tmp_path / "drawn"))
    assert kept.write(job(), tmp_path / "base")
    assert (tmp_path / "base" / "model.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize("other", [job(project="another"), job(seed=8), job(features=11)])
def test_another_project_seed_or_model_does_not(tmp_path: Path, other: Job) -> None:
    kept = InitialBases()
    kept.keep(job(), drawn(tmp_path / "drawn"))
    assert not kept.write(other, tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_large_files_are_drawn_again(tmp_path: Path) -> None:
    kept = InitialBases()
    kept.keep(job(), drawn(tmp_path / "drawn", bytes(initial_bases.MAX_FILE_BYTES + 1)))
    assert not kept.write(job(), tmp_path / "base")


def test_the_oldest_give_way(tmp_path: Path) -> None:
    """The file that was used last stays; memory is bounded."""
    kept = InitialBases()
    folder = drawn(tmp_path / "drawn", bytes(initial_bases.MAX_FILE_BYTES))
    most = initial_bases.MAX_BYTES // initial_bases.MAX_FILE_BYTES
    for seed in range(most):
        kept.keep(job(seed=seed), folder)
    assert kept.write(job(seed=0), tmp_path / "base")
    kept.keep(job(seed=most), folder)
    assert kept.write(job(seed=0), tmp_path / "base")
    assert not kept.write(job(seed=1), tmp_path / "base")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A trainer wrote the folder, and this process may read more than it."""
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "model.safetensors").symlink_to(tmp_path / "secret")
    kept = InitialBases()
    kept.keep(job(), tmp_path / "drawn")
    assert not kept.write(job(), tmp_path / "base")


def test_a_second_job_has_the_same_base_without_a_process(
    deployment: Deployment, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    start = runner.forkserver.start

    def counted(*arguments: Any, **options: Any) -> Any:
        started.append(arguments)
        return start(*arguments, **options)

    monkeypatch.setattr(runner.forkserver, "start", counted)
    ids = [submit(deployment) for _ in range(2)]
    counts = []
    for _ in ids:
        runner.run_next()
        counts.append(len(started))
    assert counts == [2, 3]
    jobs = [job_of(deployment.db, each) for each in ids]
    assert [each.status for each in jobs] == ["succeeded", "succeeded"]
    roots = {_root(deployment, each) for each in jobs}
    assert len(roots) == 1 and None not in roots


def _root(deployment: Deployment, job: Job) -> str | None:
    assert job.base_model is not None
    model = bases.find(deployment.db, job.base_model)
    return model.root if model else None
