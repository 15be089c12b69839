"""`permafrost reproduce`: honest jobs come out again with the same bits, whatever they trained, and lies do not."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.worker.reproduction import liars
from tests.worker.reproduction.attested import Workshop
from tests.worker.supervisor.jobs import CSV, HEADER, job_of, submit
from tests.worker.trainer import block_scaled_bases, tiny

LORA = {"type": "transformers", "path": "tiny", "adapter": {"type": "lora", "r": 2}}
SCHEDULE = {"rules": [{"action": "freeze", "select": {"name": "bert.encoder.**"}, "when": [{"to_step": 4}]}]}
ROWS = {
    "rules": [{"action": "freeze", "select": {"name": "bert.embeddings.word_embeddings.weight", "rows": [[0, 30]]}}]
}


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"policy": {"train": ["**"]}},
        {"model_spec": LORA, "policy": {}},
        {"model_spec": LORA | {"quantize": "nf4"}, "policy": {}},
        {"policy": SCHEDULE},
        {"policy": ROWS},
    ],
    ids=["head-only", "full", "LoRA", "LoRA over NF4", "schedule", "rows"],
)
def test_an_honest_job_is_reproduced(
    workshop: Workshop, columns: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Level 4: every tensor of the result has the same bits."""
    job = workshop.classifier(**columns)
    capsys.readouterr()  # the worker's own log
    assert job.reproduce() == 0, capsys.readouterr()
    assert capsys.readouterr().out.startswith("VERIFIED, level 4")


def test_a_trainer_over_other_codes_gets_no_model(workshop: Workshop) -> None:
    """The supervisor had the base quantised in a process without data, and compares."""
    job_id = workshop.submitted(model_spec=LORA | {"quantize": "nf4"}, policy={}, seed=liars.OTHER_CODES)
    assert workshop.runner.run_next()
    job = job_of(workshop.deployment.db, job_id)
    assert (job.status, job.error["code"]) == ("failed", "frozen_parameters_changed")
    assert "was not what quantising the base gives, when that was done again" in job.error["message"]


def over_float8(workshop: Workshop, **columns: Any) -> str:
    """A job over a decoder whose weights are stored as codes with block scales."""
    block_scaled_bases.qwen3(workshop.deployment.settings.models / "tiny")
    texts = [{"text": f"the {word} sat"} for word in tiny.WORDS[:16]]
    return workshop.submitted(rows=texts, model_spec=LORA, policy={}, task="causal-lm", **columns)


