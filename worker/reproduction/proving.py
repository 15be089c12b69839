"""`permafrost prove-example`: writes a proof that a job trained on an example and when, or that it did not.

Needs the training file and the attestation. The proof is checked by `permafrost check-example`.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.errors import PermafrostError
from app.evidence.format.example_proof import prove, to_text
from app.evidence.format.examples import ExampleTree
from app.evidence.format.keys import KeyFileError
from app.evidence.format.recipe import Recipe
from app.evidence.format.statement import Predicate
from app.evidence.format.strict import read_json, repeated_keys
from app.evidence.verifier.check_example import statement_of
from app.evidence.verifier.context import CannotCheck, Inputs, Problem, Rejected, printable
from app.evidence.verifier.verify import CANNOT_CHECK, REJECTED, VERIFIED, read_attestation, trusted_keys
from app.files import formats
from app.files.columns import Columns
from app.specs.data import DataSpec
from app.specs.hyperparameters import Hyperparameters
from worker.reproduction.material import Material, refuse_other_data, refuse_other_material
from worker.trainer.data.examples_root import example_tree
from worker.trainer.data.sampler import Sampler, split

Row = dict[str, Any]

#: Examples, each counted as often as it was trained on, that are looked through for a proof: hours of it.
MOST: Final = 1 << 32


def main(argv: Sequence[str] | None = None) -> int:
    """Run `permafrost prove-example` and return its exit status."""
    options = _parser().parse_args(argv)
    try:
        inputs = Inputs(keys=trusted_keys(options.key, None), now=datetime.now(UTC), require_recipe=True)
        recipe, predicate = statement_of(read_attestation(options.attestation), inputs)
        refuse_other_data(options.data, recipe)
        rows = _rows(options.data, recipe)
        example = _line(rows, options.line) if options.line is not None else _example(options.example, recipe)
        lengths = _lengths(recipe, predicate, options)
        proof = prove(examples_of([row for _, row in rows], recipe, lengths), example)
    except Rejected as rejection:
        print("\n".join(["REJECTED", *(f"  {problem.check}: {problem}" for problem in rejection.problems)]))
        return REJECTED
    except (CannotCheck, KeyFileError, PermafrostError, OSError) as error:
        print(f"COULD NOT PROVE: {printable(str(error))}")
        return CANNOT_CHECK
    if options.output is None:
        sys.stdout.write(to_text(proof))
    else:
        options.output.write_text(to_text(proof), "utf-8")
        print(f"{proof['kind']}: {options.output}")
    return VERIFIED


def examples_of(rows: Sequence[Row], recipe: Recipe, lengths: NDArray[np.int64] | None = None) -> ExampleTree:
    """The tree that the data and the recipe give. Rejected where the trainer reported another root.

    `lengths` are tokens of the training examples, where the run put examples of similar length together.
    """
    said, settings = recipe.reported, _settings(recipe)
    if said.examples is None or said.steps is None or not isinstance(settings.batch_size, int):
        raise CannotCheck("the recipe has no root over its examples")
    if said.steps * settings.batch_size > MOST:
        raise CannotCheck(f"{said.steps} steps of {settings.batch_size} examples are more than can be counted here")
    if recipe.observed.validation is None:
        kept, _ = split(len(rows), fraction=settings.validation_fraction or 0.0, seed=recipe.request.seed)
        rows = [rows[at] for at in kept]
    sampler = Sampler(len(rows), settings.batch_size, recipe.request.seed, lengths)
    tree = example_tree(rows, sampler, steps=said.steps, labels=None)
    if (found := tree.root()) != said.examples:
        reason = "the data and the settings of the recipe give another root than the trainer reported"
        raise Rejected([Problem("examples", reason, None, said.examples.root, found.root)])
    return tree


def _lengths(recipe: Recipe, predicate: Predicate, options: argparse.Namespace) -> NDArray[np.int64] | None:
    """Tokens of each training example, where the order depends on them; that takes the base's tokenizer."""
    settings = _settings(recipe)
    if not settings.length_bucketing:
        return None
    if options.base is None:
        reason = "with length_bucketing the order of examples depends on their tokens"
        raise CannotCheck(f"{reason}: --base is needed, the folder of the base, whose tokenizer counts them")
    given = {name: getattr(options, name) for name in ("validation", "base", "adapter")}
    material = Material(training=options.data, checkpoint=None, **given)
    refuse_other_material(material, recipe, predicate, None)
    from worker.reproduction.token_counts import token_counts  # loads the base

    return token_counts(recipe, settings, material, base_files=predicate.base_files)


def _settings(recipe: Recipe) -> Hyperparameters:
    """What the trainer decided about the order of examples. CannotCheck where that is nothing that a run can have."""
    names = ("batch_size", "validation_fraction", "length_bucketing", "max_length", "packing")
    said = recipe.reported.hyperparameters
    try:
        return Hyperparameters.from_json({name: said[name] for name in names if name in said})
    except PermafrostError as error:
        raise CannotCheck(f"the recipe's word on {error}") from None


def _rows(path: Path, recipe: Recipe) -> list[tuple[int, Row]]:
    """Each example of the file with its line, labels as they are written."""
    data = DataSpec.from_json(dict(recipe.request.data))
    with path.open("rb") as file:
        form = data.format or formats.detect(path.name, file.read(4096))
    return list(formats.read(path, format=form, task=recipe.request.task, columns=Columns.of(data)))


def _line(rows: Sequence[tuple[int, Row]], line: int) -> Row:
    found = next((row for at, row in rows if at == line), None)
    if found is None:
        raise CannotCheck(f"--line {line}: no example begins there; the first is on line {rows[0][0]}")
    return found


def _example(given: str, recipe: Recipe) -> Row:
    """An example that is given as a line of JSON, as a training file would have it."""
    try:
        document = read_json(Path(given[1:]).read_bytes() if given.startswith("@") else given.encode())
        for key in repeated_keys(document):
            raise CannotCheck(f"--example: the key {key!r} is given twice; give it once, as a training file has to")
        line = json.dumps(document)
    except ValueError as error:
        raise CannotCheck(f"--example is not JSON: {error}") from None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "example.jsonl"
        path.write_text(line + "\n", "utf-8")
        data = replace(DataSpec.from_json(dict(recipe.request.data)), format="jsonl", features=None, target=None)
        columns = Columns.of(data)
        [(_, row)] = formats.read(path, format="jsonl", task=recipe.request.task, columns=columns, param="example")
    return row


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="permafrost prove-example",
        description="Write a proof that a job trained on an example, and at which steps, or that it did not.",
        epilog="Exit status: 0 written, 1 the data does not fit the attestation, 2 could not prove.",
    )
    parser.add_argument("attestation", type=Path, help="the signed statement with its recipe")
    parser.add_argument("--data", type=Path, required=True, help="the training file")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--line", type=int, help="the example on this line of the training file (in Parquet: row)")
    which.add_argument("--example", metavar="JSON", help="an example as a line of JSON, or @FILE")
    parser.add_argument("--key", type=Path, action="append", required=True, help="trusted public key or ring of keys")
    parser.add_argument("--base", type=Path, help="folder of the base; needed where the run had length_bucketing")
    parser.add_argument("--validation", type=Path, help="with --base: the validation file, where the job had one")
    parser.add_argument("--adapter", type=Path, help="with --base: the adapter that was trained on")
    parser.add_argument("--output", type=Path, help="where to write the proof; default: standard output")
    return parser


if __name__ == "__main__":
    sys.exit(main())
