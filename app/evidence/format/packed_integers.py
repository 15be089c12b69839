"""Weights in whole numbers of 4 or 8 bits, several in an int32, with scales and zero points for groups of inputs.

    gptq  `qweight` (inputs * bits / 32, outputs): codes of consecutive inputs share an int32, the first in its lowest
          bits. `qzeros` (groups, outputs * bits / 32): likewise of consecutive outputs, less one in the form `gptq`, as
          they are in `gptq_v2`. `scales` (groups, outputs). `g_idx` (inputs): the group of each input
    awq   `qweight` (inputs, outputs / 8) and `qzeros` (groups, outputs / 8): of eight consecutive outputs the codes are
          in the order 0, 2, 4, 6, 1, 3, 5, 7, from the lowest bits up. `scales` (groups, outputs)

As AutoGPTQ and GPTQModel (`gptqmodel.nn_modules.qlinear`), and AutoAWQ (`WQLinear_GEMM`), write them. A weight is the
difference of code and zero point, times the scale.
"""

from collections.abc import Mapping
from typing import Any, Final

from app.evidence.format.block_scaled import AWQ, GPTQ, Decoding

#: What these configurations have. Another key may mean anything.
_KNOWN: Final = frozenset(
    (
        *("quant_method", "method", "bits", "group_size", "groupsize", "format", "checkpoint_format", "version"),
        *("sym", "zero_point", "desc_act", "actorder", "act_group_aware", "static_groups", "true_sequential", "mse"),
        *("damp_percent", "damp_auto_increment", "lm_head", "meta", "pack_dtype", "dynamic", "is_marlin_format"),
        *("model_name_or_path", "model_file_base_name", "tokenizer", "dataset", "model_seqlen", "quantizer", "backend"),
        *("block_name_to_quantize", "module_name_preceding_first_block", "modules_in_block_to_quantize", "batch_size"),
        *("pad_token_id", "use_cuda_fp16", "disable_exllama", "use_exllama", "exllama_config", "max_input_length"),
        *("cache_block_outputs", "cache_examples_on_gpu", "rotation", "adapter", "modules_to_not_convert", "do_fuse"),
        *("modules_to_fuse", "fuse_max_seq_len", "gptaq", "v2", "v2_alpha", "uri", "hyb_act", "foem"),
        # AutoRound's, of how it found the codes
        *("autoround_version", "amp", "data_type", "scale_dtype", "super_bits", "super_group_size", "seqlen", "iters"),
        *("act_bits", "act_data_type", "act_dynamic", "act_group_size", "act_sym", "lr", "minmax_lr", "nsamples"),
        *("enable_minmax_tuning", "enable_norm_bias_tuning", "enable_quanted_input", "gradient_accumulate_steps"),
        *("low_gpu_mem_usage", "to_quant_block_names"),
    )
)
#: Values of options that leave the form as it is described above.
_PLAIN: Final[Mapping[str, tuple[object, ...]]] = {
    "pack_dtype": (None, "int32"),
    "is_marlin_format": (None, False),
    "rotation": (None, ""),
    "adapter": (None, {}),
    "act_bits": (None, 16),
    "data_type": (None, "int"),
    "super_bits": (None,),
    "super_group_size": (None,),
}
#: What a rule for some modules may change: bits and groups, and how codes were found, which they do not tell.
_OF_RULES: Final = frozenset(
    (
        *("bits", "group_size", "sym", "desc_act", "act_group_aware", "static_groups", "mse", "damp_percent"),
        *("damp_auto_increment", "hyb_act"),
    )
)
_MOST_RULES: Final = 10_000
_BITS: Final[Mapping[str, tuple[int, ...]]] = {GPTQ: (4, 8), AWQ: (4,)}
#: What is added to a zero point as it is stored, by the name of the order of codes.
_ORDERS: Final[Mapping[str, Mapping[str, int]]] = {GPTQ: {"gptq": 1, "gptq_v2": 0}, AWQ: {"gemm": 0}}
_CURE: Final = "take a base in another form, such as W4A16 of compressed-tensors or NF4, or the plain weights"


