"""The three names of a tensor: in the live model, in the base files and in the result.

A classifier over a plain encoder saves `bert.x` for the base's `x`, and transformers fuses some stored tensors while
loading. Names propose which tensors belong together; equal bytes decide.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from app.evidence.format.block_scaled import codes_of
from app.evidence.format.digest import TensorReading
from app.freeze.implied import is_of_adapter
from app.freeze.plan import TensorInfo
from worker.trainer.models import adapters

RowRange = tuple[int, int]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as the result file holds it, and the name of the live tensor that it comes from.

    A `part` is a piece of that live tensor: `rows` of it, with all dimensions but the last taken as one; or, where
    `rows` is None, a piece that is not a range of rows. `live` is "" where it is made of several live tensors.
    Not `saved` are tensors of the base's files alone: the frozen base of an adapter.
    """

    name: str
    tensor: Tensor
    live: str
    part: bool = False
    rows: tuple[int, int] | None = None
    saved: bool = True


def stored_form(
    model: nn.Module, inventory: Sequence[TensorInfo], *, base: Mapping[str, TensorReading], new: Collection[str] = ()
) -> list[StoredTensor]:
    """Every tensor of the result file, under the names that `from_pretrained` or `load_state_dict` expects.

    A tie is stored under each name that the base stores it under with the same bytes, so that code that reads the base
    by such a name finds it in the result. A tie that the base lacks is stored once, under the tensor's own name.
    """
    if isinstance(model, PeftModel):
        return _with_adapter(model, inventory, new)
    state, prefix = model.state_dict(), prefix_of(model)
    kept, owner = {}, {}
    for each in inventory:
        names = [name for name in (each.name, *each.aliases) if name in state]
        for name in _names_in_file(names, prefix, base):
            kept[name], owner[name] = state[name], each.name
    if not isinstance(model, PreTrainedModel):
        return [StoredTensor(name, tensor, owner[name]) for name, tensor in kept.items()]
    return _as_saved(model, kept, owner)


def match(
    stored: Sequence[StoredTensor],
    digests: Mapping[str, str],
    base: Mapping[str, TensorReading],
    *,
    prefix: str,
    new: Collection[str] = (),
    grown: Mapping[str, str] | None = None,
    made: Collection[str] = (),
) -> dict[str, str]:
    """Result name to base name, for every stored tensor that has a base tensor. `digests` are of the loaded bytes;
    `grown`, by live name, of the base's rows in tensors that have more. Those that loading `made` of the base's, by
    quantising, have other bytes and another shape, and belong together by their names.

    Those that are `new` (live names) have none, though their bytes may be somewhere in the base: zeros often are.

    First by name where the bytes agree, then by bytes alone where exactly one base tensor is left with them, then by
    name and shape where the bytes do not agree (a cast while loading: never identical, but the same weight).
    """
    found: dict[str, str] = {}
    stored = [each for each in stored if each.live not in new and not is_of_adapter(each.live)]
    for each in stored:
        name = name_in_base(each.name, prefix, base)
        equal = name is not None and base[name].sha256 == (grown or {}).get(each.live, digests[each.name])
        if name is not None and (equal or each.live in made):
            found[each.name] = name
    taken = set(found.values())
    left: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for name, reading in base.items():
        if name not in taken:
            left.setdefault((reading.sha256, reading.shape), []).append(name)
    for each in stored:
        if each.name in found:
            continue
        same = left.get((digests[each.name], tuple(each.tensor.shape)), [])
        name = same[0] if len(same) == 1 else name_in_base(each.name, prefix, base)
        if name is not None and name not in taken and base[name].shape == tuple(each.tensor.shape):
            found[each.name] = name
            taken.add(name)
    return found


def prefix_of(model: nn.Module) -> str:
    """The prefix that transformers gives to an encoder's names inside a model with a head, such as `bert`."""
    return str(getattr(model, "base_model_prefix", "") or "")


def _names_in_file(names: Sequence[str], prefix: str, base: Mapping[str, TensorReading]) -> list[str]:
    known = {name: base[found] for name in names if (found := name_in_base(name, prefix, base)) is not None}
    first = next(iter(known.values()), None)
    if first is None:
        return list(names[:1])
    alike = {each.name: name for name, each in reversed(known.items()) if each.sha256 == first.sha256}
    return sorted(alike.values(), key=names.index)


