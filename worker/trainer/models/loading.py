"""Builds a live model from a model spec and base files, with the bytes as they are stored."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from app.errors import ModelError
from app.evidence.format.digest import TensorReading, read_file
from app.evidence.format.modules import files_in, within
from app.evidence.format.tensorfile import TensorFileError
from app.freeze.plan import TensorInfo
from app.specs.adapters import AdapterSpec
from app.specs.models import ModelSpec, TorchSpec
from worker.protocol import Workspace
from worker.trainer.freeze.inventory import tensors
from worker.trainer.models import adapters, architectures, completeness, pointers, pretrained, sentence, stored_dtypes
from worker.trainer.models.sentence import SentenceHead


@dataclass(frozen=True, slots=True)
class Loaded:
    """A live model with its tokenizer or processor, and the readings of the base's tensors by name."""

    model: nn.Module
    base: Mapping[str, TensorReading]
    tokenizer: Any = None
    processor: Any = None
    new: frozenset[str] = frozenset()  # live names that the base lacks: initialised from the seed
    adapter: AdapterSpec | None = None  # with one, `model` is a PeftModel
    plain: tuple[TensorInfo, ...] = ()  # the tensors without the adapter
    grown: Mapping[str, int] = field(default_factory=dict)  # live names with new rows: how many the base has
    merged: Collection[str] = ()  # live names that an adapter was merged into
    notes: tuple[str, ...] = field(default=())
    mixed: bool = False  # several float dtypes, each as stored
    sentence: SentenceHead | None = None  # of a sentence-transformers folder: what makes one vector of a text


def load(spec: ModelSpec, folder: Path, *, task: str, labels: Sequence[str] | None, seed: int) -> Loaded:
    """Loads the model of `spec` from base files in `folder`. `labels` size and name a classifier's head."""
    if not isinstance(spec, TorchSpec):
        completeness.check_files(folder)
    base = read_base(folder)
    if isinstance(spec, TorchSpec):
        return Loaded(model=_torch_model(spec, folder), base=base)
    codes = dtype_codes(folder)
    read = stored_dtypes.reader(weight_files(folder))
    loaded = pretrained.load(spec, folder, task=task, labels=labels, seed=seed, codes=codes, read=read)
    model, new = loaded.model, loaded.new
    plain: tuple[TensorInfo, ...] = ()
    notes = [*loaded.notes]
    head = sentence.attach(model, folder) if task == "pairs" else None
    if spec.adapter:
        plain = tuple(tensors(model))
        model = adapters.wrap(model, spec.adapter, task=task, seed=seed, new=new, notes=notes)
        new = frozenset(adapters.live_name(model, name) for name in new)
        if spec.adapter.start:
            adapters.load_weights(model, new, Workspace(folder.parent).adapter)
    return Loaded(
        model=model,
        base=base,
        tokenizer=loaded.tokenizer,
        processor=loaded.processor,
        new=new,
        adapter=spec.adapter,
        plain=plain,
        grown=loaded.grown,
        notes=tuple(notes),
        mixed=loaded.mixed,
        sentence=head,
    )


def skeleton(spec: TorchSpec) -> nn.Module:
    """A torch model on the meta device: names and shapes without weights."""
    with torch.device("meta"):
        return architectures.build(spec.architecture, spec.kwargs or {})


def initialise(spec: TorchSpec, *, seed: int) -> dict[str, torch.Tensor]:
    """Initial weights for a torch spec without a weights file, from the seed alone.

    ModelError names a tensor that safetensors cannot hold, such as a sparse buffer.
    """
    torch.manual_seed(seed)
    model = architectures.build(spec.architecture, spec.kwargs or {})
    for name, tensor in model.state_dict().items():
        if tensor.layout is not torch.strided:
            message = (
                f"'{name}' has the layout {tensor.layout}, and safetensors holds dense tensors only; register the "
                "buffer with persistent=False, or make it dense"
            )
            raise ModelError(message, param="model.architecture")
    return {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}


