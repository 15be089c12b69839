"""The form that submits a job, as a browser without scripts uses it."""

import json
import re
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.db import now
from app.jsontypes import JsonDict
from app.models.tables import Model
from tests.app.conftest import AFFINE, Upload, rows
from tests.app.pages.test_routes import Page

URL = "http://testserver/new"


@pytest.fixture
def file(client: TestClient, upload: Upload) -> str:
    return upload(rows())


def fill(client: TestClient, **fields: str) -> Any:
    form = {"do": "preview", "model": json.dumps(AFFINE)} | fields
    return client.post(URL, data=form, headers={"accept": "text/html"}, follow_redirects=False)


def test_a_job_is_previewed_and_submitted(client: TestClient, file: str) -> None:
    """The plan with its tensors, an estimate, and what freezing saves; then the job, with all that was filled in."""
    fields = {"training_file": file, "preset": "head", "n_epochs": "2", "tags": "a, b", "suffix": "x", "seed": "7"}
    answer = fill(client, **fields)
    text = re.sub(r"\s+", " ", Page(answer.text).text)
    for words in ("1 tensor frozen", "1 tensor trained", "tabular-regression", "8 examples, 2 epochs", "less than"):
        assert words in text
    assert 'class="map"' in answer.text
    assert '"select"' in answer.text  # the policy as JSON
    assert client.get("fine_tuning/jobs").json()["data"] == []

    made = fill(client, **fields, do="submit", once="abc")
    assert made.status_code == 303
    job = client.get(f"http://testserver/v1/fine_tuning{made.headers['location']}").json()
    assert job["freeze_plan"]["frozen"]["tensors"] == 1
    assert (job["tags"], job["seed"], job["hyperparameters"]["n_epochs"]) == (["a", "b"], 7, 2)
    again = fill(client, **fields, do="submit", once="abc")
    assert again.headers["location"] == made.headers["location"]


def test_a_file_that_is_named_among_other_fields(client: TestClient, file: str) -> None:
    """A reference has no field of its own: the policy is previewed and submitted with it all the same."""
    fields = {"preset": "json", "policy": '{"freeze": ["weight"]}', "more": json.dumps({"training_file": file})}
    assert "8 examples" in Page(fill(client, **fields).text).text
    made = fill(client, **fields, do="submit")
    job = client.get(f"http://testserver/v1/fine_tuning{made.headers['location']}").json()
    assert job["freeze_plan"]["frozen"]["tensors"] == 1


def test_without_a_file_the_plan_alone_is_shown(client: TestClient) -> None:
    """With the memory that it saves."""
    text = Page(fill(client, preset="json", policy='{"freeze": ["bias"]}').text).text
    assert "1 tensor frozen" in text and "of gradients and optimizer state" in text


def test_problems_are_named_line_by_line(client: TestClient, upload: Upload) -> None:
    """As a refused submission has them; the form keeps what was filled in, and a preview is no error."""
    bad = upload(b'{"x": [1, 2], "y": 1}\n{"x": [1, "a"], "y": 1}\nnope\n')
    answer = fill(client, training_file=bad, suffix="kept")
    assert answer.status_code == 200
    text = re.sub(r"\s+", " ", Page(answer.text).text)
    assert "would be refused" in text and "line 2, x" in text and "line 3" in text
    assert 'value="kept"' in answer.text
    assert fill(client, training_file=bad, do="submit").status_code == 400


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"model": ""}, "model", "choose a model"),
        ({"model": "none"}, "model", "no model is named"),
        ({"model": '{"type": '}, "model", "not JSON in line 1, column"),
        ({"preset": "json", "policy": '{"freeze": ["wieght"]}'}, "freeze_policy", "weight"),
        ({"preset": "json", "policy": "[]"}, "policy", "must be a JSON object"),
        ({"preset": "json", "policy": " "}, "policy", "write the policy"),
        ({"more": '{"hyperparameters": "often"}'}, "hyperparameters", "often"),
        ({"preset": "layers", "layers": "many"}, "layers", "no whole number"),
        ({"preset": "nothing"}, "preset", "no preset"),
        ({"n_epochs": "often"}, "hyperparameters.n_epochs", "often"),
        ({"seed": "1.5"}, "seed", "no whole number"),
        ({"more": '{"prioritty": 1}'}, "prioritty", "priority"),
        ({"more": '{"a": 1, "a": 2}'}, "more", "twice"),
        ({"suffix": "a/b"}, "suffix", "letters"),
        ({"training_file": "file-none"}, "training_file", "no file"),
        ({"training_file": ""}, "training_file", "upload a training file"),
    ],
)
def test_a_wrong_field_is_named(client: TestClient, file: str, fields: dict[str, str], param: str, words: str) -> None:
    """Never an error of the server, and nothing is stored."""
    answer = fill(client, **({"training_file": file, "do": "submit"} | fields))
    assert answer.status_code in (400, 404), answer.text
    told = re.sub(r"\s+", " ", Page(answer.text).text.partition("would be refused")[2])
    assert param in told and words in told
    assert client.get("fine_tuning/jobs").json()["data"] == []