def _with_adapter(model: PeftModel, inventory: Sequence[TensorInfo], new: Collection[str]) -> list[StoredTensor]:
    state = model.state_dict()
    live = {tensor.data_ptr(): name for name, tensor in state.items()}
    adapter = adapters.adapter_state(model, new)
    found = [StoredTensor(name, tensor, live[tensor.data_ptr()]) for name, tensor in adapter.items()]
    mine = {each.live for each in found}
    rest = {
        adapters.plain_name(model, each.name): each.name
        for each in inventory
        if each.name not in mine and each.persistent
    }
    kept = {plain: state[name] for plain, name in rest.items() if name in state}
    plain: Any = model.get_base_model()
    return found + [replace(each, saved=False) for each in _as_saved(plain, kept, rest)]


def _as_saved(model: PreTrainedModel, kept: Mapping[str, Tensor], owner: Mapping[str, str]) -> list[StoredTensor]:
    """Tensors under the names and in the pieces that transformers saves: it reverts what it converted while loading.

    To see which rows each piece consists of, the conversion is reverted on row numbers in place of rows:

        live  experts (2 experts of 2 rows)   numbers [[0, 1], [2, 3]]
        saved experts.0 [0, 1] -> rows 0:2,   experts.1 [2, 3] -> rows 2:4

    They come in the order of `kept`, in which a tie's own name is before its aliases; transformers sorts by saved name.
    """
    numbers, starts = _numbered(kept)
    names, remade = list(kept), None
    whole = {id(each): at for at, each in enumerate(numbers.values())}
    saved: list[tuple[int, StoredTensor]] = []

    for name, came in revert_weight_conversion(model, dict(numbers)).items():
        at = whole.get(id(came))
        if at is not None:
            saved.append((at, StoredTensor(name, kept[names[at]], owner[names[at]])))
            continue

        at = bisect_right(starts, int(came.reshape(-1)[0])) - 1
        tensor, rows = kept[names[at]], _rows(came - starts[at], numbers[names[at]])
        if rows is None:
            remade = revert_weight_conversion(model, dict(kept)) if remade is None else remade
            saved.append((at, StoredTensor(name, remade[name], "", part=True)))
            continue

        piece = _by_rows(tensor)[slice(*rows)]
        piece = piece.reshape(*came.shape[:-1], tensor.shape[-1]) if tensor.dim() > 1 else piece
        saved.append((at, StoredTensor(name, piece, owner[names[at]], part=True, rows=rows)))

    return [stored for _, stored in sorted(saved, key=lambda item: item[0])]


def _numbered(kept: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[int]]:
    """Consecutive numbers for the rows of all tensors, in their shapes; and the first number of each tensor.

    Whole numbers, such as the codes of a quantised weight, are never taken apart: they stand for themselves, since a
    column of codes would have a number of 8 bytes for each.
    """
    numbers, starts, at = {}, [], 0
    for name, tensor in kept.items():
        shape = (*tensor.shape[:-1], 1) if tensor.dim() > 1 else tensor.shape
        count = math.prod(shape) if tensor.numel() and tensor.is_floating_point() else 0
        numbers[name] = torch.arange(at, at + math.prod(shape)).reshape(shape) if count else tensor
        starts.append(at)
        at += count
    return numbers, starts


def _rows(came: Tensor, whole: Tensor) -> RowRange | None:
    """The range of rows that `came` consists of; None where it is not a range of entire rows in their order."""
    first, count = int(came.reshape(-1)[0]), came.numel()
    entire = whole.dim() < 2 or came.shape[-1:] == (1,)
    ordered = torch.equal(came.reshape(-1), torch.arange(first, first + count))
    return (first, first + count) if entire and ordered and first + count <= whole.numel() else None


def _by_rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1]) if tensor.dim() > 1 else tensor


def name_in_base(name: str, prefix: str, base: Mapping[str, Any]) -> str | None:
    """The name of a result's tensor in the base's files, which may have or lack the prefix of the body.

    Where they hold its codes alone, that is the name of these.
    """
    for candidate in (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}"):
        for stored in (candidate, *codes_of(candidate)):
            if stored in base:
                return stored
    return None
