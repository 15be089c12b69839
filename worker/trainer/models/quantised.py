"""Bases that are stored quantised: checked before they are loaded, and loaded as they are stored.

The tensors of a quantised weight are frozen tensors like others. transformers decides by the names of modules which
weights are quantised; here the files decide, so that a head that they lack is never one of them.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.core_model_loading import WeightConverter
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from app.errors import ModelError
from app.evidence.format.block_scaled import beside
from app.evidence.format.compressed import CODES, COMPRESSED_TENSORS
from app.evidence.format.quantised import (
    BITSANDBYTES,
    Quantisation,
    QuantisationError,
    hole,
    is_scale,
    listed_plain,
    quantisation_of,
    quantised_weights,
)
from app.specs.models import TransformersSpec
from worker.trainer.freeze.quantised_parts import holds_codes, holds_scales, mark_made
from worker.trainer.models import adapter_targets, names

CODE = "quantised_model"
_KEY, _SKIPPED = "quantization_config", "llm_int8_skip_modules"
#: Options of `from_pretrained`: without a device, a quantised model goes to the first GPU.
OPTIONS = {"device_map": "cpu"}


def prepare(config: Any, auto: Any, codes: Mapping[str, str]) -> Quantisation | None:
    """How the base is quantised; None where it is not. `codes` are the dtypes of the stored tensors by name.

    The configuration gets a list of the modules that stay plain, where transformers would quantise others than the
    files do. ModelError where a part of a quantised weight is missing, or the package that reads it.
    """
    quantisation = described(config.to_dict())
    if quantisation is None:
        return None
    problem = hole(codes, quantisation)
    if problem is not None:
        raise ModelError(f"the model's files are not complete: {problem}", param="model", code="missing_tensors")
    if quantisation.decoded:
        _refuse_listed(quantisation, codes)
        return quantisation
    require_package(quantisation.method)
    if quantisation.method == COMPRESSED_TENSORS:
        _refuse_other_layers(config, auto, codes)
        config.quantization_config = {**_as_dict(config.quantization_config), "dequantize": False}
    else:
        _keep_plain(config, auto, codes)
    return quantisation


def at_load(spec: TransformersSpec, config: Any, auto: Any, codes: Mapping[str, str], dtype: torch.dtype) -> Any:
    """What transformers needs to quantise the plain base while it loads it.

    Quantised are the linear layers of the body whose weights the files hold, apart from those that are tied to an
    embedding: a head stays as it is. The arithmetic is in the base's own dtype.
    """
    require_package()
    with torch.device("meta"):
        model = auto.from_config(copy.deepcopy(config))
    body = adapter_targets.body_of(model)
    left_out = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    layers = [path for path, module in model.named_modules() if type(module) is nn.Linear or isinstance(module, Conv1D)]
    prefix = names.prefix_of(model)
    held = {path for path in layers if names.name_in_base(f"{path}.weight", prefix, codes) is not None}
    left_out += [path for path in layers if path not in held or not path.startswith(body)]
    options = (
        {"load_in_8bit": True} if spec.quantize == "int8" else {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    )
    return BitsAndBytesConfig(**options, bnb_4bit_compute_dtype=dtype, llm_int8_skip_modules=sorted(set(left_out)))


def described(content: Mapping[str, Any]) -> Quantisation | None:
    """What a `config.json` says of quantised weights. ModelError for a form that is not read."""
    try:
        return quantisation_of(content)
    except QuantisationError as error:
        raise ModelError(f"config.json has {error}", param="model", code=CODE) from None


def require_package(name: str = BITSANDBYTES) -> None:
    """Raises ModelError where the package of a quantised form is not installed."""
    if package(name) is None:
        message = (
            f"the base is quantised by {name}, which is not installed where the worker runs; install it there: "
            "pip install 'permafrost[quant]'"
        )
        raise ModelError(message, param="model", code="quantiser_missing")


def package(name: str = BITSANDBYTES) -> str | None:
    """A package that computes with quantised weights, with its version; None where it is not installed."""
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return None


def package_of(model: nn.Module) -> str | None:
    """The same, for a model with quantised weights; None for others."""
    if any(map(holds_scales, model.modules())):
        return package()
    return package(COMPRESSED_TENSORS) if any(map(holds_codes, model.modules())) else None


def plain(codes: Mapping[str, str]) -> dict[str, str]:
    """The dtypes of stored tensors without those of quantised weights, whose scales say nothing about the model."""
    weights = quantised_weights(codes)
    scales = {name for each in weights for name in beside(each, codes)}
    return {
        name: code for name, code in codes.items() if name not in weights and name not in scales and not is_scale(name)
    }


def settle(model: nn.Module, *, made: bool = False) -> None:
    """After loading: layers that keep their tensors as they are stored, and names that can be followed to the files.

    `made`: the weights were quantised while they were loaded.
    """
    if any(map(holds_codes, model.modules())):
        from worker.trainer.models.compressed_layers import replace_packed_layers  # imports the package

        replace_packed_layers(model)
        return
    from worker.trainer.models.bitsandbytes_layers import replace_layers  # imports the package

    replace_layers(model)
    for module in model.modules() if made else ():
        if holds_scales(module):
            mark_made(module)
    conversions = getattr(model, "_weight_conversions", None) or []
    # Loading joined a weight's tensors by a rule that has no reverse; what is saved here is not made by that rule.
    kept = [each for each in conversions if not (isinstance(each, WeightConverter) and _of_quantiser(each))]
    model._weight_conversions = kept  # type: ignore[assignment]


def _of_quantiser(converter: WeightConverter) -> bool:
    return any(type(each).__module__.endswith(f".{BITSANDBYTES}") for each in converter.operations)


def skeleton(auto: Any, config: Any) -> Any:
    """The same model without weights and not quantised, on the meta device."""
    unquantised = copy.deepcopy(config)
    del unquantised.quantization_config
    make = getattr(auto, "from_config", None) or auto._from_config  # of a class itself
    with torch.device("meta"):
        return make(unquantised)


def plain_class(auto: Any, config: Any) -> Any:
    """The model's own class, which loads from given tensors; `config` says no more that weights are quantised."""
    kind = type(skeleton(auto, config))
    del config.quantization_config
    return kind


