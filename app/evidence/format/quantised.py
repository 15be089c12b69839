"""Quantised weights as files hold them: which stored tensors make up one weight, and which kinds are read as stored.

bitsandbytes stores a quantised weight as its codes (`q_proj.weight`) and its scales beside them
(`q_proj.weight.absmax` and others of its 4-bit kinds, `q_proj.SCB` of its 8-bit kind); `compressed` has the other
package that is read, and `block_scaled` what is decoded. What a file cannot say of itself is in `config.json`, in its
`quantization_config`.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.evidence.format import block_scaled, compressed, packed_integers
from app.evidence.format.block_scaled import AWQ, FP8, GPTQ, MXFP4, Decoding
from app.evidence.format.compressed import COMPRESSED_TENSORS

KEYS: Final = ("quantization_config", "compression_config")
BITSANDBYTES: Final = "bitsandbytes"
FOUR_BITS: Final = ("nf4", "fp4")

_SCALES = re.compile(
    r"(?P<module>(?:.+\.)?)(?P<leaf>weight\.(?:(?:nested_)?(?:absmax|quant_map)|quant_state\.bitsandbytes__\w+)"
    r"|SCB|weight_format)"
)
_SKIP: Final = "llm_int8_skip_modules"
_NOT_CONVERTED: Final = "modules_to_not_convert"
_MOST_SKIPPED: Final = 10_000
_NAME = re.compile(r"[\w.]+")
_PATTERN = re.compile(r"\w+(?:\.(?:\w+|\*))*")
_NEEDED = ("weight.absmax", "weight.quant_map")
_NESTED = ("weight.nested_absmax", "weight.nested_quant_map")
_STATE = "weight.quant_state.bitsandbytes__"

#: What bitsandbytes' configuration has in transformers. Another key may mean anything.
_KNOWN_KEYS = frozenset(
    (
        *("quant_method", "_load_in_4bit", "_load_in_8bit", "load_in_4bit", "load_in_8bit", "llm_int8_threshold"),
        *(_SKIP, "llm_int8_enable_fp32_cpu_offload", "llm_int8_has_fp16_weight"),
        *("bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_compute_dtype", "bnb_4bit_quant_storage"),
    )
)
_NOT_SHOWN = "nothing here has shown that its bytes stay as they are stored while an adapter trains"
_PACKAGE = "transformers reads it with a package of its own, {}, which was not tried here"
#: Kinds that transformers knows, and why they are not trained on.
_REFUSED: Mapping[str, str] = {
    "hqq": _PACKAGE.format("hqq"),
    "quanto": _PACKAGE.format("optimum-quanto"),
    "aqlm": _PACKAGE.format("aqlm"),
    "torchao": "its weights are tensors of classes of its own, whose parts no list of a model's tensors has",
    "modelopt": "transformers has no class that reads it",
    "nvfp4": "transformers has no class that reads it",
    **dict.fromkeys(
        (
            *("eetq", "fbgemm_fp8", "higgs", "vptq", "spqr", "bitnet", "quark", "auto-round", "fp_quant"),
            *("finegrained_fp8", "sinq", "metal"),
        ),
        _NOT_SHOWN,
    ),
}
_CURE = (
    "take the model's plain weights (bfloat16 or float32), or a base that bitsandbytes stored as NF4 or INT8, or "
    "compressed-tensors as W4A16, W8A16, FP8 or NVFP4, or in float8, MXFP4, GPTQ or AWQ"
)
_BLOCKS: Final = (FP8, MXFP4)
_WHOLE_NUMBERS: Final = (GPTQ, AWQ)


@dataclass(frozen=True, slots=True)
class Quantisation:
    """How a base is quantised: `kind` is "nf4", "fp4", "int4", "int8", or the form of what is decoded.

    `skipped` is stored plain.
    """

    method: str
    kind: str
    skipped: tuple[str, ...] | None = None  # None: those that transformers leaves out by itself
    decodings: tuple[Decoding, ...] = ()  # several, where the modules of a model differ

    @property
    def decoded(self) -> bool:
        """Whether loading makes plain weights of what is stored, for the computation."""
        return bool(self.decodings)

    @property
    def forms(self) -> tuple[str, ...]:
        """The forms of what is decoded."""
        return tuple(dict.fromkeys(each.form for each in self.decodings))

    @property
    def below_adapters(self) -> bool:
        """Whether it is only read as the base of an adapter: loaders make floats of these codes."""
        return self.decoded or self.method == COMPRESSED_TENSORS


class QuantisationError(ValueError):
    """A quantised form that is not read, with what would work."""


def quantisation_of(config: Mapping[str, Any]) -> Quantisation | None:
    """How the model of a `config.json` is quantised; None where it is not. QuantisationError names what is not read."""
    found = _found(config)
    if found is None:
        return None
    where, value = found
    method = value.get("quant_method") or value.get("format") if isinstance(value, Mapping) else None
    named = f"{where!r}{f' ({method})' if isinstance(method, str) else ''}"
    if not isinstance(value, Mapping) or where != KEYS[0]:
        raise QuantisationError(f"{named}: {_NOT_SHOWN}; {_CURE}")
    if method == COMPRESSED_TENSORS:
        return _compressed(value, named)
    if method in _BLOCKS:
        return _block_scaled(value, named, str(method))
    if method in _WHOLE_NUMBERS:
        return _packed_integers(value, named, str(method))
    if method != BITSANDBYTES:
        known = ", ".join((BITSANDBYTES, COMPRESSED_TENSORS, *_BLOCKS, *_WHOLE_NUMBERS, *_REFUSED))
        reason = _REFUSED.get(str(method), f"an unknown quantiser; known are {known}")
        raise QuantisationError(f"{named}: {reason}; {_CURE}")
    problem = _problem(value)
    if problem:
        raise QuantisationError(f"{where!r} ({BITSANDBYTES}): {problem}")
    skipped = value.get(_SKIP)
    kind = str(value.get("bnb_4bit_quant_type", "fp4")) if _flag(value, "load_in_4bit") else "int8"
    return Quantisation(BITSANDBYTES, kind, None if skipped is None else tuple(skipped))


def _compressed(value: Mapping[str, Any], named: str) -> Quantisation:
    try:
        kind = compressed.kind_of(value)
    except compressed.CompressedFormError as error:
        raise QuantisationError(f"{named}: {error}") from None
    if isinstance(kind, str):
        return Quantisation(COMPRESSED_TENSORS, kind)
    skipped = _names(value.get("ignore"), "ignore", named)
    forms = " and ".join(dict.fromkeys(each.form for each in kind))
    return Quantisation(COMPRESSED_TENSORS, forms, skipped, kind)


def _packed_integers(value: Mapping[str, Any], named: str, method: str) -> Quantisation:
    try:
        decodings = packed_integers.decodings_of(value, method)
    except packed_integers.PackedFormError as error:
        raise QuantisationError(f"{named}: {error}") from None
    skipped = _names(value.get(_NOT_CONVERTED), _NOT_CONVERTED, named)
    return Quantisation(method, method, skipped, decodings)


def _names(listed: Any, key: str, named: str) -> tuple[str, ...] | None:
    """A list of what stays plain, in words of the package that wrote it."""
    if listed is not None and not (isinstance(listed, list) and all(isinstance(each, str) for each in listed)):
        raise QuantisationError(f"{named}: {key} is not a list of names of modules")
    if listed is not None and len(listed) > _MOST_SKIPPED:
        raise QuantisationError(f"{named}: {key} has more than {_MOST_SKIPPED:,} names, the most that is read")
    return None if listed is None else tuple(listed)


def _block_scaled(value: Mapping[str, Any], named: str, method: str) -> Quantisation:
    try:
        form = block_scaled.form_of(value)
    except block_scaled.BlockFormError as error:
        raise QuantisationError(f"{named}: {error}") from None
    problem = _problem_of_names(form.skipped, _NOT_CONVERTED, patterns=method == MXFP4)
    if problem:
        raise QuantisationError(f"{named}: {problem}")
    skipped = None if form.skipped is None else tuple(form.skipped)
    bits = 8 if method == FP8 else 4
    return Quantisation(method, method, skipped, (Decoding(method, form.block, bits, rounds_inputs=method == FP8),))


def _found(value: Any, at: str = "") -> tuple[str, Any] | None:
    """The first key of a configuration, at any depth, that says how weights are quantised."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        where = f"{at}.{key}".lstrip(".") if isinstance(key, str) else f"{at}[{key}]"
        if key in KEYS and item is not None:
            return where, item
        if (inner := _found(item, where)) is not None:
            return inner
    return None


