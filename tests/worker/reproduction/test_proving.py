"""`permafrost prove-example`: from a job's own data and attestation to a proof that anyone checks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.evidence.verifier.check_example import main as check
from tests.worker.reproduction import liars
from tests.worker.reproduction.attested import HYPERPARAMETERS, ROWS, Attested, Workshop
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
    content = job.data.read_bytes()
    job.data.write_bytes(content + b"\n")
    assert prove(job, "--line", "1") == 1
    assert "not the training file of the recipe" in capsys.readouterr().out
    job.data.write_bytes(content)
    lied = workshop.classifier(seed=liars.OTHER_SEED)
    assert prove(lied, "--line", "1") == 1
    assert "another root than the trainer reported" in capsys.readouterr().out


def test_an_order_by_length_is_the_trainers_alone(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    """It depends on tokens, which a proof's maker does not count."""
    job = workshop.classifier(hyperparameters=HYPERPARAMETERS | {"length_bucketing": True})
    assert prove(job, "--line", "1") == 2
    assert "length_bucketing" in capsys.readouterr().out
    assert not Path(job.data.with_name("proof.json")).exists()
