"""`permafrost check-example`: a proof and an attestation, and nothing else."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.evidence.format.example_proof import prove, to_text
from app.evidence.format.examples import ExampleTree, key_of
from app.evidence.verifier.check_example import main
from tests.tamper import recipes
from tests.tamper.kit import World

TREE = ExampleTree.of({key_of({"text": name}): [at, at + 9] for at, name in enumerate("abcde", 1)})


def check(tmp_path: Path, proof: Any, *more: str, examples: bool = True, result_step: int | None = None) -> int:
    world = World(tmp_path)
    world.sign()
    recipe = recipes.honest(world)
    said = replace(recipe.reported, examples=TREE.root() if examples else None, result_step=result_step)
    recipes.sign(world, recipe._replace(reported=said))
    (tmp_path / "key.pub").write_text(world.key.public_pem)
    (tmp_path / "proof.json").write_text(proof if isinstance(proof, str) else to_text(proof))
    return main([str(tmp_path / "proof.json"), str(world.attestation), "--key", str(tmp_path / "key.pub"), *more])


def test_what_is_proved_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the steps, and whose word it is; of an example that is not there as well."""
    assert check(tmp_path / "a", prove(TREE, {"text": "c"})) == 0
    said = capsys.readouterr().out
    assert said.startswith("PROVED: ftjob-1 trained on this example, at steps 3, 12")
    assert "by the trainer's word" in said
    assert check(tmp_path / "b", prove(TREE, {"text": "z"})) == 0
    assert "did not train on this example" in capsys.readouterr().out
    assert check(tmp_path / "c", prove(TREE, {"text": "c"}), "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "verdict": "verified", "job": "ftjob-1", "present": True, "steps": [3, 12], "result_step": None
    }  # fmt: skip
    assert check(tmp_path / "d", prove(TREE, {"text": "c"}) | {"steps": [1]}, "--json") == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "rejected"


@pytest.mark.parametrize(
    ("result_step", "said"),
    [(None, ""), (12, ""), (11, "later steps are not in it"), (2, "none of these steps is in it")],
)
def test_steps_that_the_result_does_not_have_are_named(
    tmp_path: Path, result_step: int | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Early stopping goes back to an earlier state: an example that was trained on after it left no trace in it."""
    assert check(tmp_path, prove(TREE, {"text": "c"}), result_step=result_step) == 0
    shown = capsys.readouterr().out
    assert said in shown and ("the result is the state after" in shown) == bool(said)


def test_what_is_not_is_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A proof with other steps, one that is no proof, an attestation that another key signed."""
    proof = prove(TREE, {"text": "c"})
    assert check(tmp_path / "a", proof | {"steps": [1]}) == 1
    assert check(tmp_path / "b", "{}") == 1
    assert check(tmp_path / "c", proof, examples=False) == 2
    world = World(tmp_path / "d")
    recipes.sign(world)
    (tmp_path / "proof.json").write_text(json.dumps(proof))
    arguments = [str(tmp_path / "proof.json"), str(world.attestation), "--key"]
    assert main([*arguments, str(tmp_path / "nowhere.pub")]) == 2
    assert "REJECTED" in capsys.readouterr().out
