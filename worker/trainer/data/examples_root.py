"""The root over the examples that a run trained on, and the steps at which it did: for the recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.evidence.format.examples import ExampleTree, key_of
from worker.trainer.data.sampler import Sampler


def example_tree(
    rows: Sequence[Mapping[str, Any]], sampler: Sampler, *, steps: int, labels: Sequence[str] | None
) -> ExampleTree:
    """The tree over the training rows after `steps` steps. `labels` are the file's own, by the rows' indices."""
    taken: list[list[int]] = [[] for _ in rows]
    for step in range(1, steps + 1):
        for position in sampler.positions(step).tolist():
            taken[position].append(step)

    by_key: dict[bytes, list[int]] = {}
    for row, own in zip(rows, taken, strict=True):
        by_key.setdefault(key_of(as_written(row, labels)), []).extend(own)
    return ExampleTree.of(by_key)


def as_written(row: Mapping[str, Any], labels: Sequence[str] | None) -> Mapping[str, Any]:
    """The row with the labels that the file has, in place of their indices."""
    if labels is None:
        return row
    name = next(name for name in ("label", "labels", "y") if name in row)
    value = row[name]
    return {**row, name: [labels[each] for each in value] if isinstance(value, list) else labels[value]}