def _problem(value: Mapping[str, Any]) -> str | None:
    """What is wrong with bitsandbytes' own configuration, with what would work; None for one that is read."""
    unknown = sorted(str(key) for key in value if key not in _KNOWN_KEYS)
    if unknown:
        return f"unknown key {unknown[0]!r}: it may change how the weights are read; remove it"
    four, eight = _flag(value, "load_in_4bit"), _flag(value, "load_in_8bit")
    if four == eight:
        return "it has to say load_in_4bit or load_in_8bit, and one of them"
    kind = value.get("bnb_4bit_quant_type", "fp4")
    if four and kind not in FOUR_BITS:
        return f"unknown bnb_4bit_quant_type {kind!r}; known are {', '.join(FOUR_BITS)}"
    storage = value.get("bnb_4bit_quant_storage") or "uint8"
    if four and storage not in ("uint8", "torch.uint8"):
        return f"bnb_4bit_quant_storage {storage!r}: only codes that are stored as uint8 are read; quantise it again so"
    if value.get("llm_int8_has_fp16_weight"):
        return "llm_int8_has_fp16_weight: these weights are not stored quantised; remove the quantization_config"
    return _problem_of_names(value.get(_SKIP), _SKIP)


def _problem_of_names(skipped: Any, key: str, *, patterns: bool = False) -> str | None:
    """What is wrong with a list of modules that stay plain; `patterns` may have `*` for one part of a name."""
    form = _PATTERN if patterns else _NAME
    if skipped is not None and not (isinstance(skipped, list) and all(_is_name(each, form) for each in skipped)):
        return f"{key} is not a list of names of modules; {'other ' if patterns else ''}patterns are not read"
    if skipped is not None and len(skipped) > _MOST_SKIPPED:
        return f"{key} has {len(skipped):,} names, and {_MOST_SKIPPED:,} is the most that is read"
    return None


