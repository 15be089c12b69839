"""`permafrost check-example`: checks a proof about one training example against an attestation, offline.

Exit status 0: the proof holds, 1: rejected, 2: could not check.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.evidence.format.example_proof import MAX_PROOF, ExampleProof, ProofError, read_proof, refuse_wrong
from app.evidence.format.keys import KeyFileError
from app.evidence.format.recipe import Recipe
from app.evidence.format.statement import Predicate
from app.evidence.verifier.context import CannotCheck, Inputs, Problem, Rejected, printable
from app.evidence.verifier.stages import without
from app.evidence.verifier.verify import (
    CANNOT_CHECK,
    REJECTED,
    VERIFIED,
    examined,
    read_attestation,
    trusted_keys,
)

_FROZEN = "something_frozen"  # what was trained on is no less proved where nothing was frozen
_SHOWN = 20  # steps that are listed


def main(argv: Sequence[str] | None = None) -> int:
    """Run `permafrost check-example` and return its exit status."""
    options = _parser().parse_args(argv)
    try:
        inputs = Inputs(keys=trusted_keys(options.key, None), now=datetime.now(UTC), require_recipe=True)
        recipe, _ = statement_of(read_attestation(options.attestation), inputs)
        proof = read_proof(_read(options.proof))
        if recipe.reported.examples is None:
            raise CannotCheck("the recipe has no root over its examples")
        refuse_wrong(proof, recipe.reported.examples)
    except Rejected as rejection:
        return _reject(rejection.problems, as_json=options.json)
    except ProofError as error:
        return _reject([Problem("proof", str(error))], as_json=options.json)
    except (CannotCheck, KeyFileError, OSError) as error:
        facts = {"verdict": "unchecked", "reason": str(error)}
        _say([f"COULD NOT CHECK: {printable(str(error))}"], facts, as_json=options.json)
        return CANNOT_CHECK
    held: dict[str, Any] = {
        "verdict": "verified",
        "job": recipe.job_id,
        "present": proof.present,
        "steps": list(proof.steps),
        "result_step": recipe.reported.result_step,  # of an earlier state than the last: later steps are not in it
    }
    _say(_lines(proof, recipe), held, as_json=options.json)
    return VERIFIED


def _reject(problems: Sequence[Problem], *, as_json: bool) -> int:
    facts = {"verdict": "rejected", "problems": [problem._asdict() for problem in problems]}
    _say(["REJECTED", *(f"  {problem.check}: {problem}" for problem in problems)], facts, as_json=as_json)
    return REJECTED


def _say(lines: Sequence[str], facts: dict[str, Any], *, as_json: bool) -> None:
    print(json.dumps(facts, ensure_ascii=False) if as_json else "\n".join(lines))


def statement_of(raw: bytes, inputs: Inputs) -> tuple[Recipe, Predicate]:
    """An attestation's recipe and claim after all checks of both that need no files. Raises Rejected."""
    context = examined(raw, inputs, checks=without(_FROZEN))
    assert context.recipe is not None  # it is required by the inputs
    return context.recipe, context.predicate


def _lines(proof: ExampleProof, recipe: Recipe) -> list[str]:
    example = json.dumps(proof.example, ensure_ascii=False)
    lines = [f"  example: {printable(example if len(example) < 200 else example[:200] + '…')}"]
    if proof.present:
        more = f" and {len(proof.steps) - _SHOWN} more" if len(proof.steps) > _SHOWN else ""
        steps = ", ".join(map(str, proof.steps[:_SHOWN])) + more
        word = "step" if len(proof.steps) == 1 else "steps"
        lines.insert(0, f"PROVED: {recipe.job_id} trained on this example, at {word} {steps}")
        lines += _left_out(proof.steps, recipe.reported.result_step)
    else:
        lines.insert(0, f"PROVED: {recipe.job_id} did not train on this example")
    return [*lines, "  by the trainer's word for its examples; `permafrost reproduce` checks that"]


def _left_out(steps: Sequence[int], result_step: int | None) -> list[str]:
    """That the result is an earlier state than that of some of these steps: early stopping went back to it."""
    if result_step is None or all(step <= result_step for step in steps):
        return []
    which = "later steps are not" if any(step <= result_step for step in steps) else "none of these steps is"
    return [f"  the result is the state after step {result_step}: {which} in it"]


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_PROOF + 1)
    except OSError as error:
        raise CannotCheck(f"{path}: {error.strerror}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="permafrost check-example",
        description="Check a proof that a job trained on an example, or did not, against the job's attestation.",
        epilog="Exit status: 0 proved, 1 rejected, 2 could not check.",
    )
    parser.add_argument("proof", type=Path, help="what `permafrost prove-example` wrote")
    parser.add_argument("attestation", type=Path, help="the signed statement with its recipe")
    parser.add_argument("--key", type=Path, action="append", required=True, help="trusted public key or ring of keys")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
