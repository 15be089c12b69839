"""Tiny bases in the layouts in which GPTQ, AWQ and compressed-tensors are published, written value by value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.worker.trainer import block_scaled_bases
from tests.worker.trainer.block_scaled_bases import configure
from tests.worker.trainer.quantised_bases import rewrite

Tensors = dict[str, Tensor]
_FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


class Form(NamedTuple):
    """A configuration, what makes the tensors of a weight of this shape, and what reads the weight from them."""

    config: dict[str, Any]
    draw: Callable[[tuple[int, int]], Tensors]
    read: Callable[[Tensors], Tensor]
    float16: bool = False


def base(form: Form, folder: Path, *, make: Callable[[Path], Path] = block_scaled_bases.qwen3) -> Path:
    """A decoder in bfloat16 or float16 whose linear layers, apart from its head, are stored in this form."""
    make(folder)
    torch.manual_seed(5)

    def write(tensors: Tensors) -> None:
        for name in [each for each in tensors if each.endswith("_proj.weight")]:
            rows, columns = tensors.pop(name).shape
            del tensors[f"{name}_scale_inv"]
            tensors |= {
                f"{name.removesuffix('weight')}{leaf}": each for leaf, each in form.draw((rows, columns)).items()
            }
        for name in tensors if form.float16 else ():
            tensors[name] = tensors[name].half() if tensors[name].dtype == torch.bfloat16 else tensors[name]

    rewrite(folder, write)
    configure(folder, form.config)
    if form.float16:
        path = folder / "config.json"
        path.write_text(path.read_text().replace('"bfloat16"', '"float16"'))
    return folder


def plain(form: Form, tensors: Tensors, dtype: torch.dtype) -> Tensors:
    """The weights of a file's codes by their plain names, value by value."""
    modules = {name.rpartition(".")[0] for name in tensors if name.endswith(("scale", "scales", "scale_inv"))}
    weights = {}
    for module in modules:
        inside = {name.rpartition(".")[2]: each for name, each in tensors.items() if name.startswith(f"{module}.")}
        weights[f"{module}.weight"] = form.read(inside).to(dtype)
    return weights


# Whole numbers


def _bits(packed: Tensor, word: tuple[int, int], at: int, bits: int) -> int:
    return (int(packed[word]) >> (bits * at)) & ((1 << bits) - 1)


def _words(numbers: Tensor) -> Tensor:
    """Drawn codes: any int32 holds some."""
    return torch.randint(-(2**31), 2**31, tuple(numbers.shape), dtype=torch.int64).to(torch.int32)


