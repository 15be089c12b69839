"""Files as people send them by mistake, or to do harm: each is refused in words that name the place."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import Service
from tests.end_to_end.test_tasks import EMBEDDED, models, picture  # noqa: F401 - models is a fixture

ENCODER = {"type": "transformers", "path": "encoder"}
DECODER = {"type": "transformers", "path": "decoder"}
CONVNET = {
    "type": "torch",
    "architecture": "convnet",
    "kwargs": {"num_classes": 2, "widths": [4, 8]},
    "task": "classification",
}
AFFINE = {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 2, "out_features": 1}}
TEXTS = [{"text": f"{word} day", "label": word} for word in ("good", "bad")] * 4
NUMBERS = [{"x": [at, at % 3], "y": at / 2} for at in range(16)]


def lines(*records: Any) -> bytes:
    return b"\n".join(each if isinstance(each, bytes) else json.dumps(each).encode() for each in records)


def parquet(**columns: Any) -> bytes:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def text(record: Any) -> bytes:
    return lines(*TEXTS, record, *TEXTS)


def pictures(at: int, content: Any) -> bytes:
    rows = [{"image": base64.b64encode(picture(n)).decode(), "label": "ab"[n % 2]} for n in range(8)]
    rows[at]["image"] = content
    return lines(*rows)


# By what is wrong: file, its name, model, the code, line and field of the first problem.
AT_ONCE: dict[str, tuple[bytes, str, Any, tuple[str, int | None, str | None]]] = {
    "a line of more than 1 MB": (
        text({"text": "x" * 1_000_001, "label": "good"}),
        "a.jsonl",
        ENCODER,
        ("line_too_long", 9, None),
    ),
    "Latin-1 among UTF-8": (text(b'{"text": "caf\xe9", "label": "good"}'), "a.jsonl", ENCODER, ("not_utf8", 9, None)),
    "UTF-16": (lines(*TEXTS).decode().encode("utf-16"), "a.jsonl", ENCODER, ("not_utf8", 1, None)),
    "a NUL byte": (text(b'{"text": "a\0b", "label": "good"}'), "a.jsonl", ENCODER, ("nul_byte", 9, None)),
    "an escaped NUL": (text({"text": "a\0b", "label": "good"}), "a.jsonl", ENCODER, ("nul_byte", 9, "text")),
    "half a surrogate pair": (
        text(b'{"text": "\\ud800", "label": "good"}'),
        "a.jsonl",
        ENCODER,
        ("not_unicode", 9, "text"),
    ),
    "nested without end": (text(b"[" * 100_000), "a.jsonl", ENCODER, ("too_deep", 9, None)),
    "labels of two kinds": (text({"text": "a", "label": 3}), "a.jsonl", ENCODER, ("mixed_labels", 9, "label")),
    "one class": (lines(*TEXTS[::2]), "a.jsonl", ENCODER, ("too_few_labels", None, None)),
    "a label seen once": (text({"text": "a", "label": "c"}), "a.jsonl", ENCODER, ("label_seen_once", 9, "label")),
    "blank lines alone": (b"\n \n", "a.jsonl", ENCODER, ("empty_file", None, None)),
    "a header alone": (b"text,label\n", "a.csv", ENCODER, ("empty_file", None, None)),
    "a ragged row": (b"text,label\na,x\nb\n", "a.csv", ENCODER, ("ragged_row", 3, None)),
    "a column twice": (b"text,text,label\na,b,x\n", "a.csv", ENCODER, ("duplicate_column", 1, "text")),
    "a column missing": (b"txt,label\na,x\nb,y\n", "a.csv", ENCODER, ("unknown_shape", 1, None)),
    "a quote that never closes": (b'text,label\n"a,x\nb,y\n', "a.csv", ENCODER, ("not_csv", 2, None)),
    "Parquet of other types": (
        parquet(text=[1, 2, 3, 4], label=["a", "b"] * 2),
        "a.parquet",
        ENCODER | {"task": "text-classification"},
        ("wrong_type", 1, "text"),
    ),
    "half a Parquet file": (
        parquet(text=["a", "b"] * 2, label=["a", "b"] * 2)[:-20],
        "a.parquet",
        ENCODER,
        ("not_parquet", None, None),
    ),
    "no base64": (pictures(4, "@@@"), "a.jsonl", CONVNET, ("not_base64", 5, "image")),
    "no picture": (pictures(4, "aGVsbG8="), "a.jsonl", CONVNET, ("not_an_image", 5, "image")),
    "NaN": (lines(*NUMBERS, b'{"x": [NaN, 1], "y": 1}'), "a.jsonl", AFFINE, ("not_finite", 17, "x[0]")),
    "another width": (lines(*NUMBERS, {"x": [1], "y": 1}), "a.jsonl", AFFINE, ("inconsistent_width", 17, "x")),
}


def post(service: Service, model: Any, file: bytes, name: str, **more: Any) -> Any:
    hyperparameters = {"n_epochs": 1, "batch_size": 4} | more.pop("hyperparameters", {})
    body = {"model": model, "training_file": service.upload(file, name), "hyperparameters": hyperparameters, **more}
    return service.client.post("fine_tuning/jobs", json=body)


@EMBEDDED
@pytest.mark.parametrize("what", AT_ONCE)
def test_refused_when_it_is_posted(service: Service, models: Path, what: str) -> None:  # noqa: F811
    """400 with code, line and field; the message says the same in words, and there is no job."""
    file, name, model, expected = AT_ONCE[what]
    answer = post(service, model, file, name)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    first = error["errors"][0]
    assert (first["code"], first["line"], first["field"]) == expected
    assert error["param"] == "training_file"
    assert first["message"] in error["message"]
    assert expected[1] is None or f"line {expected[1]}" in error["message"]


def bomb() -> bytes:
    image = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    return buffer.getvalue()


def damaged() -> bytes:
    return picture(4)[:50]


# What only the model or a decoder can tell: file, name, model, further fields, and the error's code, line and words.
IN_THE_WORKER: dict[str, tuple[bytes, str, Any, dict[str, Any], tuple[str, int | None, str]]] = {
    "a damaged picture": (
        pictures(4, base64.b64encode(damaged()).decode()),
        "a.jsonl",
        CONVNET,
        {},
        ("invalid_training_data", 5, "is damaged"),
    ),
    "a decompression bomb": (
        parquet(image=[*map(picture, range(6)), bomb()], label=[0, 1, 0, 1, 0, 1, 0]),
        "a.parquet",
        CONVNET,
        {},
        ("invalid_training_data", 7, "is damaged"),
    ),
    "more labels than outputs": (
        lines(*({"x": [1, 2], "y": "abc"[at % 3]} for at in range(12))),
        "a.jsonl",
        AFFINE | {"architecture": "mlp", "kwargs": {"in_features": 2, "out_features": 2}, "task": "classification"},
        {},
        ("data_does_not_fit_model", None, "3 labels, and the model gives 2 outputs"),
    ),
    "a prompt that fills the model": (
        lines(*[{"prompt": "the cat", "completion": " sat"}] * 3, {"prompt": "the " * 100, "completion": " sat"}),
        "a.jsonl",
        DECODER,
        {},
        ("invalid_training_data", 4, "nothing to learn from"),
    ),
    "pictures for an encoder of text": (
        pictures(0, base64.b64encode(picture(1)).decode()),
        "a.jsonl",
        ENCODER,
        {},
        ("invalid_model", None, "no ImageClassification over a 'bert' model"),
    ),
}


@EMBEDDED
@pytest.mark.parametrize("what", IN_THE_WORKER)
def test_failed_before_the_first_step(service: Service, models: Path, what: str) -> None:  # noqa: F811
    """In one attempt, with the line where there is one."""
    file, name, model, more, (code, line, words) = IN_THE_WORKER[what]
    answer = post(service, model, file, name, **more)
    assert answer.status_code == 200, answer.text
    job = service.ended(answer.json()["id"])
    assert (job["status"], job["error"]["code"], job["attempts"]) == ("failed", code, 1), job["error"]
    assert words in job["error"]["message"]
    assert line is None or (job["error"]["errors"][0]["line"], job["error"]["param"]) == (line, "training_file")
    assert job["progress"]["step"] in (None, 0)


@EMBEDDED
def test_label_outside_of_the_map(service: Service, models: Path) -> None:  # noqa: F811
    """In the validation file: its line, and the labels that there are."""
    validation = service.upload(lines(TEXTS[0], {"text": "a", "label": "ugly"}), "b.jsonl")
    answer = post(service, ENCODER, lines(*TEXTS), "a.jsonl", validation_file=validation)
    error = answer.json().get("error") or service.ended(answer.json()["id"])["error"]
    assert (error["param"], error["errors"][0]["line"], error["errors"][0]["code"]) == (
        "validation_file",
        2,
        "unknown_label",
    )
    assert "validation data" in error["message"]
    assert "bad, good" in error["message"]


@EMBEDDED
def test_empty_validation_file(service: Service, models: Path) -> None:  # noqa: F811
    """Nothing to judge by is not the same as no validation."""
    validation = service.upload(b"\n\n", "b.jsonl")
    answer = post(service, ENCODER, lines(*TEXTS), "a.jsonl", validation_file=validation)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "validation_file"
    answer = post(service, ENCODER, lines(*TEXTS), "a.jsonl", hyperparameters={"early_stopping_patience": 1})
    assert answer.json()["error"]["param"] == "hyperparameters.early_stopping_patience"


@EMBEDDED
def test_pairs_in_parts(service: Service, models: Path) -> None:  # noqa: F811
    """Refused when posted: accumulation would take an anchor's negatives away."""
    rows = [{"anchor": f"a {at}", "positive": f"b {at}"} for at in range(8)]
    answer = post(service, ENCODER, lines(*rows), "a.jsonl", hyperparameters={"gradient_accumulation_steps": 2})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "hyperparameters.gradient_accumulation_steps")


