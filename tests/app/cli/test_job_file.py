"""Jobs in files, as `permafrost submit -f` takes them."""

import json
from pathlib import Path

import pytest
import typer

from app.cli.job_file import local_file, read_job
from tests.app.cli.commands import Command
from tests.app.conftest import AFFINE, rows

JOB = """
model: {type: torch, architecture: affine, kwargs: {in_features: 2, out_features: 1}}
training_file: train.jsonl
freeze_policy: {freeze: [weight]}
hyperparameters: {n_epochs: 2}
metadata: {team: "a"}
seed: 7
"""


@pytest.mark.usefixtures("embedded")
def test_a_job_file_is_submitted(permafrost: Command, socket_url: str, tmp_path: Path) -> None:
    """YAML and JSON, named with -f or in place of the training file; options come before its fields."""
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows())))
    (tmp_path / "job.yaml").write_text(JOB)
    content = {"model": AFFINE, "training_file": str(tmp_path / "train.jsonl"), "seed": 7}
    (tmp_path / "job.json").write_text(json.dumps(content))
    for arguments in (("-f", str(tmp_path / "job.yaml")), (str(tmp_path / "job.json"),)):
        done = permafrost("submit", *arguments, "--suffix", "x", "--json", PERMAFROST_SERVER=socket_url)
        assert done.returncode == 0, done.stderr
        job = json.loads(done.stdout)
        assert (job["seed"], job["suffix"], job["model"]) == (7, "x", "affine")
    used = permafrost("submit", str(tmp_path / "job.yaml"), "--seed", "8", "--json", PERMAFROST_SERVER=socket_url)
    job = json.loads(used.stdout)
    assert (job["seed"], job["metadata"], job["freeze_plan"]["frozen"]["tensors"]) == (8, {"team": "a"}, 1)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.yaml", "model: [", "line 1"),
        ("a.yaml", "- model", "fields of a job"),
        ("a.yaml", "metadata: {since: 2026-11-29}", "JSON values"),
        ("a.json", "{", "JSON values"),
        ("a.json", '{"seed": NaN}', "JSON values"),
        ("a.yaml", "1: 2", "fields of a job"),
        ("a.yaml", "[" * 20_000, "nested too deeply"),
        ("a.json", '{"freeze_policy": {"freeze": ["a"], "freeze": ["b"]}}', "'freeze_policy.freeze' is given twice"),
        ("a.yaml", "freeze_policy:\n  freeze: [a]\n  'freeze': [b]", "line 3.*'freeze' is given twice"),
        ("a.yaml", "x: [{a: 1, a: 2}]", "'a' is given twice"),
    ],
)
def test_what_is_no_job_is_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    """With the file's name and, where it is known, the line."""
    (tmp_path / name).write_text(text)
    with pytest.raises(typer.BadParameter, match=words):
        read_job(tmp_path / name)


def test_a_path_is_beside_the_job_file(tmp_path: Path) -> None:
    """An id of an uploaded file is none; a path to nothing is refused."""
    (tmp_path / "a.jsonl").write_text("{}")
    assert local_file("a.jsonl", tmp_path) == tmp_path / "a.jsonl"
    assert local_file("file-1", tmp_path) is None
    assert local_file("hf://acme/data?split=train", tmp_path) is None
    with pytest.raises(typer.BadParameter, match="neither a file, nor an id"):
        local_file("b.jsonl", tmp_path)


def test_what_is_missing_is_named(permafrost: Command) -> None:
    """Exit code 2, before the service is asked."""
    done = permafrost("submit", "--model", "tiny")
    assert done.returncode == 2
    assert "training file" in done.stderr


def test_keys_of_another_mapping_may_be_overridden(tmp_path: Path) -> None:
    """That is what `<<` is for."""
    (tmp_path / "a.yaml").write_text("a: &a {n_epochs: 1, seed: 2}\nb:\n  <<: *a\n  seed: 3\n")
    assert read_job(tmp_path / "a.yaml")["b"] == {"n_epochs": 1, "seed": 3}
