"""Weights in the form of compressed-tensors: 4-bit and 8-bit whole numbers packed into int32, beside their scales.

Of the forms that the package has, this is the one that is read: `pack-quantized` weights, without rounded activations.
A weight is stored as `q_proj.weight_packed`, `weight_scale` and `weight_shape`; one that is not symmetric would have a
`weight_zero_point` as well, for whose packed form transformers lays out another shape.
"""

from collections.abc import Mapping
from typing import Any, Final

COMPRESSED_TENSORS: Final = "compressed-tensors"
FORMAT: Final = "pack-quantized"
CODES: Final = "weight_packed"
BESIDE: Final = ("weight_scale", "weight_shape")
_KINDS: Final = {4: "int4", 8: "int8"}
_STRATEGIES: Final = ("tensor", "channel", "group")
_KNOWN: Final = frozenset(
    (
        *("quant_method", "config_groups", "format", "global_compression_ratio", "ignore", "kv_cache_scheme"),
        *("moe_sparsity_config", "quantization_status", "sparsity_config", "transform_config", "version"),
    )
)
_PLAIN: Final = ("kv_cache_scheme", "moe_sparsity_config", "sparsity_config", "transform_config")
_CURE: Final = "take a base whose weights alone are rounded (W4A16 or W8A16), or the plain weights"


class CompressedFormError(ValueError):
    """A form of the package that is not read, with what would work."""


def kind_of(value: Mapping[str, Any]) -> str:
    """The kind ("int4", "int8") that a `quantization_config` describes. CompressedFormError for any other form."""
    unknown = sorted(str(key) for key in value if key not in _KNOWN)
    if unknown:
        raise CompressedFormError(f"unknown key {unknown[0]!r}: it may change how the weights are read; remove it")
    if value.get("quantization_status") != "compressed":
        status = value.get("quantization_status")
        raise CompressedFormError(f"quantization_status is {status!r}, and only weights that are 'compressed' are read")
    used = next((name for name in _PLAIN if value.get(name)), None)
    if used is not None:
        raise CompressedFormError(f"{used} is not read; {_CURE}")
    groups = value.get("config_groups")
    if not isinstance(groups, Mapping) or len(groups) != 1:
        raise CompressedFormError(f"config_groups has to have one group, for all weights; {_CURE}")
    return _of_group(next(iter(groups.values())), value.get("format"))


def _of_group(group: Any, form: Any) -> str:
    if not isinstance(group, Mapping) or not isinstance(group.get("weights"), Mapping):
        raise CompressedFormError(f"its group says nothing of weights; {_CURE}")
    form = group.get("format") or form
    if form != FORMAT:
        raise CompressedFormError(f"the format {form!r} is not read, only {FORMAT!r}; {_CURE}")
    for what in ("input_activations", "output_activations"):
        if group.get(what) is not None:
            raise CompressedFormError(f"{what} are rounded too, and a rounded input has no gradient; {_CURE}")
    if group.get("targets") != ["Linear"]:
        raise CompressedFormError(f"targets are {group.get('targets')!r}, and only ['Linear'] is read; {_CURE}")
    weights = group["weights"]
    kind = _KINDS.get(weights.get("num_bits")) if weights.get("type") == "int" else None
    if kind is None or weights.get("strategy") not in _STRATEGIES or weights.get("dynamic"):
        named = f"{weights.get('type')} of {weights.get('num_bits')} bits by {weights.get('strategy')}"
        raise CompressedFormError(f"weights are {named}; int of 4 or 8 bits by {', '.join(_STRATEGIES)} are read")
    if weights.get("actorder") not in (None, "static", "weight"):
        raise CompressedFormError(f"actorder {weights.get('actorder')!r} is not read; {_CURE}")
    if weights.get("symmetric") is False:
        raise CompressedFormError(
            "its weights have zero points (symmetric: false), which transformers does not load as they are packed; "
            "take a symmetric form (W4A16 or W8A16), or the plain weights"
        )
    return kind


def hole(dtypes: Mapping[str, str]) -> str | None:
    """The first weight without all that it consists of, in words; None where each is complete."""
    codes = sorted(name for name in dtypes if is_codes(name))
    for name in codes:
        module = name.removesuffix(CODES)
        if dtypes[name] != "I32":
            return f"{name!r} is stored as {dtypes[name]}, and packed codes are I32"
        lacking = next((leaf for leaf in BESIDE if f"{module}{leaf}" not in dtypes), None)
        if lacking is not None:
            return f"the quantised weight {name!r} is stored without {module}{lacking}"
    alone = sorted(name for name in dtypes if is_beside(name) and f"{_module(name)}{CODES}" not in dtypes)
    if alone:
        return f"{alone[0]} is stored, and the weight '{_module(alone[0])}{CODES}' is not"
    return None if codes else "config.json says that weights are packed, and none is stored so"


def is_codes(name: str) -> bool:
    """Whether a stored tensor is the packed codes of a weight, by its name."""
    return name.rpartition(".")[2] == CODES


def plain_of(codes: str) -> str:
    """The name that the weight has which packed codes stand for."""
    return f"{_module(codes)}weight"


def is_beside(name: str) -> bool:
    """Whether a stored tensor belongs to packed codes, by its name."""
    return name.rpartition(".")[2] in BESIDE


def _module(name: str) -> str:
    return name[: len(name) - len(name.rpartition(".")[2])]