@EMBEDDED
def test_longer_than_the_model(service: Service, models: Path) -> None:  # noqa: F811
    """Cut, trained on, and said with the number."""
    rows = [TEXTS[0] | {"text": "good " * 60}, *TEXTS]
    answer = post(service, ENCODER, lines(*rows), "a.jsonl", hyperparameters={"max_length": 4096})
    job = service.ended(answer.json()["id"])
    assert job["status"] == "succeeded", job["error"]
    events = [each["message"] for each in service.get(f"fine_tuning/jobs/{job['id']}/events?limit=50")["data"]]
    assert any("1 of 9 examples" in each and "longer than 32 tokens" in each for each in events)


@EMBEDDED
def test_byte_order_mark_is_passed_over(service: Service, models: Path) -> None:  # noqa: F811
    """As spreadsheets write UTF-8."""
    answer = post(service, ENCODER, b"\xef\xbb\xbf" + lines(*TEXTS), "a.jsonl")
    assert answer.status_code == 200, answer.text
    assert answer.json()["task"] == "text-classification"
    service.post(f"fine_tuning/jobs/{answer.json()['id']}/cancel")


@EMBEDDED
def test_loss_that_is_none_any_more(service: Service) -> None:
    """The job fails with step, lines of the batch and the last checkpoint, which is listed and can be started from."""
    hyperparameters = {"learning_rate": 1e-3, "optimizer": {"name": "sgd"}, "checkpoint_steps": 1}
    file = lines(*NUMBERS, {"x": [1e30, 0], "y": 1})  # a number that can be read, and not be squared
    answer = post(service, AFFINE, file, "a.jsonl", hyperparameters=hyperparameters, seed=6)
    job = service.ended(answer.json()["id"])
    assert (job["status"], job["error"]["code"], job["attempts"]) == ("failed", "diverged", 1), job["error"]
    (problem,) = job["error"]["errors"]
    assert (problem["step"], problem["lines"]) == (4, [7, 8, 16, 17])
    assert "the loss is inf at step 4 of 5" in job["error"]["message"]
    assert "the last checkpoint is that of step 3" in job["error"]["message"]
    listed = service.get(f"fine_tuning/jobs/{job['id']}/checkpoints")["data"]
    assert listed[0]["step_number"] == 3
    again = post(service, listed[0]["fine_tuned_model_checkpoint"], lines(*NUMBERS), "a.jsonl")
    assert again.status_code == 200, again.text
    assert service.ended(again.json()["id"])["status"] == "succeeded"