def test_a_file_is_uploaded_without_a_script(client: TestClient) -> None:
    """And is chosen in the form that comes back; a wrong one is an error page."""
    content = "\n".join(map(json.dumps, rows())).encode()
    form: dict[str, Any] = {"data": {"purpose": "fine-tune"}, "files": {"file": ("t.jsonl", content)}}
    answer = client.post(f"{URL}/file", **form)
    assert answer.status_code == 200
    assert re.search(r'<option value="file-\w+" selected>t\.jsonl', answer.text)
    empty: dict[str, Any] = {"data": {"purpose": "fine-tune"}, "files": {"file": ("t.jsonl", b"")}}
    refused = client.post(f"{URL}/file", **empty, headers={"accept": "text/html"})
    assert refused.status_code == 400 and "is empty" in Page(refused.text).text


def test_a_folder_that_nobody_has_read_can_be_read(client: TestClient, embedded: FastAPI, upload: Upload) -> None:
    """A preset needs the model's tensors: the form says how a worker comes to read them."""
    folder = embedded.state.backends.settings.models / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"architectures": ["BertForSequenceClassification"]}')
    page = client.get(URL)
    assert '<option value="tiny">' in page.text
    texts = upload([{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(4)])
    answer = fill(client, model="tiny", preset="head", training_file=texts)
    assert "not known yet" in Page(answer.text).text
    assert "Have a worker read it" in answer.text
    client.post(f"{URL}/model", data={"model": "tiny"})
    assert client.get("models/tiny").json()["status"] == "pending"
    assert client.post(f"{URL}/model", data={"model": "none"}).status_code == 400


def test_a_model_of_several_tasks_is_planned(client: TestClient, known: None) -> None:
    """By the task that is chosen, else by one of those that it is known for."""
    assert "1 tensor frozen" in fill(client, model="bert", preset="head", task="text-classification").text
    assert "has no embeddings" in fill(client, model="bert", preset="embeddings", task="causal-lm").text


def test_a_preset_is_made_for_the_task_of_the_file(client: TestClient, known: None, upload: Upload) -> None:
    """A folder's own class has other names, and no head, or another than the class for the task of the file."""
    assert "depends on the task" in fill(client, model="bert", preset="head").text
    texts = upload([{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(4)])
    fields = {"model": "bert", "preset": "head", "training_file": texts}
    assert "1 tensor frozen" in fill(client, **fields).text
    made = fill(client, **fields, do="submit")
    assert made.status_code == 303, Page(made.text).text
    job = client.get(f"http://testserver/v1/fine_tuning{made.headers['location']}").json()
    assert (job["task"], job["freeze_policy"]["rules"][0]["select"]) == ("text-classification", {"name": ["bert.**"]})


@pytest.mark.parametrize("with_file", [False, True], ids=["plan alone", "with a file"])
def test_an_adapter_is_previewed(client: TestClient, known: None, upload: Upload, with_file: bool) -> None:
    """Its own tensors train over a frozen base, and a dry run estimates what that saves."""
    fields = {"model": "bert", "adapter": "lora", "rank": "2", "task": "text-classification"}
    if with_file:
        fields["training_file"] = upload([{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(4)])
    text = re.sub(r"\s+", " ", Page(fill(client, **fields).text).text)
    assert "1 tensor frozen" in text and "3 tensors trained" in text
    assert ("less than the" in text) == with_file
    for wrong, words in (({"preset": "layers"}, "below an adapter"), ({"preset": "json", "policy": OWN}, "bert.**")):
        told = Page(fill(client, **fields, **wrong).text).text
        assert "would be refused" in told and words in told


OWN = '{"freeze": ["bert.**"]}'


@pytest.fixture
def known(embedded: FastAPI) -> None:
    """A base that was read for two tasks, and as its own class, which has other names."""
    with embedded.state.backends.database.write() as session:
        row = Model(id="bert", owned_by="permafrost", kind="base", status="ready", created_at=now(session))
        row.spec, row.files, row.tensors = {"type": "transformers", "path": "bert"}, [], []
        body = tensor("bert.layer.0.query.weight", "BertForSequenceClassification")
        head = tensor("classifier.weight", "BertForSequenceClassification") | {"initialised": True}
        own = [tensor("body.query.weight", "BertModel"), tensor("pooler.weight", "BertModel")]
        row.manifest = {"text-classification": [body, head], "causal-lm": [body], "": own}
        session.add(row)


def tensor(name: str, root: str) -> JsonDict:
    return {"name": name, "shape": [4, 4], "dtype": "F32", "module_types": [root, "Linear"]}
