"""Lists every tensor of a live model by name, with ties (found by storage) and the types of its modules."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from app.errors import PolicyError
from app.freeze.plan import TensorInfo
from worker.trainer.freeze.quantised_parts import shape_of
from worker.trainer.freeze.tensor_refs import TensorRef, tensor_refs

# The codes that the safetensors format gives to dtypes.
DTYPE_CODES: dict[torch.dtype, str] = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.int64: "I64",
    torch.uint64: "U64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
}


def tensors(model: nn.Module) -> list[TensorInfo]:
    """Every parameter and buffer, tied ones once. Works on the meta device. PolicyError for a lazy parameter."""
    types = module_types(model)
    return [_describe(group, types) for group in tied(model)]


def tied(model: nn.Module) -> list[list[TensorRef]]:
    """Names grouped by tensor: the first of a group is the tensor's own name, the others are its aliases."""
    groups: dict[Any, list[TensorRef]] = {}
    for ref in tensor_refs(model):
        groups.setdefault(_identity(ref), []).append(ref)
    # A parameter that is registered as a buffer as well trains under its parameter name.
    return [sorted(group, key=lambda ref: ref.kind != "parameter") for group in groups.values()]


def module_types(model: nn.Module) -> dict[str, str]:
    return {path: type(module).__name__ for path, module in model.named_modules(remove_duplicate=False)}


def _identity(ref: TensorRef) -> Any:
    """A key that two names share if they are one tensor: same memory, shape, strides and dtype."""
    tensor = ref.tensor
    if tensor is None or is_lazy(tensor):
        raise PolicyError(
            f"'{ref.name}' is a lazy parameter: it has no shape and no bytes before the first batch, so there is"
            " nothing to be identical to; give its module the sizes",
            param="model",
        )
    try:
        memory = (str(tensor.device), tensor.untyped_storage()._cdata if tensor.is_meta else tensor.data_ptr())
        if tensor.numel() == 0 or not memory[1]:
            return id(tensor)
        return (*memory, tensor.storage_offset() if tensor.is_meta else 0, tensor.shape, tensor.stride(), tensor.dtype)
    except (RuntimeError, NotImplementedError):  # a tensor subclass without a storage of its own (sharded)
        return id(tensor)


def _describe(group: list[TensorRef], types: dict[str, str]) -> TensorInfo:
    ref, tensor = group[0], group[0].tensor
    assert tensor is not None
    return TensorInfo(
        name=ref.name,
        shape=tuple(tensor.shape),
        dtype=dtype_code(tensor, ref.name),
        kind=ref.kind,
        aliases=tuple(alias.name for alias in group[1:]),
        module_types=_types_above(ref.path, types),
        persistent=any(alias.persistent for alias in group),
        unpacked=shape_of(tensor),
    )


def dtype_code(tensor: Tensor, name: str) -> str:
    try:
        return DTYPE_CODES[tensor.dtype]
    except KeyError:
        raise PolicyError(
            f"'{name}' is stored as {tensor.dtype}, which safetensors cannot hold", param="model"
        ) from None


def _types_above(path: str, types: dict[str, str]) -> tuple[str, ...]:
    """Class names of the module at `path` and of those that contain it, root first."""
    parts = path.split(".") if path else []
    return tuple(types[".".join(parts[:depth])] for depth in range(len(parts) + 1))