def _is_name(value: object, form: re.Pattern[str]) -> bool:
    return isinstance(value, str) and form.fullmatch(value) is not None


def _flag(value: Mapping[str, Any], key: str) -> bool:
    return bool(value.get(key) or value.get(f"_{key}"))


def is_scale(name: str) -> bool:
    """Whether a stored tensor belongs to the quantised weight beside it, by its name; not where codes are decoded."""
    return _SCALES.fullmatch(name) is not None or compressed.is_beside(name)


def scales(names: Iterable[str]) -> dict[str, set[str]]:
    """For each module with a quantised weight (`model.layers.0.mlp.up_proj.`), what its scales are called in it."""
    found: dict[str, set[str]] = {}
    for name in names:
        match = _SCALES.fullmatch(name)
        if match is not None:
            found.setdefault(match["module"], set()).add(match["leaf"])
    return found


def quantised_weights(dtypes: Mapping[str, str]) -> set[str]:
    """Names of the stored tensors that are the codes of a quantised weight, from the dtypes of all stored tensors."""
    by_dtype = {name for name, dtype in dtypes.items() if dtype in ("U8", "I8") and _leaf(name) == "weight"}
    packed = {name for name in dtypes if compressed.is_codes(name) or block_scaled.is_codes(name, dtypes)}
    return by_dtype | packed | {f"{module}weight" for module in scales(dtypes)}


def computed_name(name: str, dtype: str) -> str:
    """The name of the weight that a model computes with where a stored tensor is its codes; else the tensor's own."""
    if compressed.is_codes(name):
        return compressed.plain_of(name)
    return block_scaled.plain_of(name) if block_scaled.is_coded(name, dtype) else name


def left_out(skipped: Sequence[str]) -> Callable[[str], bool]:
    """Whether transformers leaves a module, by its path, out of what is quantised: by how it begins, or by its end."""
    names = "|".join(skipped).replace("*", "[^.]+")
    begins = re.compile(rf"(?:{names})(?:(?<=\.)|(?=\.|$))").match if skipped else lambda path: None
    ends = tuple(skipped)
    return lambda path: begins(path) is not None or path.endswith(ends)


def listed_plain(quantisation: Quantisation) -> Callable[[str], bool]:
    """Whether a base of codes lists a module, by its path, as one that stays plain; in the words of its package."""
    skipped = quantisation.skipped or ()
    if quantisation.method == COMPRESSED_TENSORS:
        return frozenset(skipped).__contains__  # patterns (`re:`) are not looked at: the files say what is in codes
    if quantisation.method in _WHOLE_NUMBERS:
        return lambda path: any(each in path for each in skipped)
    return left_out(skipped)


def hole(dtypes: Mapping[str, str], quantisation: Quantisation) -> str | None:
    """The first quantised weight without all that it consists of, in words; None where each is complete.

    `dtypes` are the dtype codes of all stored tensors by name.
    """
    if quantisation.decoded:
        return block_scaled.hole(dtypes, *quantisation.forms)
    if quantisation.method == COMPRESSED_TENSORS:
        return compressed.hole(dtypes)
    held = scales(dtypes)
    for weight in sorted(quantised_weights(dtypes)):
        module = weight.removesuffix("weight")
        leaves = held.get(module, set())
        if weight not in dtypes:
            return f"{module}{min(leaves)} is stored, and the weight {weight!r} is not"
        expected = "I8" if quantisation.kind == "int8" else "U8"
        if dtypes[weight] != expected:
            return f"{weight!r} is stored as {dtypes[weight]}, and codes of {quantisation.kind} are {expected}"
        lacking = _lacking(leaves, quantisation.kind)
        if lacking:
            return f"the quantised weight {weight!r} is stored without {module}{lacking}"
    if not held:
        return f"config.json says that weights are quantised ({quantisation.kind}), and none is stored so"
    return None


def _lacking(leaves: set[str], kind: str) -> str | None:
    if kind == "int8":
        return None if "SCB" in leaves else "SCB"
    nested = any(leaf in leaves for leaf in _NESTED)
    needed = (*_NEEDED, *(_NESTED if nested else ()), f"{_STATE}{kind}")
    return next((leaf for leaf in needed if leaf not in leaves), None)


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]