def read_base(folder: Path) -> dict[str, TensorReading]:
    """Readings of every tensor of the safetensors files in `folder`. ModelError for a name in two files.

    Tensors of the modules of a sentence-transformers folder are called after the module's folder.
    """
    tensors: dict[str, TensorReading] = {}
    inside = [folder / name for name in files_in(folder) if name.endswith(".safetensors")]
    for path in [*weight_files(folder), *inside]:
        try:
            reading = read_file(path)
        except TensorFileError as error:
            raise ModelError(f"{path.name} is not a sound safetensors file: {error}", param="model") from error
        for each in within(reading, str(path.relative_to(folder))).tensors:
            if each.name in tensors:
                message = (
                    f"tensor {each.name!r} is in two of the model's files, one of them {path.name}; where they are two "
                    "variants of the same weights, keep one of them"
                )
                raise ModelError(message, param="model")
            tensors[each.name] = each
    return tensors


def dtype_codes(folder: Path) -> dict[str, str]:
    """The dtype of every tensor in the safetensors files in `folder`, from their headers alone."""
    codes: dict[str, str] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="numpy") as file:
                codes |= {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - no mapping
        except SafetensorError as error:
            raise ModelError(f"{path.name} is not a sound safetensors file: {error}", param="model") from error
    return codes


def name_not_finite(folder: Path) -> tuple[str, str] | None:
    """The first tensor in the base's files that holds a NaN, or a weight or bias that is infinite; and which it is.

    Other tensors, such as masks, may be infinite.
    """
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in map(str, file.keys()):
                tensor = file.get_tensor(name)
                if tensor.is_floating_point() and tensor.element_size() == 1:
                    tensor = tensor.float()  # torch asks no small float whether it is a number
                if tensor.is_floating_point() and tensor.isnan().any():
                    return name, "NaN"
                if tensor.is_floating_point() and name.endswith(("weight", "bias")) and tensor.isinf().any():
                    return name, "infinite values"
    return None


def weight_files(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise ModelError("the model's folder has no .safetensors file; other formats are not read", param="model")
    for path in paths:
        pointers.refuse(path)
    return paths


def _torch_model(spec: TorchSpec, folder: Path) -> nn.Module:
    model = architectures.build(spec.architecture, spec.kwargs or {})
    stored = {name: tensor for path in weight_files(folder) for name, tensor in load_file(path).items()}
    live = model.state_dict(keep_vars=True)
    _compare(stored, live)
    with torch.no_grad():
        for name, tensor in stored.items():
            target = live[name]
            if target.dtype != tensor.dtype:  # keep the stored dtype: a cast would not be the same bytes
                target.data = torch.empty_like(target, dtype=tensor.dtype)
            target.copy_(tensor)
    return model


def _compare(stored: Mapping[str, torch.Tensor], live: Mapping[str, torch.Tensor]) -> None:
    """Raise ModelError unless the file has exactly the model's tensors. A tie may be stored under one of its names."""
    extra = sorted(set(stored) - set(live))
    held = {id(live[name]) for name in stored if name in live}
    missing = sorted(name for name, tensor in live.items() if name not in stored and id(tensor) not in held)
    if extra or missing:
        near = {name: close[0] for name in extra if (close := difflib.get_close_matches(name, missing, n=1))}
        hint = "".join(f"; is {name!r} meant to be {other!r}?" for name, other in list(near.items())[:3])
        raise ModelError(
            f"the weights do not fit the architecture: missing {_some(missing)}, not in the model {_some(extra)}{hint}",
            param="model.weights",
        )
    for name, tensor in stored.items():
        if tuple(tensor.shape) != tuple(live[name].shape):
            message = f"tensor {name!r} is {tuple(tensor.shape)} in the file and {tuple(live[name].shape)} in the model"
            raise ModelError(message, param="model.weights")


def _some(names: list[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "") or "none"
