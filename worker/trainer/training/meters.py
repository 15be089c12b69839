"""Joins what several ranks measured, as if one rank had seen every batch in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from itertools import chain, zip_longest
from typing import Any, TypeVar

from torch import Tensor

from worker.trainer.ranks.group import Group
from worker.trainer.training.objectives import Meter

T = TypeVar("T")
_NOTHING: Any = object()


def in_turns(lists: Sequence[Sequence[T]]) -> list[T]:
    """The first of each list, the second of each, and so on: rank r has every batch whose number leaves remainder r."""
    return [each for each in chain.from_iterable(zip_longest(*lists, fillvalue=_NOTHING)) if each is not _NOTHING]


def merged(group: Group, meter: Meter) -> Meter:
    """The meter as if it had seen the batches of all ranks: lists of tensors are joined, numbers added."""
    if group.size == 1:
        return meter
    for name in (each.name for each in fields(meter)):  # type: ignore[arg-type]
        value = getattr(meter, name)
        if isinstance(value, bool):
            continue  # how it counts, and not what
        if isinstance(value, list):
            setattr(meter, name, _joined(group, value))
        else:
            setattr(meter, name, type(value)(sum(group.gather(value))))
    return meter


def _joined(group: Group, tensors: Sequence[Tensor]) -> list[Tensor]:
    heard = group.gather_tensors({f"{at:09d}": each for at, each in enumerate(tensors)})
    return in_turns([[each[name] for name in sorted(each)] for each in heard])
