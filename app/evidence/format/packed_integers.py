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
    )
)
#: Values of options that leave the form as it is described above.
_PLAIN: Final[Mapping[str, tuple[object, ...]]] = {
    "dynamic": (None, {}),
    "pack_dtype": (None, "int32"),
    "is_marlin_format": (None, False),
    "rotation": (None, ""),
    "adapter": (None, {}),
}
_BITS: Final[Mapping[str, tuple[int, ...]]] = {GPTQ: (4, 8), AWQ: (4,)}
#: What is added to a zero point as it is stored, by the name of the order of codes.
_ORDERS: Final[Mapping[str, Mapping[str, int]]] = {GPTQ: {"gptq": 1, "gptq_v2": 0}, AWQ: {"gemm": 0}}
_CURE: Final = "take a base in another form, such as W4A16 of compressed-tensors or NF4, or the plain weights"


class PackedFormError(ValueError):
    """A form of packed whole numbers that is not read, with what would work."""


def decoding_of(value: Mapping[str, Any], method: str) -> Decoding:
    """How a `quantization_config` of `gptq` or `awq` has codes decoded. PackedFormError for what is not read."""
    unknown = sorted(str(key) for key in value if key not in _KNOWN)
    if unknown:
        raise PackedFormError(f"unknown key {unknown[0]!r}: it may change how the weights are read; remove it")
    for key, plain in _PLAIN.items():
        if value.get(key) not in plain:
            raise PackedFormError(f"{key} is {value[key]!r}, which is not read; {_CURE}")
    bits, group = value.get("bits"), value.get("group_size")
    if type(bits) is not int or bits not in _BITS[method]:
        read = " or ".join(map(str, _BITS[method]))
        raise PackedFormError(f"bits are {bits!r}, and {read} are read; {_CURE}")
    if type(group) is not int or not (group == -1 or 0 < group < 1 << 20):
        raise PackedFormError(f"group_size is {group!r}, and has to be a number of inputs, or -1 for all; {_CURE}")
    if method == AWQ and value.get("zero_point", True) is not True:
        raise PackedFormError(f"zero_point is {value['zero_point']!r}, and codes with zero points are read; {_CURE}")
    return Decoding(method, bits=bits, group=group, offset=_offset(value, method))


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
