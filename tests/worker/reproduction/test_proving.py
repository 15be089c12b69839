"""`permafrost prove-example`: from a job's own data and attestation to a proof that anyone checks."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.evidence.format.examples import ExampleTree
from app.evidence.format.statement import FileRef
from app.evidence.verifier.check_example import main as check
from tests.tamper import recipes
from tests.tamper.kit import World
from tests.worker.reproduction import liars
from tests.worker.reproduction.attested import HYPERPARAMETERS, ROWS, Attested, Workshop
from tests.worker.trainer import tiny
from worker.reproduction.proving import main


def prove(job: Attested, *options: str) -> int:
    given = ["--key", str(job.key), "--data", str(job.data), "--output", str(job.data.with_name("proof.json"))]
    return main([str(job.attestation), *given, *options])


def checked(job: Attested, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert check([str(job.data.with_name("proof.json")), str(job.attestation), "--key", str(job.key)]) == 0
    return capsys.readouterr().out


def test_an_example_was_trained_on_and_another_was_not(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    """By its line or by itself, with a step of each epoch; without the held-out part of the file."""
    job = workshop.classifier(hyperparameters=HYPERPARAMETERS | {"validation_fraction": 0.25})
    found = []
    for line in range(1, len(ROWS) + 1):
        assert prove(job, "--line", str(line)) == 0
        found.append("did not train" not in checked(job, capsys))
    assert found.count(True) == 12
    first = ROWS[found.index(True)]
    assert prove(job, "--example", json.dumps(first)) == 0
    steps = checked(job, capsys).partition("at steps ")[2].splitlines()[0].split(", ")
    assert [(int(step) - 1) // 3 for step in steps] == [0, 1]  # three steps an epoch
    assert prove(job, "--example", json.dumps(first | {"label": "elsewhere"})) == 0
    assert "did not train" in checked(job, capsys)


def test_what_cannot_be_proved_is_named(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    """Other data, a line without an example, no JSON; a trainer whose own order was another."""
    job = workshop.classifier()
    assert prove(job, "--line", "99") == 2
    assert prove(job, "--example", "{") == 2
    assert prove(job, "--example", "{}") == 2
    assert prove(job, "--example", '{"text": "good film", "label": "a", "label": "b"}') == 2
    assert "'label' is given twice" in capsys.readouterr().out
    content = job.data.read_bytes()
    job.data.write_bytes(content + b"\n")
    assert prove(job, "--line", "1") == 1
    assert "not the training file of the recipe" in capsys.readouterr().out
    job.data.write_bytes(content)
    lied = workshop.classifier(seed=liars.OTHER_SEED)
    assert prove(lied, "--line", "1") == 1
    assert "another root than the trainer reported" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ({"hyperparameters": {"batch_size": 0}}, "batch_size"),
        ({"hyperparameters": {"batch_size": None}}, "no root over its examples"),
        ({"hyperparameters": {"batch_size": ["4"]}}, "batch_size"),
        ({"hyperparameters": {"batch_size": 4, "validation_fraction": "half"}}, "validation_fraction"),
        ({"steps": 1 << 60}, "more than can be counted"),
    ],
    ids=["no-examples", "nothing", "a-list", "a-word", "steps-for-ever"],
)
def test_a_word_that_no_run_can_have_is_named(
    word: dict[str, Any], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A signer may write anything into the trainer's word: no traceback, and no search without an end."""
    world = World(tmp_path / "world")
    world.sign()
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    recipe = recipes.honest(world)
    said: dict[str, Any] = {
        "hyperparameters": {"batch_size": 4},
        "examples": ExampleTree.of({bytes(32): [1]}).root(),
    } | word
    training = FileRef("training", data.stat().st_size, hashlib.sha256(data.read_bytes()).hexdigest())
    observed = recipe.observed._replace(training=training, validation=None)
    recipes.sign(world, recipe._replace(observed=observed, reported=replace(recipe.reported, **said)))
    (tmp_path / "key.pub").write_text(world.key.public_pem)
    arguments = [str(world.attestation), "--key", str(tmp_path / "key.pub"), "--data", str(data), "--line", "1"]
    assert main(arguments) == 2
    assert named in capsys.readouterr().out


def test_an_order_by_length_takes_the_base(
    workshop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its tokenizer counts the tokens that the order depends on; another base is refused."""
    rows = [{**row, "text": "the cat " * (1 + at % 5) + row["text"]} for at, row in enumerate(ROWS)]
    wanted = HYPERPARAMETERS | {"length_bucketing": True, "validation_fraction": 0.25}
    job = workshop.classifier(rows=rows, hyperparameters=wanted)
    assert prove(job, "--line", "1") == 2
    assert "--base is needed" in capsys.readouterr().out
    assert not Path(job.data.with_name("proof.json")).exists()

    found = []
    for line in range(1, len(rows) + 1, 3):
        assert prove(job, "--line", str(line), "--base", str(job.base)) == 0
        found.append("did not train" not in checked(job, capsys))
    assert any(found)
    assert prove(job, "--line", "1", "--base", str(tiny.bert(tmp_path / "other", seed=7))) == 1
    assert "another base than the recipe's" in capsys.readouterr().out