def _zeros(groups: int, outputs: int, bits: int) -> Tensor:
    """Zero points none of which is of all bits."""
    per = 32 // bits
    drawn = torch.randint(0, (1 << bits) - 1, (groups, outputs // per, per), dtype=torch.int64)
    words = (drawn << (bits * torch.arange(per))).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def gptq(bits: int, group: int, offset: int, *, ordered: bool) -> Form:
    per, order = 32 // bits, "gptq" if offset else "gptq_v2"

    def draw(shape: tuple[int, int]) -> Tensors:
        outputs, inputs = shape
        groups = 1 if group == -1 else inputs // group
        index = torch.arange(inputs) // (inputs // groups)
        return {
            "qweight": _words(torch.empty(inputs // per, outputs)),
            "qzeros": _zeros(groups, outputs, bits),
            "scales": (torch.rand(groups, outputs) * 0.02 + 0.001).half(),
            "g_idx": (index[torch.randperm(inputs)] if ordered else index).to(torch.int32),
        }

    def read(parts: Tensors) -> Tensor:
        inputs, outputs = parts["g_idx"].numel(), parts["scales"].shape[1]
        weight = torch.empty(outputs, inputs)
        for row, column in _places(outputs, inputs):
            code = _bits(parts["qweight"], (column // per, row), column % per, bits)
            group_of = int(parts["g_idx"][column])
            zero = _bits(parts["qzeros"], (group_of, row // per), row % per, bits) + offset
            weight[row, column] = (code - zero) * parts["scales"][group_of, row].float()
        return weight

    config = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": ordered, "sym": not ordered}
    more = {"damp_percent": 0.01, "true_sequential": True, "static_groups": False, "lm_head": False}
    return Form(config | more | {"checkpoint_format": order}, draw, read, float16=True)


def awq(group: int) -> Form:
    order = (0, 2, 4, 6, 1, 3, 5, 7)

    def draw(shape: tuple[int, int]) -> Tensors:
        outputs, inputs = shape
        groups = inputs // group
        return {
            "qweight": _words(torch.empty(inputs, outputs // 8)),
            "qzeros": _words(torch.empty(groups, outputs // 8)),
            "scales": (torch.rand(groups, outputs) * 0.02 + 0.001).half(),
        }

    def read(parts: Tensors) -> Tensor:
        outputs, inputs = parts["scales"].shape[1], parts["qweight"].shape[0]
        weight = torch.empty(outputs, inputs)
        for row, column in _places(outputs, inputs):
            place = order.index(row % 8)
            code = _bits(parts["qweight"], (column, row // 8), place, 4)
            zero = _bits(parts["qzeros"], (column // group, row // 8), place, 4)
            weight[row, column] = (code - zero) * parts["scales"][column // group, row].float()
        return weight

    config = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"}
    return Form(config | {"modules_to_not_convert": None}, draw, read, float16=True)


def _places(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    return ((row, column) for row in range(rows) for column in range(columns))


# Small floats of compressed-tensors


def compressed(form: str, weights: dict[str, Any], inputs: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
    """A configuration as the package writes it."""
    whole: dict[str, Any] = {
        "actorder": None,
        "block_structure": None,
        "dynamic": False,
        "group_size": None,
        "observer": "minmax",
    }
    group: dict[str, Any] = {"targets": ["Linear"], "weights": whole | {"symmetric": True, "type": "float"} | weights}
    group |= {"input_activations": inputs, "output_activations": None, "format": form}
    value: dict[str, Any] = {"quant_method": "compressed-tensors", "format": form, "quantization_status": "compressed"}
    value |= {"config_groups": {"group_0": group}, "ignore": ["lm_head"], "kv_cache_scheme": None, "version": "0.12.2"}
    return value | changes


def _codes(*shape: int) -> Tensor:
    """Float8 codes of all values but NaN."""
    drawn = torch.randint(0, 256, shape).to(torch.uint8)
    drawn[(drawn & 0x7F) == 0x7F] = 0x11
    return drawn.view(torch.float8_e4m3fn)


def float8(strategy: str, *, dtype: torch.dtype = torch.bfloat16, static: bool = False) -> Form:
    block = (16, 16)

    def draw(shape: tuple[int, int]) -> Tensors:
        grid = {"tensor": (1,), "channel": (shape[0], 1), "block": (shape[0] // 16, shape[1] // 16)}[strategy]
        scales = (torch.rand(grid) * 1e-3 + 1e-5).to(dtype)
        more = {"input_scale": torch.rand(1).to(dtype)} if static else {}
        return {"weight": _codes(*shape), "weight_scale": scales} | more

    def read(parts: Tensors) -> Tensor:
        codes, scales = parts["weight"].float(), parts["weight_scale"].float()
        weight = torch.empty(codes.shape)
        for row, column in _places(*codes.shape):
            at = {"tensor": (0,), "channel": (row, 0), "block": (row // block[0], column // block[1])}[strategy]
            weight[row, column] = codes[row, column] * scales[at]
        return weight

    weights = {"num_bits": 8, "strategy": strategy} | ({"block_structure": list(block)} if strategy == "block" else {})
    inputs = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": not static}
    inputs |= {"strategy": "tensor" if static else "token"}
    return Form(compressed("float-quantized", weights, inputs), draw, read)


def float4(*, nv: bool) -> Form:
    group = 16 if nv else 32

    def draw(shape: tuple[int, int]) -> Tensors:
        outputs, inputs = shape
        codes = {"weight_packed": torch.randint(0, 256, (outputs, inputs // 2)).to(torch.uint8)}
        if not nv:
            return codes | {"weight_scale": torch.randint(117, 124, (outputs, inputs // 32)).to(torch.uint8)}
        scales = (torch.rand(outputs, inputs // 16) * 200 + 1).to(torch.float8_e4m3fn)
        whole = {"weight_global_scale": torch.tensor([7000.0]), "input_global_scale": torch.tensor([300.0])}
        return codes | {"weight_scale": scales} | whole

    def read(parts: Tensors) -> Tensor:
        codes = parts["weight_packed"]
        weight = torch.empty(codes.shape[0], 2 * codes.shape[1])
        for row, column in _places(*weight.shape):
            code = (int(codes[row, column // 2]) >> (4 * (column % 2))) & 0xF
            stored = parts["weight_scale"][row, column // group]
            scale = stored.float() / parts["weight_global_scale"][0] if nv else 2.0 ** (int(stored) - 127)
            weight[row, column] = _FP4[code & 7] * (-1 if code & 8 else 1) * scale
        return weight

    name = "nvfp4-pack-quantized" if nv else "mxfp4-pack-quantized"
    kind = {"num_bits": 4, "strategy": "tensor_group" if nv else "group", "group_size": group}
    inputs = {"num_bits": 4, "type": "float", "symmetric": True, "dynamic": "local", "group_size": group}
    inputs |= {"strategy": "tensor_group"}
    return Form(compressed(name, kind, inputs if nv else None), draw, read)


def one_scale() -> Form:
    """Float8 with one scale for a weight and one for its inputs, as Mistral publishes models."""

    def draw(shape: tuple[int, int]) -> Tensors:
        scales = {name: torch.tensor(value).bfloat16() for name, value in SCALARS.items()}
        return {"weight": _codes(*shape)} | scales

    def read(parts: Tensors) -> Tensor:
        return parts["weight"].float() * parts["weight_scale_inv"].float()

    config = {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None, "dequantize": False}
    return Form(config | {"modules_to_not_convert": ["lm_head"]}, draw, read)


SCALARS = {"weight_scale_inv": 2e-4, "activation_scale": 0.03}

FORMS: dict[str, Form] = {
    "gptq": gptq(4, 16, 1, ordered=False),
    "gptq of 8 bits": gptq(8, -1, 1, ordered=False),
    "gptq_v2 by activation": gptq(4, 16, 0, ordered=True),
    "awq": awq(16),
    "float8 by channel": float8("channel"),
    "float8 by tensor, static": float8("tensor", dtype=torch.float32, static=True),
    "float8 by block": float8("block"),
    "nvfp4": float4(nv=True),
    "mxfp4": float4(nv=False),
    "fp8 with one scale": one_scale(),
}
