"""`permafrost reproduce`: checks the material, says what may differ here, trains again, compares, and reports.

Exit status 0: the same bits, 1: rejected, 2: could not check, also where other bits are to be expected here.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from app.errors import PermafrostError
from app.evidence.format.keys import KeyFileError
from app.evidence.format.quantised import BITSANDBYTES
from app.evidence.format.recipe import Recipe
from app.evidence.verifier.context import CannotCheck, CheckContext, Inputs, Problem, Rejected, printable
from app.evidence.verifier.stages import without
from app.evidence.verifier.verify import (
    CANNOT_CHECK,
    REJECTED,
    VERIFIED,
    examined,
    read_attestation,
    trusted_keys,
)
from app.jsontypes import JsonDict
from worker.reproduction.comparison import SHOWN, Distance, compared, distances, farthest
from worker.reproduction.expectation import reasons, refuted
from worker.reproduction.material import Material, Segment, refuse_other_material, segment_of
from worker.reproduction.rerun import RerunFailed, rerun
from worker.supervisor.installation import code_digest

LEVEL = 4
MEANING = "trained again from its recipe, every tensor of the result has the same bits"
_FROZEN = "something_frozen"  # a run that froze nothing can be repeated as any other
_SIGNATURES = ("trusted_signature", "recipe_signature")  # the checks that need a key


def main(argv: Sequence[str] | None = None) -> int:
    """Run `permafrost reproduce` and return its exit status."""
    options = _parser().parse_args(argv)
    try:
        return _reproduce(options)
    except Rejected as rejection:
        _report(options, "rejected", rejection.problems)
        return REJECTED
    except (CannotCheck, KeyFileError, RerunFailed, PermafrostError, OSError) as error:
        _say(options, {"verdict": "unchecked", "reason": str(error)}, [f"COULD NOT CHECK: {error}"])
        return CANNOT_CHECK


def _reproduce(options: argparse.Namespace) -> int:
    context = _examined(options)
    recipe = context.recipe
    if recipe is None:
        raise CannotCheck("the attestation has no recipe, so nothing says how to train again")
    segment = segment_of(recipe, options.segment) if options.segment is not None else None
    material = Material(
        training=options.data,
        validation=options.validation,
        base=options.base,
        adapter=options.adapter,
        checkpoint=options.checkpoint,
    )
    refuse_other_material(material, recipe, context.predicate, segment)

    unequal = _unequal(recipe)
    for reason in unequal:
        _note(f"other bits are to be expected: {reason}")
    steps = f"segment {segment.number}" if segment is not None else f"{recipe.reported.steps} steps"
    _note(f"trains {recipe.job_id} again, {steps}")
    with _folder(options.work) as folder:
        device = _device(recipe)
        run = rerun(recipe, material, segment, base_files=context.predicate.base_files, folder=folder, device=device)
        problems = compared(recipe, context.predicate, run, segment)
        if not problems:
            _verified(options, context, segment)
            return VERIFIED
        if segment is None and unequal and set(unequal) <= set(refuted(recipe, run.word)):
            reason = "the trainer reported operations without a deterministic kernel, and this run has none of them"
            problems, unequal = [*problems, Problem("word", reason)], []
        if not unequal:
            _report(options, "rejected", problems)
            return REJECTED
        apart = list(distances(options.result, run)) if options.result is not None else []
    _unequal_report(options, unequal, problems, apart)
    return CANNOT_CHECK


def _examined(options: argparse.Namespace) -> CheckContext:
    """The attestation after the verifier's own checks; without a key, all but those of signatures."""
    if not options.key:
        _note("signatures are not checked: no --key")
    checks = without(_FROZEN) if options.key else without(_FROZEN, *_SIGNATURES)
    inputs = Inputs(keys=trusted_keys(options.key, None), now=datetime.now(UTC), require_recipe=True)
    return examined(read_attestation(options.attestation), inputs, checks=checks)


def _unequal(recipe: Recipe) -> list[str]:
    from worker.trainer import determinism  # imports torch, which only now is needed
    from worker.trainer.models import quantised
    from worker.trainer.training.job import choose_device

    used = str(recipe.reported.environment.get("quantiser") or BITSANDBYTES).partition(" ")[0]
    here = determinism.environment(choose_device(_device(recipe)), quantiser=quantised.package(used))
    return list(reasons(recipe, environment=here, code=code_digest()))


