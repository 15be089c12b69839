"""Lists a base model's tensors for every task that it can be loaded for, without reading its weights.

A row is a TensorInfo as JSON, without the fields that have their usual value, and two marks of a head: `initialised`
(the base's files do not hold it) and `labels` (its dimension 0 counts the classes).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from app.errors import ModelError
from app.freeze.plan import TensorInfo
from app.jsontypes import JsonDict
from app.specs.models import ModelSpec, TorchSpec, TransformersSpec
from worker.trainer.freeze.inventory import tensors
from worker.trainer.models import loading, pretrained

ManifestRows = list[JsonDict]

#: Key of the rows for the class that config.json names, or for the task that the model was registered with.
OWN = ""
#: Tasks whose rows are those of another.
_SAME = {"preference": "causal-lm", "text-regression": "text-classification", "text-ranking": "text-classification"}
_LABELLED = ("text-classification", "token-classification", "image-classification")
_USUAL = {"kind": "parameter", "aliases": [], "persistent": True}


def describe(spec: ModelSpec, folder: Path, *, task: str | None) -> ManifestRows | dict[str, ManifestRows | str]:
    """Rows by task, or the name of another task with the same ones; a torch model has one list of them.

    ModelError where the model cannot be built for `task`, or without one; tasks that it does not fit are left out.
    """
    if isinstance(spec, TorchSpec):
        return [_row(each) for each in tensors(loading.skeleton(spec))]
    codes = loading.dtype_codes(folder)
    found: dict[str, ManifestRows | str] = {}
    for each in pretrained.AUTO_CLASS:
        try:
            found[each] = _SAME.get(each) or _rows(spec, folder, each, codes)
        except ModelError:
            if each == task:
                raise
    found = {each: rows for each, rows in found.items() if isinstance(rows, list) or rows in found}
    if task in found:
        return found | {OWN: task}
    own = _rows(spec, folder, task, codes)
    return found | {OWN: next((each for each, rows in found.items() if rows == own), own)}


def _rows(spec: TransformersSpec, folder: Path, task: str | None, codes: dict[str, str]) -> ManifestRows:
    model, new, labels = pretrained.load_skeleton(spec, folder, task=task, codes=codes)
    infos = tensors(model)
    sized: set[str] = set()
    if task in _LABELLED:
        more = replace(spec, num_labels=labels + 1)
        sized = _larger(tensors(pretrained.load_skeleton(more, folder, task=task, codes=codes)[0]), infos)
    return [_row(each, initialised=each.name in new, labels=each.name in sized) for each in infos]


def _larger(more: list[TensorInfo], infos: list[TensorInfo]) -> set[str]:
    """Names of tensors that get one more row with one more class."""
    shapes = {each.name: each.shape for each in infos}
    return {
        each.name
        for each in more
        if each.shape and each.shape[1:] == shapes[each.name][1:] and each.shape[0] == shapes[each.name][0] + 1
    }


def _row(info: TensorInfo, *, initialised: bool = False, labels: bool = False) -> JsonDict:
    row = {key: value for key, value in info.to_json().items() if _USUAL.get(key) != value}
    return row | ({"initialised": True} if initialised else {}) | ({"labels": True} if labels else {})
