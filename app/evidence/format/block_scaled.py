"""Weights in small floats with a scale for each block, as they are published; most devices compute with plain ones.

    fp8    `q_proj.weight` in float8 (e4m3fn), `q_proj.weight_scale_inv`: a scale for each block of 128 by 128
    mxfp4  `experts.down_proj_blocks`, two codes of 4 bits in a byte; `experts.down_proj_scales`: the exponent of the
           power of two that 32 codes share, in a byte. Of gpt-oss' experts

A weight is codes times scales; for experts with the last two dimensions exchanged.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

FP8: Final = "fp8"
MXFP4: Final = "mxfp4"


class Parts(NamedTuple):
    """What the codes of a weight, its scales and the weight itself are called in their module, and their dtypes."""

    codes: str
    scales: str
    plain: str
    dtype: str
    scale_dtypes: tuple[str, ...]


#: The weights that a form has, by its name in a configuration.
FORMS: Final[Mapping[str, tuple[Parts, ...]]] = {
    FP8: (Parts("weight", "weight_scale_inv", "weight", "F8_E4M3", ("F32", "BF16")),),
    MXFP4: tuple(
        Parts(f"{name}_blocks", f"{name}_scales", name, "U8", ("U8",)) for name in ("gate_up_proj", "down_proj")
    ),
}
_BY_CODES: Final = {parts.codes: parts for form in FORMS.values() for parts in form}
_BY_PLAIN: Final = {parts.plain: parts for form in FORMS.values() for parts in form if parts.plain != parts.codes}
_BY_SCALES: Final = {parts.scales: parts for form in FORMS.values() for parts in form}
_KNOWN_FP8: Final = frozenset(
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
_KNOWN_MXFP4: Final = frozenset(("quant_method", "modules_to_not_convert", "dequantize"))
_LARGEST: Final = 1 << 16
_CURE: Final = "take a base in float8 with a scale for each block and without static activations, or the plain weights"


class BlockFormError(ValueError):
    """A form with block scales that is not read, with what would work."""


@dataclass(frozen=True, slots=True)
class BlockForm:
    """Rows and columns of a block, where a form leaves the choice, and the list of modules that stay plain."""

    block: tuple[int, int] | None
    skipped: Any


def form_of(value: Mapping[str, Any]) -> BlockForm:
    """The form that a `quantization_config` of one of these methods describes. BlockFormError for any other."""
    known = _KNOWN_FP8 if value.get("quant_method") == FP8 else _KNOWN_MXFP4
    unknown = sorted(str(key) for key in value if key not in known)
    if unknown:
        raise BlockFormError(f"unknown key {unknown[0]!r}: it may change how the weights are read; remove it")
    for key, plain in _PLAIN.items():
        if value.get(key) not in plain:
            raise BlockFormError(f"{key} is {value[key]!r}, which is not read; {_CURE}")
    if known is _KNOWN_MXFP4:
        return BlockForm(None, value.get("modules_to_not_convert"))
    block = value.get("weight_block_size")
    if not isinstance(block, list) or len(block) != 2 or not all(map(_is_size, block)):
        raise BlockFormError(f"weight_block_size is {block!r}, and has to be rows and columns of a block; {_CURE}")
    return BlockForm((block[0], block[1]), value.get("modules_to_not_convert"))


def _is_size(value: object) -> bool:
    return type(value) is int and 0 < value <= _LARGEST


def hole(dtypes: Mapping[str, str], method: str) -> str | None:
    """The first weight without all that it consists of, in words; None where each is complete."""
    form = FORMS[method]
    codes = sorted(name for name in dtypes if is_codes(name, dtypes) and _BY_CODES[_leaf(name)] in form)
    odd = next((name for name in sorted(dtypes) if dtypes[name].startswith("F8") and name not in codes), None)
    if odd is not None:
        return f"{odd!r} is stored as {dtypes[odd]}, and only codes of weights are read so ({form[0].dtype})"
    for name in codes:
        scale, known = scale_of(name), _BY_CODES[_leaf(name)].scale_dtypes
        if scale not in dtypes:
            return f"the quantised weight {name!r} is stored without {scale}"
        if dtypes[scale] not in known:
            return f"{scale!r} is stored as {dtypes[scale]}, and scales of {method} are {' or '.join(known)}"
    alone = sorted(name for name in dtypes if is_beside(name) and _codes_of(name) not in codes)
    if alone:
        expected = _BY_SCALES[_leaf(alone[0])].dtype
        return f"{alone[0]} is stored, and the weight {_codes_of(alone[0])!r} is not, as {expected}"
    return None if codes else f"config.json says that weights are stored in {method}, and none is stored so"


def is_codes(name: str, dtypes: Mapping[str, str]) -> bool:
    """Whether a stored tensor is the codes of a weight, by its name and dtype."""
    return name in dtypes and is_coded(name, dtypes[name])


def is_coded(name: str, dtype: str) -> bool:
    """Whether a stored tensor of this name and dtype is codes, which are decoded for the computation."""
    parts = _BY_CODES.get(_leaf(name))
    return parts is not None and dtype == parts.dtype


def is_beside(name: str) -> bool:
    """Whether a stored tensor is the scales of codes, by its name."""
    return _leaf(name) in _BY_SCALES


def scale_of(codes: str) -> str:
    """The name of the scales beside codes."""
    return _within(codes, _BY_CODES[_leaf(codes)].scales)


def plain_of(codes: str) -> str:
    """The name that the weight has which codes are decoded to."""
    return _within(codes, _BY_CODES[_leaf(codes)].plain)


def codes_of(plain: str) -> tuple[str, ...]:
    """The names that codes of a weight of this name may have, other than its own."""
    parts = _BY_PLAIN.get(_leaf(plain))
    return () if parts is None else (_within(plain, parts.codes),)


def _codes_of(scales: str) -> str:
    return _within(scales, _BY_SCALES[_leaf(scales)].codes)


def _within(name: str, leaf: str) -> str:
    """The name of another tensor of the same module."""
    return name[: len(name) - len(_leaf(name))] + leaf


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]
