"""Weights in codes with scales, as they are published, of which loading makes plain ones for the computation.

    fp8    `q_proj.weight` in float8 (e4m3fn), `q_proj.weight_scale_inv`: a scale for each block of 128 by 128, or one
    mxfp4  `experts.down_proj_blocks`, two codes of 4 bits in a byte; `experts.down_proj_scales`: the exponent of the
           power of two that 32 codes share, in a byte. Of gpt-oss' experts
    float-quantized       `q_proj.weight` in float8, `q_proj.weight_scale`: of the weight, its rows or blocks
    nvfp4-pack-quantized  `q_proj.weight_packed`, two codes of 4 bits in a byte; `q_proj.weight_scale`: a float8 for
                          each 16 of them; `q_proj.weight_global_scale`, by which these are divided
    mxfp4-pack-quantized  the same codes; `q_proj.weight_scale`: the exponent that 32 codes share
    gptq, awq             whole numbers: `q_proj.qweight`, `q_proj.qzeros`, `q_proj.scales` (`packed_integers`)

A weight is codes times scales; for gpt-oss' experts with the last two dimensions exchanged.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

FP8: Final = "fp8"
MXFP4: Final = "mxfp4"
GPTQ: Final = "gptq"
AWQ: Final = "awq"
#: Forms of compressed-tensors.
FLOAT8: Final = "float-quantized"
NVFP4_PACKED: Final = "nvfp4-pack-quantized"
MXFP4_PACKED: Final = "mxfp4-pack-quantized"


class Parts(NamedTuple):
    """What the codes of a weight, and the weight itself, are called in their module, and what else belongs to it.

    `needed` has what the weight is decoded by, with its dtypes; `more` what may be stored beside, such as the scale of
    inputs, and is frozen as well.
    """

    codes: str
    plain: str
    dtype: str
    needed: Mapping[str, tuple[str, ...]]
    more: Mapping[str, tuple[str, ...]] = {}


_WIDE: Final = ("F32", "BF16", "F16")
_INTEGERS: Final[Mapping[str, tuple[str, ...]]] = {"scales": _WIDE, "qzeros": ("I32",)}
#: The weights that a form has, by its name in a configuration.
FORMS: Final[Mapping[str, tuple[Parts, ...]]] = {
    FP8: (
        Parts(
            *("weight", "weight", "F8_E4M3"),
            needed={"weight_scale_inv": ("F32", "BF16")},
            more={"activation_scale": ("F32", "BF16")},
        ),
    ),
    MXFP4: tuple(
        Parts(f"{name}_blocks", name, "U8", needed={f"{name}_scales": ("U8",)})
        for name in ("gate_up_proj", "down_proj")
    ),
    FLOAT8: (Parts("weight", "weight", "F8_E4M3", needed={"weight_scale": _WIDE}, more={"input_scale": _WIDE}),),
    NVFP4_PACKED: (
        Parts(
            *("weight_packed", "weight", "U8"),
            needed={"weight_scale": ("F8_E4M3",), "weight_global_scale": ("F32",)},
            more={"input_global_scale": ("F32",)},
        ),
    ),
    MXFP4_PACKED: (Parts("weight_packed", "weight", "U8", needed={"weight_scale": ("U8",)}),),
    GPTQ: (Parts("qweight", "weight", "I32", needed={**_INTEGERS, "g_idx": ("I32",)}),),
    AWQ: (Parts("qweight", "weight", "I32", needed=_INTEGERS),),
}
_ALL: Final = tuple(parts for form in FORMS.values() for parts in form)
_PLAIN_NAMES: Final = {parts.codes: parts.plain for parts in _ALL}
_CODED: Final = frozenset((parts.codes, parts.dtype) for parts in _ALL)
_CODES_OF: Final = {
    plain: tuple(dict.fromkeys(parts.codes for parts in _ALL if parts.plain == plain != parts.codes))
    for plain in _PLAIN_NAMES.values()
}
_KNOWN_FP8: Final = frozenset(
    (
        *("quant_method", "activation_scheme", "weight_block_size", "modules_to_not_convert", "modules_to_convert"),
        *("fmt", "scale_fmt", "expert_dtype", "dequantize"),
    )
)
#: Values of options that leave the form as it is described above.
_PLAIN: Final[Mapping[str, tuple[object, ...]]] = {
    "activation_scheme": (None, "dynamic", "static"),
    "fmt": (None, "e4m3", "float8_e4m3fn"),  # the second as MiniMax publishes models
    "scale_fmt": (None, "float", "ue8m0"),  # the second: scales that are powers of two, stored as floats
    "expert_dtype": (None, "fp8"),
    "dequantize": (None, False),
    "modules_to_convert": (None, []),
}
_KNOWN_MXFP4: Final = frozenset(("quant_method", "modules_to_not_convert", "dequantize"))
_AUTO_FP8: Final = "ignored_layers"
_UNSAID: Final = [128, 128]  # what transformers' FineGrainedFP8Config takes where a configuration has no sizes
_LARGEST: Final = 1 << 16
_CURE: Final = "take a base in float8 with a scale for each block or weight, or the plain weights"


class BlockFormError(ValueError):
    """A form with block scales that is not read, with what would work."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How the codes of a base are decoded."""

    form: str
    block: tuple[int | None, int | None] | None = None  # of float8: rows and columns that share a scale; None: all
    bits: int = 8  # of a code
    group: int = -1  # of whole numbers: how many inputs share a scale; -1: all
    offset: int = 0  # of whole numbers: what is added to a zero point as it is stored
    rounds_inputs: bool = False  # whether what serves the base rounds inputs as well, which training does not


