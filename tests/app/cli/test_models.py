"""`permafrost models`: lists and deletes over HTTP, pulls from a hub into the models folder."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from app.models.tables import Model
from tests.app.cli.commands import Command
from tests.app.models.models import add_model, add_result
from tests.hub import COMMIT, Hub, serving


@pytest.fixture
def hub() -> Iterator[Hub]:
    files = {"config.json": b"{}", "model.safetensors": b"weights", "onnx/model.onnx": b"x", "run.py": b"x"}
    with serving(Hub("owner/tiny", files)) as made:
        yield made


def test_models_are_listed_and_deleted(permafrost: Command, socket_url: str, embedded: FastAPI, tmp_path: Path) -> None:
    """By kind; one that another needs is refused by name."""
    backends = embedded.state.backends
    assert "permafrost models pull" in permafrost("models", "list", PERMAFROST_SERVER=socket_url).stderr
    base = add_model(backends, tmp_path / "m")
    made = add_result(backends, tmp_path / "m", base)
    lines = permafrost("models", "list", PERMAFROST_SERVER=socket_url).stdout.splitlines()
    assert lines[0].split() == ["MODEL", "KIND", "STATUS", "BASE", "SIZE", "AGE"]
    assert [line.split()[0] for line in lines[1:]] == [made.id, "tiny"]
    only = permafrost("models", "list", "--kind", "base", "--json", PERMAFROST_SERVER=socket_url).stdout
    assert [model["id"] for model in json.loads(only)] == ["tiny"]
    refused = permafrost("models", "rm", "tiny", PERMAFROST_SERVER=socket_url)
    assert refused.returncode == 1 and made.id in refused.stderr
    gone = permafrost("models", "rm", made.id, "tiny", PERMAFROST_SERVER=socket_url).stdout
    assert gone.splitlines() == [f"{made.id} deleted", "tiny deleted"]


def test_files_of_folders_inside_are_downloaded(
    permafrost: Command, socket_url: str, embedded: FastAPI, tmp_path: Path
) -> None:
    """Those of modules and of chat templates are in folders of their own."""
    backends = embedded.state.backends
    base = add_model(backends, tmp_path / "m")
    name = "additional_chat_templates/rag.jinja"
    with backends.database.write() as session:
        row = session.get_one(Model, base.id)
        row.files = [*row.files, {**row.files[0], "name": name}]
    done = permafrost("models", "get", base.id, str(tmp_path / "got"), "--json", PERMAFROST_SERVER=socket_url)
    assert done.returncode == 0, done.stderr
    assert name in json.loads(done.stdout)["files"]
    assert (tmp_path / "got" / name).read_bytes() == (tmp_path / "got" / "model.safetensors").read_bytes()


def test_a_model_is_pulled_from_a_hub(permafrost: Command, hub: Hub, tmp_path: Path) -> None:
    """Into a folder that is there whole or not at all; weights and configurations, no code, and no token is sent."""
    where = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_secret", "HF_HOME": str(tmp_path / "hf")}
    models = tmp_path / "data" / "models"
    done = permafrost("models", "pull", "owner/tiny", **where)
    assert (done.returncode, done.stdout) == (0, "tiny\n"), done.stderr
    assert COMMIT in done.stderr
    assert {path.name for path in (models / "tiny").iterdir()} == {"config.json", "model.safetensors"}
    assert (models / "tiny" / "model.safetensors").read_bytes() == b"weights"
    assert set(hub.tokens) <= {None}

    again = permafrost("models", "pull", "owner/tiny", **where)
    assert again.returncode == 1 and "--name" in again.stderr
    named = permafrost("models", "pull", f"owner/tiny@{COMMIT}", "--name", "other", "--json", **where)
    assert json.loads(named.stdout)["commit"] == COMMIT
    missing = permafrost("models", "pull", "owner/none", **where)
    assert missing.returncode == 1 and "owner/none" in missing.stderr
    assert {path.name for path in models.iterdir()} == {"tiny", "other"}


@pytest.mark.parametrize("arguments", [("tiny",), ("owner/../x",), ("owner/tiny", "--name", "../x")])
def test_what_is_no_name_is_refused(permafrost: Command, arguments: tuple[str, ...]) -> None:
    """Before anything is asked of a hub."""
    assert permafrost("models", "pull", *arguments).returncode == 2
