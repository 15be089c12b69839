"""Quantised weights in a policy: their codes and their scales can be frozen, and nothing else."""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Final, NamedTuple

from app.errors import PolicyError
from app.freeze.policy import WHOLE_RUN, Intervals, Policy
from app.freeze.tensors import TensorInfo

#: The classes of layers whose tensors, apart from a bias, are a quantised weight.
LAYERS: Final = (
    *("Linear4bit", "Linear8bitLt", "CompressedLinear"),
    *("DecodedLinear", "DecodedEmbedding", "DecodedExperts"),
)
_OF_AN_EXPERT = re.compile(r"(.+)\.\d+\.\w+")
#: Weights of a 4-bit kind that share a scale.
_BLOCK: Final = 64


class Decided(NamedTuple):
    """What a policy says of one tensor."""

    tensor: TensorInfo
    action: str
    intervals: Intervals
    rule: str


def is_quantised(tensor: TensorInfo) -> bool:
    """Whether a live tensor is a part of a quantised weight: its codes, or one of its scales."""
    layer = tensor.module_types[-1] if tensor.module_types else ""
    return layer in LAYERS and not tensor.name.endswith(".bias")


def packed(tensors: Iterable[TensorInfo], kind: str) -> list[TensorInfo]:
    """About what loading makes of a plain model that it quantises: for estimates, before there is a model.

    Weights of linear layers in numbered blocks become codes with their scales; only the loaded model shows which do.
    """
    made: list[TensorInfo] = []
    for tensor in tensors:
        made += _packed(tensor, kind) if _in_a_block(tensor) else [tensor]
    return made


def _in_a_block(tensor: TensorInfo) -> bool:
    linear = tensor.module_types[-1:] in (("Linear",), ("Conv1D",)) and tensor.name.endswith(".weight")
    return linear and len(tensor.shape) == 2 and any(part.isdecimal() for part in tensor.name.split("."))


def _packed(tensor: TensorInfo, kind: str) -> list[TensorInfo]:
    layer = "Linear8bitLt" if kind == "int8" else "Linear4bit"
    types = (*tensor.module_types[:-1], layer)
    if kind == "int8":
        codes, scales = replace(tensor, dtype="I8"), {"SCB": (tensor.shape[0],)}
        beside = tensor.name.removesuffix("weight")
    else:
        codes = replace(tensor, dtype="U8", shape=((tensor.elements + 1) // 2, 1), unpacked=tensor.shape)
        scales = {"absmax": (-(-tensor.elements // _BLOCK),), "quant_map": (2**4,)}
        beside = f"{tensor.name}."
    infos = [TensorInfo(f"{beside}{name}", shape, "F32", kind="buffer") for name, shape in scales.items()]
    return [replace(each, module_types=types) for each in (codes, *infos)]


def weight_beside(name: str) -> str:
    """The name of the codes of the quantised weight that a scale belongs to."""
    module, found, _ = name.rpartition(".weight.")
    return f"{module}.weight" if found else f"{name.rpartition('.')[0]}.weight"


def weights_beside(name: str) -> tuple[str, ...]:
    """The names that the weight which a scale belongs to may have in the model, the likeliest first.

    Where experts are joined their scales are not (`experts.3.up_proj.weight_scale_inv`), and those of a module are
    frozen together.
    """
    module, _, leaf = name.rpartition(".")
    joined = _OF_AN_EXPERT.fullmatch(module)
    own = (f"{module}.{leaf.removesuffix('_scales')}",) if leaf.endswith("_scales") else ()
    return (weight_beside(name), *own, *((f"{joined[1]}.down_proj",) if joined else ()))


def refuse_trained(policy: Policy, decided: Iterable[Decided]) -> None:
    """Raises PolicyError where the policy trains a part of a quantised weight, at some steps or in some rows."""
    if not policy.enforce:
        return
    wrong = [each for each in decided if is_quantised(each.tensor) and not _frozen(each)]
    if not wrong:
        return
    first = min(wrong, key=lambda each: each.tensor.kind != "parameter")
    rule = next((rule for rule in policy.rules if rule.id == first.rule), None)
    who = "the default" if rule is None else f"rule '{rule.id}'"
    more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    raise PolicyError(
        f"{who} does not freeze '{first.tensor.name}'{more} for the whole run: parts of quantised weights, whose whole "
        'numbers and scales have no gradient and can only be frozen; let the default be "freeze" with rules for what '
        "trains, such as a new head, or give the model an adapter",
        param="freeze_policy" if rule is None else rule.at,
        code="quantised_weights_train",
    )


def _frozen(decided: Decided) -> bool:
    return decided.action == "freeze" and decided.intervals == WHOLE_RUN
