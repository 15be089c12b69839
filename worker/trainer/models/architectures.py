"""Plain torch models by name: ours, and those that packages register under `permafrost.architectures`."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from app.errors import ModelError

GROUP = "permafrost.architectures"


def build(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """Builds the architecture `name` with `kwargs`. ModelError where either does not fit."""
    architecture = find(name)
    try:
        inspect.signature(architecture).bind(**kwargs)
    except TypeError as error:
        wanted = inspect.signature(architecture)
        message = f"architecture {name!r} does not take these kwargs: {error}; it takes {wanted}"
        raise ModelError(message, param="model.kwargs") from None
    try:
        model = architecture(**kwargs)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"architecture {name!r} refused its kwargs: {error}", param="model.kwargs") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"architecture {name!r} made a {type(model).__name__}, not a torch module", param="model")
    _refuse_lazy(name, model)
    return model


def _refuse_lazy(name: str, model: nn.Module) -> None:
    """Raises ModelError for a lazy tensor: before its first pass it has no shape and no bytes to freeze."""
    for path, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            message = (
                f"architecture {name!r} has a lazy tensor, {path!r}, whose shape is not known before the first "
                "pass; give the sizes (nn.Linear instead of nn.LazyLinear)"
            )
            raise ModelError(message, param="model.architecture")


def find(name: str) -> Callable[..., nn.Module]:
    """The constructor of an architecture; ours come first. ModelError suggests the nearest name."""
    if name in OURS:
        return OURS[name]
    installed = {each.name: each for each in entry_points(group=GROUP)}
    if name in installed:
        architecture: Callable[..., nn.Module] = installed[name].load()
        return architecture
    known = sorted({*OURS, *installed})
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    raise ModelError(f"unknown architecture {name!r}; {hint}", param="model.architecture")


class Affine(nn.Module):
    """`x @ weight + bias`, both custom parameters: the smallest model that can be partly frozen.

    weight is (in_features, out_features), bias (out_features,).
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        _positive(in_features=in_features, out_features=out_features)
        self.weight = nn.Parameter(torch.randn(in_features, out_features) / in_features**0.5)
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


def mlp(in_features: int, out_features: int, hidden: Sequence[int] = (64, 64), dropout: float = 0.0) -> nn.Module:
    """Linear layers with ReLU between them: names `0.weight`, `0.bias`, ..."""
    _positive(in_features=in_features, out_features=out_features, **{f"hidden[{i}]": n for i, n in enumerate(hidden)})
    widths = [in_features, *hidden]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], out_features))


def convnet(in_channels: int = 3, num_classes: int = 10, widths: Sequence[int] = (16, 32, 64)) -> nn.Module:
    """Convolution, BatchNorm, ReLU, halving at each width; then a mean over the picture and a linear head.

    Takes (batch, in_channels, height, width), height and width at least 2 ** len(widths).
    """
    _positive(in_channels=in_channels, num_classes=num_classes, **{f"widths[{i}]": n for i, n in enumerate(widths)})
    channels = [in_channels, *widths]
    blocks = [_convolution(before, after) for before, after in pairwise(channels)]
    return Convnet(nn.Sequential(*blocks), nn.Linear(channels[-1], num_classes))


class Convnet(nn.Module):
    """Convolutional features, a mean over the picture, and a linear head."""

    def __init__(self, features: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.features(x).mean(dim=(2, 3))
        logits: Tensor = self.head(pooled)
        return logits


OURS: dict[str, Callable[..., nn.Module]] = {"affine": Affine, "mlp": mlp, "convnet": convnet}


def _convolution(before: int, after: int) -> nn.Module:
    convolution = nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2))


def _positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ValueError(f"{name} is {number!r}, and must be a whole number of at least 1")