@dataclass(frozen=True, slots=True)
class BlockForm:
    """Rows and columns of a block, where a form leaves the choice, and the list of modules that stay plain."""

    block: tuple[int | None, int | None] | None
    skipped: Any


def form_of(value: Mapping[str, Any]) -> BlockForm:
    """The form that a `quantization_config` of one of these methods describes. BlockFormError for any other."""
    known = _KNOWN_FP8 if value.get("quant_method") == FP8 else _KNOWN_MXFP4
    unknown = sorted(str(key) for key in value if key not in known)
    if _AUTO_FP8 in unknown:
        raise BlockFormError(f"{_AUTO_FP8} is of AutoFP8, whose scales transformers does not load; {_CURE}")
    if unknown:
        raise BlockFormError(f"unknown key {unknown[0]!r}: it may change how the weights are read; remove it")
    for key, plain in _PLAIN.items():
        if value.get(key) not in plain:
            raise BlockFormError(f"{key} is {value[key]!r}, which is not read; {_CURE}")
    if known is _KNOWN_MXFP4:
        return BlockForm(None, value.get("modules_to_not_convert"))
    block = value.get("weight_block_size", _UNSAID)
    if block is None:
        return BlockForm((None, None), value.get("modules_to_not_convert"))
    if not isinstance(block, list) or len(block) != 2 or not all(map(_is_size, block)):
        raise BlockFormError(
            f"weight_block_size is {block!r}, and has to be rows and columns of a block, or null; {_CURE}"
        )
    return BlockForm((block[0], block[1]), value.get("modules_to_not_convert"))


def _is_size(value: object) -> bool:
    return type(value) is int and 0 < value <= _LARGEST


def hole(dtypes: Mapping[str, str], *forms: str) -> str | None:
    """The first weight without all that it consists of in one of the forms, in words; None where each is complete."""
    kinds = [parts for form in forms for parts in FORMS[form]]
    found = {(parts.codes, parts.dtype) for parts in kinds}
    codes = sorted(name for name in dtypes if (_leaf(name), dtypes[name]) in found)
    known = {name for each in codes for name in (each, *beside(each, dtypes, *forms))}
    foreign = next((name for name in sorted(dtypes) if is_coded(name, dtypes[name]) and name not in codes), None)
    said = " and ".join(forms)
    if foreign is not None:
        return f"{foreign!r} is stored as codes of another form than {said}, which config.json says"
    odd = next((name for name in sorted(dtypes) if dtypes[name].startswith("F8") and name not in known), None)
    if odd is not None:
        read = " or ".join(dict.fromkeys(parts.dtype for parts in kinds))
        return f"{odd!r} is stored as {dtypes[odd]}, and only codes of weights are read so ({read})"
    for name in codes:
        holes = _holes(name, dtypes, forms)
        if None not in holes:
            return holes[0]
        other = next((each for each in beside(name, dtypes) if each not in known), None)
        if other is not None:
            return f"{other!r} is stored beside {name!r}, and codes of {said} have no such part"
    leaves = {leaf: parts for parts in kinds for leaf in parts.needed}
    alone = next((name for name in sorted(dtypes) if _leaf(name) in leaves and name not in known), None)
    if alone is not None:
        parts = leaves[_leaf(alone)]
        return f"{alone} is stored, and the weight {_within(alone, parts.codes)!r} is not, as {parts.dtype}"
    return None if codes else f"config.json says that weights are stored in {said}, and none is stored so"


