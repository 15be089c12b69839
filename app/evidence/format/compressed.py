"""Weights in the form of compressed-tensors: 4-bit and 8-bit whole numbers packed into int32, beside their scales.

Of the forms that the package has, this is the one that is computed with as it is stored: `pack-quantized` weights,
without rounded activations. Small floats are decoded (`block_scaled`).
A weight is stored as `q_proj.weight_packed`, `weight_scale` and `weight_shape`; one that is not symmetric would have a
`weight_zero_point` as well, for whose packed form transformers lays out another shape.
"""

from collections.abc import Mapping
from typing import Any, Final

from app.evidence.format.block_scaled import FLOAT8, MXFP4_PACKED, NVFP4_PACKED, Decoding

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
_CACHE: Final = "kv_cache_scheme"
_PLAIN: Final = ("moe_sparsity_config", "sparsity_config", "transform_config")
_CURE: Final = "take a base in W4A16, W8A16 or FP8, or the plain weights"
#: Forms of small floats: bits of a code, and how many codes share a scale where the form leaves no choice.
_FLOATS: Final[Mapping[str, tuple[int, str | None, int | None]]] = {
    FLOAT8: (8, None, None),
    NVFP4_PACKED: (4, "tensor_group", 16),
    MXFP4_PACKED: (4, "group", 32),
}
_MOST_GROUPS: Final = 64
_STATUS: Final = ("compressed", "frozen")  # the second in models of 2024, whose codes are stored in the same way


class CompressedFormError(ValueError):
    """A form of the package that is not read, with what would work."""


def kind_of(value: Mapping[str, Any]) -> str | tuple[Decoding, ...]:
    """The kind ("int4", "int8") that a `quantization_config` describes, or how its small floats are decoded.

    Small floats of several groups of modules may differ. CompressedFormError for any other form.
    """
    unknown = sorted(str(key) for key in value if key not in _KNOWN)
    if unknown:
        raise CompressedFormError(f"unknown key {unknown[0]!r}: it may change how the weights are read; remove it")
    status = value.get("quantization_status")
    if status not in _STATUS or (status == "frozen" and value.get("format") != FLOAT8):
        raise CompressedFormError(f"quantization_status is {status!r}, and only weights that are 'compressed' are read")
    used = next((name for name in _PLAIN if value.get(name)), None)
    if used is not None:
        raise CompressedFormError(f"{used} is not read; {_CURE}")
    groups = value.get("config_groups")
    if not isinstance(groups, Mapping) or not 0 < len(groups) <= _MOST_GROUPS:
        raise CompressedFormError(f"config_groups has to have at least one group, {_MOST_GROUPS} at most; {_CURE}")
    kinds = [_of_group(group, value.get("format")) for group in groups.values()]
    decodings = tuple(dict.fromkeys(each for each in kinds if not isinstance(each, str)))
    if len(kinds) > 1 and len(decodings) < len(set(kinds)):
        raise CompressedFormError(f"one of several groups is {FORMAT}, which is read for all weights alone; {_CURE}")
    if not decodings and value.get(_CACHE):  # where weights are decoded, transformers does not look at it
        raise CompressedFormError(f"{_CACHE} is not read beside {FORMAT}; {_CURE}")
    return decodings or str(kinds[0])


def _of_group(group: Any, form: Any) -> str | Decoding:
    if not isinstance(group, Mapping) or not isinstance(group.get("weights"), Mapping):
        raise CompressedFormError(f"its group says nothing of weights; {_CURE}")
    form = group.get("format") or form
    if isinstance(form, str) and form in _FLOATS:
        return _of_floats(group, form)
    if form != FORMAT:
        raise CompressedFormError(f"the format {form!r} is not read, only {', '.join((FORMAT, *_FLOATS))}; {_CURE}")
    for what in ("input_activations", "output_activations"):
        if group.get(what) is not None:
            raise CompressedFormError(f"{what} are rounded too, and a rounded input has no gradient; {_CURE}")
    _refuse_other_targets(group)
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


def _of_floats(group: Mapping[str, Any], form: str) -> Decoding:
    """Small floats. Inputs may be rounded where such a base is served, which decoding leaves out."""
    _refuse_no_targets(group)
    weights, (bits, strategy, size) = group["weights"], _FLOATS[form]
    if group.get("output_activations") is not None:
        raise CompressedFormError(f"output_activations are rounded too, which is not read; {_CURE}")
    if weights.get("type") != "float" or weights.get("num_bits") != bits or weights.get("dynamic"):
        named = f"{weights.get('type')} of {weights.get('num_bits')} bits"
        raise CompressedFormError(f"weights are {named}, and those of {form} are float of {bits} bits")
    if weights.get("symmetric") is False or weights.get("actorder") is not None:
        raise CompressedFormError(f"its weights have zero points, or an order of their own, which is not read; {_CURE}")
    rounds = group.get("input_activations") is not None
    if strategy is None:
        return Decoding(form, block=_block(weights), rounds_inputs=rounds)
    if (weights.get("strategy"), weights.get("group_size")) != (strategy, size):
        named = f"{weights.get('strategy')} of {weights.get('group_size')}"
        raise CompressedFormError(f"scales of its weights are by {named}, and those of {form} by {strategy} of {size}")
    return Decoding(form, bits=bits, rounds_inputs=rounds)


def _block(weights: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Rows and columns that share a scale; None for all."""
    strategy, block = weights.get("strategy"), weights.get("block_structure")
    if strategy == "block" and isinstance(block, list) and len(block) == 2 and all(map(_is_size, block)):
        return block[0], block[1]
    if strategy not in ("tensor", "channel"):
        raise CompressedFormError(
            f"scales are by {strategy!r} of {block!r}; tensor, channel and block are read; {_CURE}"
        )
    return (None, None) if strategy == "tensor" else (1, None)


def _is_size(value: object) -> bool:
    return type(value) is int and 0 < value <= 1 << 16


def _refuse_other_targets(group: Mapping[str, Any]) -> None:
    if group.get("targets") != ["Linear"]:
        raise CompressedFormError(f"targets are {group.get('targets')!r}, and only ['Linear'] is read; {_CURE}")


def _refuse_no_targets(group: Mapping[str, Any]) -> None:
    """Names and patterns are not looked at where weights are decoded: the files say which of them are codes."""
    targets = group.get("targets")
    if not isinstance(targets, list) or not targets or not all(isinstance(each, str) for each in targets):
        raise CompressedFormError(f"targets are {targets!r}, and have to be names of modules or classes; {_CURE}")


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