def test_a_job_over_codes_is_reproduced(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    """They are decoded again, and the statement has the digests of what they became."""
    job_id = over_float8(workshop)
    assert workshop.runner.run_next()
    data, base = workshop.folder / "data.jsonl", workshop.deployment.settings.models / "tiny"
    job = workshop.attested(job_id, data=data, base=base)
    statement = json.loads(base64.b64decode(json.loads(job.attestation.read_text())["payload"]))
    assert sum("decoded" in row for row in statement["predicate"]["parameters"]) == 14
    capsys.readouterr()  # the worker's own log
    assert job.reproduce() == 0, capsys.readouterr()
    assert capsys.readouterr().out.startswith("VERIFIED, level 4")


def test_a_trainer_that_decodes_otherwise_gets_no_model(workshop: Workshop) -> None:
    """The supervisor had the base decoded in a process without data, and compares."""
    job_id = over_float8(workshop, seed=liars.OTHER_WEIGHTS)
    assert workshop.runner.run_next()
    job = job_of(workshop.deployment.db, job_id)
    assert (job.status, job.error["code"]) == ("failed", "frozen_parameters_changed")
    assert "was not what decoding the base gives, when that was done again" in job.error["message"]


def test_a_job_that_was_interrupted_is_reproduced(workshop: Workshop) -> None:
    """In one go; the recipe says that its second attempt went on after a checkpoint."""
    job = workshop.classifier(seed=liars.INTERRUPTED, attempts=2)
    run = job.recipe["runDetails"]
    assert run["permafrost_reported"]["resumed"] == [liars.STOPPED_AFTER]
    assert [one["step"] for one in run["permafrost_observed"]["checkpoints"]] == [2, liars.STOPPED_AFTER, 4, 6]
    work = workshop.folder / "work"
    assert job.reproduce("--work", str(work)) == 0
    state = work / "checkpoints" / "step-00000002"
    assert job.reproduce("--segment", "1", "--checkpoint", str(state)) == 0  # of the first attempt


def test_a_base_that_was_drawn_is_drawn_again(workshop: Workshop) -> None:
    """A torch architecture without weights: nobody needs to keep its base."""
    data = workshop.folder / "table.csv"
    data.write_bytes(HEADER + CSV)
    job_id = submit(workshop.deployment)
    assert workshop.runner.run_next()
    assert workshop.attested(job_id, data=data, base=None).reproduce() == 0


@pytest.mark.parametrize("lie", [liars.OTHER_SEED, liars.OTHER_DATA, liars.FEWER_STEPS])
def test_a_lying_trainer_is_caught(workshop: Workshop, lie: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Another seed, other data, fewer steps than it says: its evidence verifies, and training again does not agree."""
    job = workshop.classifier(seed=lie)
    capsys.readouterr()  # the worker's own log
    assert job.reproduce("--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"] == "rejected"
    named = {problem["subject"] for problem in report["problems"] if problem["check"] == "tensors"}
    assert "classifier.weight" in named


def test_an_excuse_that_training_again_refutes_is_none(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    """The same code in the same environment has the same operations: one that lacks a kernel would come up again."""
    job = workshop.classifier(seed=liars.EXCUSED)
    capsys.readouterr()  # the worker's own log
    assert job.reproduce("--json") == 1
    shown = capsys.readouterr()
    assert "scatter_add has no such kernel" in shown.err
    assert "this run has none of them" in json.loads(shown.out)["problems"][-1]["reason"]


def test_material_is_compared_first(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    """Data that differs by one byte is named with both digests, before anything is trained."""
    job = workshop.classifier()
    capsys.readouterr()  # the worker's own log
    content = bytearray(job.data.read_bytes())
    content[-3] ^= 1
    job.data.write_bytes(content)
    assert job.reproduce() == 1
    said = capsys.readouterr().out
    assert "--data: not the training file of the recipe" in said
    assert "expected" in said and "found" in said


def test_where_equality_is_not_to_be_expected(
    workshop: Workshop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another build of torch and bits that differ: said beforehand, and a distance in place of a verdict."""
    from worker.trainer import determinism

    job = workshop.classifier(seed=liars.OTHER_SEED)
    capsys.readouterr()  # the worker's own log
    real = determinism.environment
    monkeypatch.setattr(determinism, "environment", lambda *a, **k: real(*a, **k) | {"torch": "9.9"})
    assert job.reproduce("--result", str(job.result), "--json") == 2
    shown = capsys.readouterr()
    assert "other bits are to be expected: another torch build" in shown.err
    report = json.loads(shown.out)
    assert report["verdict"] == "unequal"
    assert report["distance"] > 0
    assert {one["name"] for one in report["distances"]} == {"classifier.bias", "classifier.weight"}


def test_without_a_recipe_nothing_is_trained(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    """An attestation of before, or one of which somebody took the recipe away."""
    job = workshop.classifier()
    capsys.readouterr()  # the worker's own log
    envelope = json.loads(job.attestation.read_text())
    del envelope["recipe"]
    job.attestation.write_text(json.dumps(envelope))
    assert job.reproduce() == 1
    assert "has no recipe" in capsys.readouterr().out


def test_a_segment_is_checked_from_its_checkpoint(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    """From each checkpoint to the next, from the base, and to the end; a state that was tampered with is named."""
    job = workshop.classifier(policy={"train": ["**"]})
    capsys.readouterr()  # the worker's own log
    work = workshop.folder / "work"
    assert job.reproduce("--work", str(work)) == 0
    states = sorted((work / "checkpoints").glob("step-*"))
    assert [path.name for path in states] == ["step-00000002", "step-00000004", "step-00000006"]
    assert job.reproduce("--segment", "0") == 0
    assert job.reproduce("--segment", "2", "--checkpoint", str(states[1])) == 0
    assert job.reproduce("--segment", "3", "--checkpoint", str(states[2])) == 0
    assert "segment 3: from step 6 to the end" in capsys.readouterr().out
    assert job.reproduce("--segment", "4", "--checkpoint", str(states[2])) == 2
    assert job.reproduce("--segment", "1") == 2
    assert job.reproduce("--segment", "1", "--checkpoint", str(states[1])) == 1
    assert "not the state after step 2" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_runs_the_trainer_in_a_process_of_its_own(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As users do: `permafrost reproduce`."""
    job = workshop.classifier()
    command = [sys.executable, "-P", "-c", "from app.cli.main import main; main()", "reproduce", str(job.attestation)]
    command += ["--key", str(job.key), "--data", str(job.data), "--base", str(job.base)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("VERIFIED, level 4")
