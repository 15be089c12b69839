"""`permafrost import openai`: an export of files and jobs, taken along."""

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from tests.app.cli.commands import Command

CHAT = {"messages": [{"role": "user", "content": "2 and 2"}, {"role": "assistant", "content": "4"}]}


def exported(folder: Path, **changes: Any) -> None:
    """A page of jobs, a list of files, and the files."""
    job = {
        "object": "fine_tuning.job",
        "id": "ftjob-old",
        "created_at": 5,
        "model": "gpt-4.1-mini-2025-04-14",
        "training_file": "file-old",
        "validation_file": None,
        "suffix": "support",
        "seed": 42,
        "status": "succeeded",
        "hyperparameters": {"n_epochs": 2, "batch_size": 1, "learning_rate_multiplier": 2.0},
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 1}}},
        "integrations": [],
        "metadata": None,
    } | changes
    reinforced = job | {"id": "ftjob-rl", "created_at": 6, "method": {"type": "reinforcement"}}
    lost = job | {"id": "ftjob-lost", "created_at": 7, "training_file": "file-gone"}
    folder.mkdir()
    (folder / "jobs.json").write_text(json.dumps({"object": "list", "data": [reinforced, lost, job]}))
    file = {"object": "file", "id": "file-old", "filename": "chats.jsonl", "purpose": "fine-tune"}
    (folder / "files.json").write_text(json.dumps([file]))
    (folder / "chats.jsonl").write_text("\n".join([json.dumps(CHAT)] * 4))


def model(embedded: FastAPI) -> None:
    folder = embedded.state.backends.settings.models / "smollm"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))


def test_an_export_is_taken_along(permafrost: Command, socket_url: str, embedded: FastAPI, tmp_path: Path) -> None:
    """What can be mapped is submitted on the local model; the rest is named, with exit code 1."""
    model(embedded)
    exported(tmp_path / "export")
    arguments = ("import", "openai", str(tmp_path / "export"), "--models", "gpt-4.1-mini*=smollm")
    looked = permafrost(*arguments, "--dry-run", PERMAFROST_SERVER="http://127.0.0.1:1")
    request = json.loads(looked.stdout)
    assert (request["model"], request["training_file"]) == ("smollm", str(tmp_path / "export" / "chats.jsonl"))
    assert "hyperparameters" not in request and request["method"]["type"] == "supervised"
    assert looked.returncode == 1
    assert "ftjob-rl: left out: the method 'reinforcement'" in looked.stderr
    assert "ftjob-lost: left out: its training_file file-gone" in looked.stderr

    done = permafrost(*arguments, "--submit", "--json", PERMAFROST_SERVER=socket_url)
    (job,) = json.loads(done.stdout)
    assert (job["model"], job["suffix"], job["seed"]) == ("smollm", "support", 42)
    assert job["hyperparameters"]["n_epochs"] == 2
    assert job["status"] == "queued"


def test_without_a_mapping_the_service_decides(permafrost: Command, socket_url: str, tmp_path: Path) -> None:
    """The request is printed for a look; its submission is refused by the model's name."""
    exported(tmp_path / "export")
    printed = permafrost("import", "openai", str(tmp_path / "export"), PERMAFROST_SERVER=socket_url)
    assert json.loads(printed.stdout)["training_file"].startswith("file-")
    refused = permafrost("import", "openai", str(tmp_path / "export"), "--submit", PERMAFROST_SERVER=socket_url)
    assert "gpt-4.1-mini-2025-04-14" in refused.stderr
    assert "permafrost models list" in refused.stderr


def test_a_job_as_openai_and_its_sdk_write_it(
    permafrost: Command, socket_url: str, embedded: FastAPI, tmp_path: Path
) -> None:
    """Null options of other methods are left out, and the suffix has OpenAI's name for it."""
    model(embedded)
    options = {"hyperparameters": {"n_epochs": 2, "batch_size": 1, "learning_rate_multiplier": 1.8}}
    method = {"type": "supervised", "dpo": None, "reinforcement": None, "supervised": options}
    exported(tmp_path / "export", method=method, suffix=None, user_provided_suffix="support")
    arguments = ("import", "openai", str(tmp_path / "export"), "--models", "gpt-4.1-mini*=smollm", "--submit", "--json")
    (job,) = json.loads(permafrost(*arguments, PERMAFROST_SERVER=socket_url).stdout)
    assert (job["suffix"], job["hyperparameters"]["n_epochs"]) == ("support", 2)


def test_a_job_that_the_service_refuses_is_left_out(
    permafrost: Command, socket_url: str, embedded: FastAPI, tmp_path: Path
) -> None:
    """And the others are submitted all the same."""
    model(embedded)
    exported(tmp_path / "export")
    jobs = json.loads((tmp_path / "export" / "jobs.json").read_text())["data"]
    refused = jobs[-1] | {"id": "ftjob-refused", "created_at": 1, "suffix": "x" * 100}
    (tmp_path / "export" / "jobs.json").write_text(json.dumps([refused, jobs[-1]]))
    arguments = ("import", "openai", str(tmp_path / "export"), "--models", "gpt-4.1-mini*=smollm", "--submit")
    done = permafrost(*arguments, PERMAFROST_SERVER=socket_url)
    assert done.returncode == 1
    assert "ftjob-refused: left out: suffix: string should have at most 64 characters" in done.stderr
    assert len(done.stdout.split()) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": None}, "it has no model"),
        ({"model": ["gpt-4.1-mini"]}, "its model is"),
        ({"training_file": None}, "it has no training_file"),
        ({"training_file": "*"}, "its training_file * is not in"),
        ({"training_file": "/etc/hostname"}, "its training_file /etc/hostname is not in"),
        ({"training_file": "../file-old"}, "its training_file ../file-old is not in"),
        ({"method": "supervised"}, "its method is"),
    ],
)
def test_what_is_no_job_of_openai_is_left_out(
    permafrost: Command, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    """By name and with the reason; files are taken from the folder alone."""
    exported(tmp_path / "export", created_at="yesterday", **changes)
    (tmp_path / "file-old.jsonl").write_text("outside of the folder")
    done = permafrost("import", "openai", str(tmp_path / "export"), "--dry-run")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"ftjob-old: left out: {reason}" in done.stderr


def test_a_folder_without_jobs_says_so(permafrost: Command, tmp_path: Path) -> None:
    """And what it looked for."""
    (tmp_path / "empty").mkdir()
    done = permafrost("import", "openai", str(tmp_path / "empty"))
    assert done.returncode == 1 and "fine_tuning.job" in done.stderr
