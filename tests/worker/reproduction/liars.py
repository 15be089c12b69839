"""Trainers that do something else than they are asked and say that they did not; by the job's seed. Others are honest.

One is honest and interrupted: its first attempt stops after a checkpoint.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from worker.protocol import EXIT_STOPPED, WorkOrder, Workspace
from worker.trainer import main
from worker.trainer.freeze.quantised_parts import holds_scales
from worker.trainer.models import decoding, quantised
from worker.trainer.own_word import own_word

OTHER_SEED, OTHER_DATA, FEWER_STEPS, INTERRUPTED, EXCUSED, OTHER_CODES, OTHER_WEIGHTS = range(901, 908)
STOPPED_AFTER = 3


def run(folder: Path) -> None:
    order = WorkOrder.load(folder)
    if order.stage == "train" and order.seed in HABITS:
        HABITS[order.seed](folder, order)
    main.run(folder)


def with_another_seed(folder: Path, order: WorkOrder) -> None:
    replace(order, seed=1).save(folder)


def on_other_data(folder: Path, order: WorkOrder) -> None:
    """One label of one example is another."""
    path = Workspace(folder).root / str(order.data.training)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["label"], rows[1]["label"] = rows[1]["label"], rows[0]["label"]
    path.unlink()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def with_fewer_steps(folder: Path, order: WorkOrder) -> None:
    """It stops early and reports all of them."""

    def word(run: Any, ending: Any) -> Any:
        return own_word(run, replace(ending, steps=run.job.total_steps, tokens=TOKENS))

    vars(main)["own_word"] = word  # in this process, which ends with the run
    replace(order, until=2).save(folder)


def with_an_excuse(folder: Path, order: WorkOrder) -> None:
    """It trains with another seed, and reports an operation that could have given other bits."""

    def word(run: Any, ending: Any) -> Any:
        return own_word(run, ending) | {"exact": False, "notDeterministic": ["scatter_add has no such kernel"]}

    vars(main)["own_word"] = word
    replace(order, seed=1).save(folder)


def interrupted(folder: Path, order: WorkOrder) -> None:
    if order.attempt == 1:
        replace(order, until=STOPPED_AFTER).save(folder)
        try:
            main.run(folder)
        except SystemExit:
            raise SystemExit(EXIT_STOPPED) from None


def over_other_codes(folder: Path, order: WorkOrder) -> None:
    """One code of a base that is quantised at loading is another one, and the trainer reports it as what it loaded."""
    honest = quantised.settle

    def settle(model: nn.Module, *, made: bool = False) -> None:
        honest(model, made=made)
        layer: Any = next(module for module in model.modules() if holds_scales(module))
        layer.weight.data.view(-1)[0] += 1

    vars(quantised)["settle"] = settle


def over_other_weights(folder: Path, order: WorkOrder) -> None:
    """One value of a base of codes is decoded to another one, and the trainer reports it as what it loaded."""
    honest = decoding.decoded

    def decoded(*given: Any) -> Any:
        weight = honest(*given)
        weight.view(-1)[0] += 1
        return weight

    vars(decoding)["decoded"] = decoded


TOKENS = 0
HABITS = {
    OTHER_SEED: with_another_seed,
    OTHER_DATA: on_other_data,
    FEWER_STEPS: with_fewer_steps,
    INTERRUPTED: interrupted,
    EXCUSED: with_an_excuse,
    OTHER_CODES: over_other_codes,
    OTHER_WEIGHTS: over_other_weights,
}
