"""Other names of models: what a request under such a name gets, and what the operator hears of a wrong one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from starlette.testclient import TestClient

from app.main import create_app
from app.models.aliases import aliased
from app.ops.doctor.installation import checks
from app.settings import Settings
from migrations.tables import tables
from tests.app.conftest import serve, upload_to
from tests.app.models.models import add_model

CHATS = [{"messages": [{"role": "user", "content": "2 and 2"}, {"role": "assistant", "content": "4"}]}] * 4
DATED = "gpt-4.1-mini-2025-04-14"


@pytest.fixture
def application(tmp_path: Path) -> Any:
    made = create_app(
        Settings(
            data_dir=tmp_path / "data",
            models_dir=tmp_path / "models",
            model_aliases="gpt-4.1-mini*=smollm, gpt-4.1*=missing, gpt-x=owner/name@v1",
        )
    )
    tables().create_all(made.state.backends.database.engine)
    folder = tmp_path / "models" / "smollm"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    return made


@pytest.fixture
def client(application: Any) -> Iterator[TestClient]:
    with TestClient(application, base_url="http://testserver/v1/") as made:
        yield made


@pytest.mark.parametrize(
    ("text", "name", "model"),
    [
        ("gpt-4.1-mini*=a,gpt-*=b", DATED, "a"),
        ("gpt-*=b,gpt-4.1-mini*=a", DATED, "b"),
        ('{"gpt-4o": "a", "*": "b"}', "gpt-4o", "a"),
        ('{"gpt-4o": "a", "*": "b"}', "anything", "b"),
        ("gpt-4?=a", "gpt-4o", None),
        ("gpt-4=a", "gpt-4o", None),
        ("a.b=c", "axb", None),
        ("", "gpt-4o", None),
    ],
)
def test_the_first_pattern_that_fits_decides(text: str, name: str, model: str | None) -> None:
    """Of the whole name; only `*` is special."""
    assert aliased(Settings(model_aliases=text), name) == model


@pytest.mark.parametrize("text", ["gpt", "=a", "a=", '{"a": 1}', '{"a"', "[]", "a=x,a=y", '{"a": "x", "a": "y"}'])
def test_what_is_no_pair_is_refused_at_the_start(text: str) -> None:
    """By the variable's name, before anything is served."""
    with pytest.raises(ValueError, match="model_aliases"):
        Settings(model_aliases=text)


def test_a_job_under_an_alias_trains_the_local_model(application: Any) -> None:
    """Through the SDK: the name as it was asked for, and beside it the model that is trained."""
    with serve(application) as url, OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as sdk:
        content = "\n".join(map(json.dumps, CHATS)).encode()
        file = sdk.files.create(file=("chats.jsonl", content), purpose="fine-tune")
        job = sdk.fine_tuning.jobs.create(model=DATED, training_file=file.id)
        for found in (job, sdk.fine_tuning.jobs.retrieve(job.id)):
            extra = found.model_extra or {}
            assert (found.model, extra["resolved_model"], extra["model_spec"]["path"]) == (DATED, "smollm", "smollm")
        assert [each.id for each in sdk.fine_tuning.jobs.list(extra_query={"model": DATED})] == [job.id]
        assert [each.id for each in sdk.fine_tuning.jobs.list(extra_query={"model": "smollm"})] == [job.id]
        model = sdk.models.retrieve(DATED)
        assert (model.id, (model.model_extra or {})["alias_of"]) == (DATED, "smollm")
        assert [each.id for each in sdk.models.list()] == ["smollm"]


def test_a_dry_run_and_a_page_say_what_the_name_stands_for(client: TestClient) -> None:
    """Nobody has to look into the configuration."""
    file = upload_to(client)(CHATS)
    body = {"model": DATED, "training_file": file}
    looked = client.post("fine_tuning/jobs", json=body | {"dry_run": True}).json()
    assert (looked["model"], looked["resolved_model"]) == (DATED, "smollm")
    job = client.post("fine_tuning/jobs", json=body).json()["id"]
    assert "which stands for <b>smollm</b> here" in client.get(f"http://testserver/jobs/{job}").text


def test_an_alias_of_a_missing_model_says_so(client: TestClient) -> None:
    """With the variable; a hub's model is taken without a look, as by its own name."""
    file = upload_to(client)(CHATS)
    refused = client.post("fine_tuning/jobs", json={"model": "gpt-4.1", "training_file": file})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (400, "model_not_found", "model")
    assert "'missing'" in error["message"] and "PERMAFROST_MODEL_ALIASES" in error["message"]
    job = client.post("fine_tuning/jobs", json={"model": "gpt-x", "training_file": file}).json()
    assert (job["model"], job["resolved_model"], job["model_spec"]["revision"]) == ("gpt-x", "owner/name", "v1")
    assert client.get("models/gpt-4.1").status_code == client.get("models/gpt-9").status_code == 404


def test_a_model_of_that_name_comes_first(application: Any, client: TestClient, tmp_path: Path) -> None:
    """An alias hides no model."""
    add_model(application.state.backends, tmp_path, DATED)
    assert client.get(f"models/{DATED}").json()["alias_of"] is None


def test_the_doctor_finds_aliases_of_missing_models(application: Any) -> None:
    """A problem, by pattern and model."""
    settings = application.state.backends.settings
    found = {check.name: check for check in checks(settings)}["model aliases"]
    assert found.level == "problem"
    assert "gpt-4.1*=missing" in found.detail
    right = settings.model_copy(update={"model_aliases": "gpt-4.1-mini*=smollm,gpt-x=owner/name"})
    right = Settings(**right.model_dump())
    assert {check.name: check.level for check in checks(right)}["model aliases"] == "ok"