class PackedFormError(ValueError):
    """A form of packed whole numbers that is not read, with what would work."""


def decodings_of(value: Mapping[str, Any], method: str) -> tuple[Decoding, ...]:
    """How a `quantization_config` of `gptq` or `awq` has codes decoded. PackedFormError for what is not read.

    Several, where rules of GPTQModel (`dynamic`) give some modules other bits or groups than the rest.
    """
    unknown = sorted(str(key) for key in value if key not in _KNOWN)
    if unknown:
        raise PackedFormError(f"unknown key {unknown[0]!r}: it may change how the weights are read; remove it")
    for key, plain in _PLAIN.items():
        if value.get(key) not in plain:
            raise PackedFormError(f"{key} is {value[key]!r}, which is not read; {_CURE}")
    if method == AWQ and value.get("zero_point", True) is not True:
        raise PackedFormError(f"zero_point is {value['zero_point']!r}, and codes with zero points are read; {_CURE}")
    offset, rules = _offset(value, method), _overrides(value.get("dynamic"), method)
    return tuple(dict.fromkeys(_decoding({**value, **rule}, method, offset) for rule in ({}, *rules)))


def _overrides(rules: Any, method: str) -> list[Mapping[str, Any]]:
    """What the rules of GPTQModel change for some modules. Names and patterns are not looked at: the files say which.

    A rule that begins with `-:` leaves modules plain.
    """
    if not isinstance(rules, Mapping | None) or len(rules or ()) > _MOST_RULES:
        raise PackedFormError(f"dynamic has to be an object of {_MOST_RULES:,} rules at most; {_CURE}")
    changing: list[Mapping[str, Any]] = []
    for pattern, rule in (rules or {}).items():
        if pattern.startswith("-:") or rule is True or not rule:
            continue
        strange = next((key for key in rule if key not in _OF_RULES), None) if isinstance(rule, Mapping) else pattern
        if strange is not None:
            raise PackedFormError(f"the rule {pattern!r} of dynamic changes {strange!r}, which is not read; {_CURE}")
        changed = {key: rule[key] for key in ("bits", "group_size") if key in rule}
        if changed and method == AWQ:
            raise PackedFormError(
                f"the rule {pattern!r} of dynamic changes {min(changed)}, read of gptq alone; {_CURE}"
            )
        changing.append(changed)
    return changing


def _decoding(value: Mapping[str, Any], method: str, offset: int) -> Decoding:
    bits, group = value.get("bits"), value.get("group_size")
    if type(bits) is not int or bits not in _BITS[method]:
        read = " or ".join(map(str, _BITS[method]))
        raise PackedFormError(f"bits are {bits!r}, and {read} are read; {_CURE}")
    if type(group) is not int or not (group == -1 or 0 < group < 1 << 20):
        raise PackedFormError(f"group_size is {group!r}, and has to be a number of inputs, or -1 for all; {_CURE}")
    return Decoding(method, bits=bits, group=group, offset=offset)


def _offset(value: Mapping[str, Any], method: str) -> int:
    """By the names that each package gave to the order of codes. Where several are given they have to agree."""
    orders = _ORDERS[method]
    keys = ("checkpoint_format", "format") if method == GPTQ else ("version", "format", "checkpoint_format")
    said = {key: value[key] for key in keys if value.get(key) is not None}
    for key, name in said.items():
        if not isinstance(name, str) or name.lower() not in orders:
            raise PackedFormError(f"{key} is {name!r}, and {' or '.join(orders)} is read; {_CURE}")
    names = {name.lower() for name in said.values()} or {next(iter(orders))}
    if len(names) > 1:
        raise PackedFormError(f"{' and '.join(said)} say different things: {', '.join(sorted(names))}; remove one")
    return orders[names.pop()]