def fitting(codes: str, dtypes: Mapping[str, str], decodings: Iterable[Decoding]) -> tuple[Decoding, ...]:
    """Which of these ways of decoding a weight is stored for, by names and dtypes."""
    return tuple(each for each in decodings if None in _holes(codes, dtypes, (each.form,)))


def _holes(codes: str, dtypes: Mapping[str, str], forms: Iterable[str]) -> list[str | None]:
    """What these codes lack in each form that has such codes; None for a form that is complete."""
    stored = (_leaf(codes), dtypes[codes])
    return [
        _hole_of(codes, parts, dtypes, form)
        for form in forms
        for parts in FORMS[form]
        if (parts.codes, parts.dtype) == stored
    ]


def _hole_of(codes: str, parts: Parts, dtypes: Mapping[str, str], form: str) -> str | None:
    for leaf, allowed in (*parts.needed.items(), *parts.more.items()):
        name = _within(codes, leaf)
        if name not in dtypes and leaf in parts.needed:
            return f"the quantised weight {codes!r} is stored without {name}"
        if name in dtypes and dtypes[name] not in allowed:
            what = "scales" if "scale" in leaf else leaf
            return f"{name!r} is stored as {dtypes[name]}, and {what} of {form} are {' or '.join(allowed)}"
    return None


def is_codes(name: str, dtypes: Mapping[str, str]) -> bool:
    """Whether a stored tensor is the codes of a weight, by its name and dtype."""
    return name in dtypes and is_coded(name, dtypes[name])


def is_coded(name: str, dtype: str) -> bool:
    """Whether a stored tensor of this name and dtype is codes, which are decoded for the computation."""
    return (_leaf(name), dtype) in _CODED


def beside(codes: str, names: Collection[str], *forms: str) -> tuple[str, ...]:
    """Which of these names belong to codes, such as their scales: by these forms, or by any."""
    kinds = [parts for form in forms for parts in FORMS[form]] if forms else _ALL
    found = (parts for parts in kinds if parts.codes == _leaf(codes))
    leaves = dict.fromkeys(leaf for parts in found for leaf in (*parts.needed, *parts.more))
    return tuple(name for leaf in leaves if (name := _within(codes, leaf)) in names)


def not_frozen(codes: str, dtype: str, stored: Collection[str], frozen: Collection[str]) -> str | None:
    """The first tensor that codes are decoded by and that is not frozen; None where all are, by one of the forms.

    Whatever else is stored beside them has to be frozen as well: which form it is only a configuration says.
    """
    moving = next((name for name in beside(codes, stored) if name not in frozen), None)
    if moving is not None:
        return moving
    lacking = []
    for parts in _ALL:
        if (parts.codes, parts.dtype) == (_leaf(codes), dtype):
            left = [name for leaf in parts.needed if (name := _within(codes, leaf)) not in frozen]
            if not left:
                return None
            lacking.append(left[0])
    return lacking[0] if lacking else codes


def plain_of(codes: str) -> str:
    """The name that the weight has which codes are decoded to."""
    return _within(codes, _PLAIN_NAMES[_leaf(codes)])


def codes_of(plain: str) -> tuple[str, ...]:
    """The names that codes of a weight of this name may have, other than its own."""
    return tuple(_within(plain, codes) for codes in _CODES_OF.get(_leaf(plain), ()))


def _within(name: str, leaf: str) -> str:
    """The name of another tensor of the same module."""
    return name[: len(name) - len(_leaf(name))] + leaf


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]
