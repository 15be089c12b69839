"""Weights in small floats with a scale for each block, as DeepSeek, Qwen and others publish them.

`q_proj.weight` has codes in float8 (e4m3fn), and `q_proj.weight_scale_inv` a scale for each block of 128 by 128 of
them: the weight is codes times scales. Most devices compute with that product in 16 bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

FP8: Final = "fp8"
SCALE: Final = "weight_scale_inv"
#: The dtype of codes, and those that publishers give to scales.
CODES: Final = "F8_E4M3"
SCALES: Final = ("F32", "BF16")
_KNOWN: Final = frozenset(
    (
        *("quant_method", "activation_scheme", "weight_block_size", "modules_to_not_convert", "modules_to_convert"),
        *("fmt", "scale_fmt", "expert_dtype", "dequantize"),
    )
)
#: Values of options that leave the form as it is described above.
_PLAIN: Final[Mapping[str, tuple[object, ...]]] = {
    "activation_scheme": (None, "dynamic"),
    "fmt": (None, "e4m3"),
    "scale_fmt": (None, "float", "ue8m0"),  # the second: scales that are powers of two, stored as floats
    "expert_dtype": (None, "fp8"),
    "dequantize": (None, False),
    "modules_to_convert": (None, []),
}
_LARGEST: Final = 1 << 16
_CURE: Final = "take a base in float8 with a scale for each block and without static activations, or the plain weights"


class BlockFormError(ValueError):
    """A form with block scales that is not read, with what would work."""


@dataclass(frozen=True, slots=True)
class BlockForm:
    """Rows and columns of a block, and the value of the list of modules that stay plain."""

    block: tuple[int, int]
    skipped: Any


def form_of(value: Mapping[str, Any]) -> BlockForm:
    """The form that a `quantization_config` of method "fp8" describes. BlockFormError for any other."""
    unknown = sorted(str(key) for key in value if key not in _KNOWN)
    if unknown:
        raise BlockFormError(f"unknown key {unknown[0]!r}: it may change how the weights are read; remove it")
    for key, plain in _PLAIN.items():
        if value.get(key) not in plain:
            raise BlockFormError(f"{key} is {value[key]!r}, which is not read; {_CURE}")
    block = value.get("weight_block_size")
    if not isinstance(block, list) or len(block) != 2 or not all(map(_is_size, block)):
        raise BlockFormError(f"weight_block_size is {block!r}, and has to be rows and columns of a block; {_CURE}")
    return BlockForm((block[0], block[1]), value.get("modules_to_not_convert"))


def _is_size(value: object) -> bool:
    return type(value) is int and 0 < value <= _LARGEST


def hole(dtypes: Mapping[str, str]) -> str | None:
    """The first weight without all that it consists of, in words; None where each is complete."""
    odd = next((name for name in sorted(dtypes) if dtypes[name].startswith("F8") and not is_codes(name, dtypes)), None)
    if odd is not None:
        return f"{odd!r} is stored as {dtypes[odd]}, and only weights of layers are read so, as {CODES}"
    codes = sorted(name for name in dtypes if is_codes(name, dtypes))
    for name in codes:
        scale = scale_of(name)
        if scale not in dtypes:
            return f"the quantised weight {name!r} is stored without {scale}"
        if dtypes[scale] not in SCALES:
            return f"{scale!r} is stored as {dtypes[scale]}, and scales are {' or '.join(SCALES)}"
    alone = sorted(name for name in dtypes if is_beside(name) and not is_codes(_weight_of(name), dtypes))
    if alone:
        return f"{alone[0]} is stored, and the weight {_weight_of(alone[0])!r} is not, as {CODES}"
    return None if codes else "config.json says that weights are in float8, and none is stored so"


def is_codes(name: str, dtypes: Mapping[str, str]) -> bool:
    """Whether a stored tensor is the codes of a weight, by its name and dtype."""
    return dtypes.get(name) == CODES and name.rpartition(".")[2] == "weight"


def is_beside(name: str) -> bool:
    """Whether a stored tensor is the scales of codes, by its name."""
    return name.rpartition(".")[2] == SCALE


def is_coded(dtype: str) -> bool:
    """Whether a stored tensor of this dtype is codes that are decoded for the computation."""
    return dtype == CODES


def scale_of(weight: str) -> str:
    """The name of the scales beside codes."""
    return f"{weight.removesuffix('weight')}{SCALE}"


def _weight_of(scale: str) -> str:
    return f"{scale.removesuffix(SCALE)}weight"