def _device(recipe: Recipe) -> str:
    """The kind of device that the run had, where this machine has one; else the CPU."""
    import torch

    kind = recipe.request.device.partition(":")[0]
    on_gpu = recipe.reported.environment.get("cuda") is not None or kind == "cuda"
    return "cuda" if on_gpu and torch.cuda.is_available() else "cpu"


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    """The folder to train in: the one that was given, which has to be new, or a temporary one."""
    if given is None:
        with tempfile.TemporaryDirectory(prefix="permafrost-reproduce-") as name:
            yield Path(name).resolve()
        return
    try:
        given.mkdir(parents=True)
    except FileExistsError:
        raise CannotCheck(f"--work: {given} is there already; name a new folder") from None
    yield given.resolve()


def _verified(options: argparse.Namespace, context: CheckContext, segment: Segment | None) -> None:
    rows = [row for row in context.predicate.rows if row.result is not None]
    document: JsonDict = {"verdict": "verified", "level": LEVEL, "meaning": MEANING, "tensors": len(rows)}
    if segment is None:
        lines = [f"VERIFIED, level {LEVEL}: {MEANING}"]
        lines += [f"  {len(rows)} tensors, {sum(row.changed for row in rows)} of them changed by training"]
    else:
        first, last = segment.start.step if segment.start else 0, segment.stop.step if segment.stop else "the end"
        what = f"segment {segment.number}: from step {first} to {last} the training gives the same state"
        document |= {"meaning": what, "segment": segment.number}
        lines = [f"VERIFIED, level {LEVEL}, {what}"]
    _say(options, document, lines)


def _report(options: argparse.Namespace, verdict: str, problems: Sequence[Problem]) -> None:
    lines = ["REJECTED", *(f"  {problem.check}: {problem}" for problem in problems[:SHOWN])]
    if len(problems) > SHOWN:
        lines.append(f"  and {len(problems) - SHOWN} more; --json has them all")
    _say(options, {"verdict": verdict, "level": None, "problems": [one._asdict() for one in problems]}, lines)


def _unequal_report(
    options: argparse.Namespace, unequal: list[str], problems: Sequence[Problem], apart: list[Distance]
) -> None:
    """No verdict: the reasons that were given before, how much differs, and how far it is apart."""
    tensors = [problem for problem in problems if problem.check == "tensors"]
    lines = ["NO VERDICT: other bits, as was to be expected here"]
    lines += [f"  reason: {reason}" for reason in unequal]
    lines.append(f"  {len(tensors)} tensors differ")
    moved = sorted(apart, key=lambda one: -(one.relative_l2 or 0.0))
    for one in moved[:SHOWN]:
        lines.append(
            f"  {one.name}: {one.changed} of {one.elements} elements, relative distance {_number(one.relative_l2)}, "
            f"at most {_number(one.max_abs)}"
        )
    if not apart:
        lines.append("  --result gives the distance")
    document: JsonDict = {"verdict": "unequal", "level": None, "reasons": unequal, "distance": farthest(apart)}
    document |= {"distances": [asdict(one) for one in moved], "problems": [one._asdict() for one in problems]}
    _say(options, document, lines)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def _note(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)


def _say(options: argparse.Namespace, document: JsonDict, lines: Sequence[str]) -> None:
    text = json.dumps(document, indent=1) if options.json else "\n".join(_shown(line) for line in lines)
    try:
        print(text, flush=True)
    except BrokenPipeError:  # the reader closed the pipe; the exit status still counts
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _shown(line: str) -> str:
    """The line, with all but its own line feeds escaped."""
    return "\n".join(printable(one) for one in line.split("\n"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="permafrost reproduce",
        description="Train a result again from its signed recipe, without the service, and compare every tensor.",
        epilog="Exit status: 0 verified, 1 rejected, 2 could not check (also where other bits are to be expected).",
    )
    parser.add_argument("attestation", type=Path, help="the signed statement with its recipe")
    parser.add_argument("--data", type=Path, required=True, help="the training file")
    parser.add_argument("--validation", type=Path, help="the validation file, where the job had one")
    parser.add_argument("--base", type=Path, help="folder of the base; not needed where it was drawn from the seed")
    parser.add_argument("--adapter", type=Path, help="weights of the adapter that was trained on, where there was one")
    parser.add_argument(
        "--key", type=Path, action="append", default=[], help="trusted public key (PEM) or ring of keys; repeatable"
    )
    parser.add_argument("--segment", type=int, metavar="K", help="only the steps from checkpoint K to the next one")
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="the state of checkpoint K")
    parser.add_argument("--result", type=Path, help="folder of the result, for the distance where bits differ")
    parser.add_argument("--work", type=Path, metavar="DIR", help="a new folder to train in, which is kept")
    parser.add_argument("--json", action="store_true", help="write the report as JSON")
    return parser
