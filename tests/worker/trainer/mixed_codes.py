"""Tiny bases whose modules are stored in several forms, in the layouts in which such models are published."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from tests.worker.trainer import block_scaled_bases
from tests.worker.trainer.block_scaled_bases import configure
from tests.worker.trainer.published_codes import Form, Tensors, float4, float8, gptq
from tests.worker.trainer.quantised_bases import rewrite

#: Patterns of modules and the forms that they are stored in, the first that fits; None: plain.
Forms = Iterable[tuple[str, Form | None]]

CHANNELS, NVFP4 = float8("channel"), float4(nv=True)
#: NVFP4 of dense layers beside FP8 of attention, the head and the last layers' dense ones.
MIXED: Forms = ((r"self_attn|lm_head|layers\.1\.mlp", CHANNELS), (r"mlp", NVFP4))
FOUR, EIGHT, WIDE = gptq(4, 16, 1, ordered=False), gptq(8, 16, 1, ordered=False), gptq(4, 32, 1, ordered=True)
RULES: Forms = ((r"o_proj", None), (r"down_proj", EIGHT), (r"up_proj", WIDE), (r"_proj", FOUR))


def mixed(folder: Path) -> Path:
    """As llm-compressor and Unsloth publish NVFP4: two groups of modules, and scales of a quantised cache."""
    stored(MIXED, folder)

    def cache(tensors: Tensors) -> None:
        names = (f"model.layers.{layer}.self_attn.{each}_scale" for layer in range(2) for each in "kv")
        tensors.update({name: torch.tensor([0.5]).bfloat16() for name in names})

    rewrite(folder, cache)
    targets = ([r"re:.*self_attn\.(q|k|v|o)_proj$", "lm_head", r"re:.*layers\.1\.mlp\..*"], [r"re:.*mlp\..*_proj$"])
    found = [form.config["config_groups"]["group_0"] for form in (CHANNELS, NVFP4)]
    groups = {f"group_{at}": found[at] | {"targets": targets[at]} for at in range(2)}
    scheme = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor", "dynamic": False}
    more: dict[str, Any] = {"format": "mixed-precision", "config_groups": groups, "kv_cache_scheme": scheme}
    configure(folder, CHANNELS.config | more | {"ignore": ["re:.*visual.*"]})
    return folder


def rules(folder: Path) -> Path:
    """As GPTQModel and Qwen publish GPTQ: rules by which modules stay plain, or have other bits or groups."""
    stored(RULES, folder)
    dynamic: dict[str, Any] = {"lm_head": {}, "-:.*o_proj": {}, "-:.*visual.*": {}}
    changes = {"+:.*down_proj$": {"bits": 8}, ".*up_proj$": {"group_size": 32, "desc_act": True}}
    configure(folder, FOUR.config | {"dynamic": dynamic | changes})
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"bfloat16"', '"float16"'))
    return folder


def stored(forms: Forms, folder: Path) -> None:
    """A decoder each of whose linear layers is stored in the form of its name."""
    block_scaled_bases.qwen3(folder)
    torch.manual_seed(6)

    def write(tensors: Tensors) -> None:
        plain = {name: each for name, each in tensors.items() if name.endswith(("_proj.weight", "lm_head.weight"))}
        half = any(form is not None and form.float16 for _, form in forms)
        for name, codes in plain.items():
            form, shape = of(name, forms), tuple(codes.shape)
            del tensors[name]
            tensors.pop(f"{name}_scale_inv", None)
            made = form.draw((shape[0], shape[1])) if form else {"weight": torch.rand(shape).bfloat16() / 8}
            tensors |= {f"{name.removesuffix('weight')}{leaf}": each for leaf, each in made.items()}
        for name, each in tensors.items() if half else ():
            tensors[name] = each.half() if each.dtype == torch.bfloat16 else each

    rewrite(folder, write)


def of(name: str, forms: Forms) -> Form | None:
    """The form of a weight."""
    return next((form for pattern, form in forms if re.search(pattern, name)), None)


def plain(forms: Forms, tensors: Tensors, dtype: torch.dtype) -> Tensors:
    """The weights of a file's codes by their plain names, each read value by value in its form."""
    weights = {}
    for module in {name.rpartition(".")[0] for name in tensors}:
        inside = {name.rpartition(".")[2]: each for name, each in tensors.items() if name.startswith(f"{module}.")}
        form = of(f"{module}.", forms) if module.endswith(("_proj", "lm_head")) else None
        if form is not None:
            weights[f"{module}.weight"] = form.read(inside).to(dtype)
    return weights


BASES: dict[str, tuple[Callable[[Path], Path], Forms, torch.dtype]] = {
    "mixed precision": (mixed, MIXED, torch.bfloat16),
    "rules of gptq": (rules, RULES, torch.float16),
}