def _keep_plain(config: Any, auto: Any, codes: Mapping[str, str]) -> None:
    """Lists the layers that the files do not hold quantised, where transformers would quantise one of them."""
    value = dict(_as_dict(config.quantization_config))
    model = skeleton(auto, config)
    layers = [path for path, module in model.named_modules() if type(module) is nn.Linear or isinstance(module, Conv1D)]
    stored = {path: names.name_in_base(f"{path}.weight", names.prefix_of(model), codes) for path in layers}
    weights = quantised_weights(codes)
    renamed = len(weights - set(filter(None, stored.values()))) > 0
    quantised = [path for path in layers if stored[path] in weights]
    stay = [path for path in layers if path not in quantised and not (renamed and stored[path] is None)]

    left_out = HfQuantizer.get_modules_to_not_convert(model, value.get(_SKIPPED), model._keep_in_fp32_modules)
    _refuse_left_out(quantised, left_out)
    more = [path for path in stay if should_convert_module(path, left_out)]
    if more:
        config.quantization_config = {**value, _SKIPPED: sorted({*left_out, *more})}
        _refuse_left_out(quantised, config.quantization_config[_SKIPPED])


def refuse_new_layers(model: nn.Module, new: Collection[str], method: str) -> None:
    """Raises ModelError for a linear layer among the `new` tensors of a loaded model, whose base was decoded."""
    layers = (path for path, module in model.named_modules() if isinstance(module, nn.Linear))
    _refuse_new((path for path in layers if f"{path}.weight" in new), method)


def _refuse_other_layers(config: Any, auto: Any, codes: Mapping[str, str]) -> None:
    """Raises ModelError where the model has a linear layer that the files have neither packed nor plain: a new head.

    Loaders go by the configuration, and would look for its codes.
    """
    model = skeleton(auto, config)
    prefix, ties = names.prefix_of(model), getattr(model, "all_tied_weights_keys", None) or {}
    layers = [path for path, module in model.named_modules() if type(module) is nn.Linear]
    held = {
        path
        for path in layers
        if f"{path}.weight" in ties
        or any(names.name_in_base(f"{path}.{leaf}", prefix, codes) is not None for leaf in (CODES, "weight"))
    }
    _refuse_new((path for path in layers if path not in held), COMPRESSED_TENSORS)


def _refuse_new(layers: Iterable[str], method: str) -> None:
    new = next(iter(layers), None)
    if new is not None:
        message = (
            f"the base's files have no {new!r}, a new layer: over a base of {method} adapters of tasks that need no "
            "new head are trained, such as causal-lm; take a base in NF4, or the plain weights"
        )
        raise ModelError(message, param="task", code=CODE)


def _refuse_listed(quantisation: Quantisation, codes: Mapping[str, str]) -> None:
    """Raises ModelError where the configuration lists a module as plain whose weight is stored as codes."""
    layers = sorted(name.rpartition(".")[0] for name in quantised_weights(codes))
    wrong = next(filter(listed_plain(quantisation), layers), None)
    if wrong is not None:
        key = "ignore" if quantisation.method == COMPRESSED_TENSORS else "modules_to_not_convert"
        message = (
            f"config.json lists {wrong!r} as stored plain ({key}), and its weight is stored as codes; correct the list"
        )
        raise ModelError(message, param="model", code=CODE)


def _refuse_left_out(quantised: list[str], left_out: list[str]) -> None:
    wrong = next((path for path in quantised if not should_convert_module(path, left_out)), None)
    if wrong is not None:
        message = (
            f"config.json leaves {wrong!r} out of what is quantised ({_SKIPPED}), and its weight is stored quantised; "
            "correct the list"
        )
        raise ModelError(message, param="model", code=CODE)


def _as_dict(value: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = value if isinstance(value, Mapping) else value.to_dict()
    return found
