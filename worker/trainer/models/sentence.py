"""The modules that follow the transformer of a sentence-transformers folder: pooling, dense layers, normalisation.

They are part of the model for the task `pairs`, in which dense layers are trained or frozen by the policy.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from app.errors import ModelError
from app.evidence.format import modules
from app.evidence.format.modules import SentenceModule
from worker.trainer.models import configs

#: How the vectors of a text's tokens become one, by sentence-transformers' names, with the flags that all of its
#: versions read.
POOLINGS = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens", "lasttoken": "pooling_mode_lasttoken"}
OTHER_POOLINGS = {
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
}
ACTIVATIONS = {
    f"torch.nn.modules.{module}.{kind.__name__}": kind
    for module, kinds in {
        "activation": (nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid),
        "linear": (nn.Identity,),
    }.items()
    for kind in kinds
}
_SENTENCE, _OUTPUT = "sentence_embedding", "module_output_name"


class SentenceDense(nn.Module):
    """A dense layer as sentence-transformers has it: a linear map and an activation, of a whole text's vector."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool, activation: type[nn.Module]) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        self.activation = activation()

    def to_json(self) -> dict[str, Any]:
        """The layer's configuration."""
        kind = type(self.activation)
        return {
            "in_features": self.linear.in_features,
            "out_features": self.linear.out_features,
            "bias": self.linear.bias is not None,
            "activation_function": f"{kind.__module__}.{kind.__name__}",
        }

    def forward(self, vectors: Tensor) -> Tensor:
        """(texts, in_features) to (texts, out_features)."""
        mapped: Tensor = self.activation(self.linear(vectors.to(self.linear.weight.dtype)))
        return mapped


@dataclass(frozen=True, slots=True)
class SentenceHead:
    """What turns the vectors of tokens into one vector for each text. `files` are the configurations in the result."""

    pooling: str
    steps: tuple[Callable[[Tensor], Tensor], ...]
    files: Mapping[str, Any]

    def __call__(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(texts, width, features) and (texts, width) to (texts, dimensions)."""
        vectors = pool(hidden, mask, self.pooling)
        for step in self.steps:
            vectors = step(vectors)
        return vectors


def pool(hidden: Tensor, mask: Tensor, how: str) -> Tensor:
    """The first or the last real token's vector, or the mean over real tokens, wherever the padding is."""
    real = mask.to(hidden.dtype).unsqueeze(-1)
    if how == "mean":
        return (hidden * real).sum(dim=1) / real.sum(dim=1).clamp_min(1.0)
    width = mask.shape[1]
    at = mask.int().argmax(dim=1) if how == "cls" else width - 1 - mask.int().flip(1).argmax(dim=1)
    return hidden[torch.arange(len(hidden), device=hidden.device), at]


def listed(folder: Path) -> tuple[SentenceModule, ...]:
    """The modules of the folder; none where it is a plain transformers folder. ModelError for others than supported."""
    path = folder / modules.MODULES
    if not path.is_file():
        return ()
    try:
        return modules.parse(json.loads(path.read_bytes()))
    except (ValueError, RecursionError) as error:
        message = f"{path.name} of this sentence-transformers model cannot be followed: {error}"
        raise ModelError(message, param="model", code="unsupported_model") from None


def attach(model: Any, folder: Path, *, device: str | None = None) -> SentenceHead | None:
    """Adds the folder's dense layers to `model`, as submodules called after their folders, with the stored weights.

    Returns what is done with the model's hidden states; None for a plain transformers folder. On the device "meta" no
    weights are read. Raises ModelError for a module that is not supported.
    """
    found = listed(folder)
    if not found:
        return None

    steps: list[Callable[[Tensor], Tensor]] = []
    files: dict[str, Any] = {modules.MODULES: [module.to_json(at) for at, module in enumerate(found)]}
    pooling = "mean"
    for module in found:
        if module.kind == "Pooling":
            pooling = _pooling(folder, module)
            files[f"{module.path}/{modules.CONFIG}"] = {
                "word_embedding_dimension": model.config.hidden_size,
                **{flag: mode == pooling for mode, flag in (POOLINGS | OTHER_POOLINGS).items()},
                "include_prompt": bool(_read(folder, module).get("include_prompt", True)),
            }
        elif module.kind == "Dense":
            dense = _dense(folder, module, device)
            model.add_module(module.path, dense)
            steps.append(dense)
            files[f"{module.path}/{modules.CONFIG}"] = dense.to_json()
        elif module.kind == "Normalize":
            steps.append(_normalise)
    return SentenceHead(pooling, tuple(steps), files)


def _normalise(vectors: Tensor) -> Tensor:
    return F.normalize(vectors, dim=-1)


def _read(folder: Path, module: SentenceModule) -> dict[str, Any]:
    path = folder / module.path / modules.CONFIG
    if not path.is_file():
        message = (
            f"{modules.MODULES} names {module.path!r}, and the model's folder has no {module.path}/{modules.CONFIG}"
        )
        raise ModelError(message, param="model")
    return dict(configs.read(path))


def _pooling(folder: Path, module: SentenceModule) -> str:
    """The one way in which the module pools. ModelError for another than the supported ones, and for several."""
    content = _read(folder, module)
    modes = content.get("pooling_mode")
    if modes is None:
        flags = POOLINGS | OTHER_POOLINGS
        modes = [mode for mode, flag in flags.items() if content.get(flag)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else list(modes)
    if len(modes) != 1 or modes[0] not in POOLINGS:
        message = f"{module.path} pools by {' and '.join(map(str, modes))}; one of {', '.join(POOLINGS)} is supported"
        raise ModelError(message, param="model", code="unsupported_model")
    return str(modes[0])


def _dense(folder: Path, module: SentenceModule, device: str | None) -> SentenceDense:
    """The layer with its stored weights, in their dtype; on the meta device only with their shapes."""
    content = _read(folder, module)
    activation = ACTIVATIONS.get(str(content.get("activation_function", "torch.nn.modules.activation.Tanh")))
    inner = {content.get("module_input_name", _SENTENCE), content.get(_OUTPUT) or _SENTENCE}
    if activation is None or content.get("use_residual") or inner != {_SENTENCE}:
        known = ", ".join(kind.__name__ for kind in ACTIVATIONS.values())
        message = (
            f"{module.path} is not a dense layer that is supported: one of a text's vector, without a residual, and "
            f"with one of the activations {known}"
        )
        raise ModelError(message, param="model", code="unsupported_model")

    path = folder / module.path / modules.WEIGHTS
    if not path.is_file():
        message = f"the model's folder has no {module.path}/{modules.WEIGHTS}; other formats of weights are not read"
        raise ModelError(message, param="model")
    try:
        with torch.device("meta"):
            dense = SentenceDense(
                int(content["in_features"]),
                int(content["out_features"]),
                bias=bool(content.get("bias", True)),
                activation=activation,
            )
        with safe_open(path, framework="pt") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        dense.load_state_dict({name: tensor.to(device or "cpu") for name, tensor in stored.items()}, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        message = f"{module.path} of this sentence-transformers model cannot be read: {error}"
        raise ModelError(message, param="model") from error
    return dense
