"""A LoRA adapter over a small model with its evidence, and changes by a lying signer."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from app.evidence.format.statement import Row, base_readings, total
from app.evidence.verifier.check_policy import plan_of
from app.evidence.verifier.report import VerificationReport
from tests.loading.folders import _tensor
from tests.tamper.kit import World, flipped, readings
from tests.worker.trainer import tiny

TARGET = "q_proj"


def make(folder: Path) -> Path:
    """`base` and `adapter` under the folder, as transformers and peft save them."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    tiny.llama(folder / "base", tie_word_embeddings=False)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder / "base"),
        LoraConfig(r=2, target_modules=[TARGET], task_type="CAUSAL_LM"),
    )
    model.save_pretrained(folder / "adapter")
    return folder


class Adapter(World):
    """A world of the tamper suite whose result is a real adapter."""

    def __init__(self, root: Path, source: Path) -> None:
        shutil.copytree(source / "base", root / "base")
        self.config: dict[str, Any] = json.loads((source / "adapter" / "adapter_config.json").read_text())
        stored = load_file(source / "adapter" / "adapter_model.safetensors")
        super().__init__(
            root,
            result_weights={"adapter_model.safetensors": {name: _tensor(value) for name, value in stored.items()}},
            result_files={},
            policy={"train": ["**.default.**"]},
        )

    def __post_init__(self) -> None:
        self.base, self.result = self.root / "base", self.root / "result"
        self.attestation = self.root / "attestation.json"

    def write(self) -> None:
        from tests.tamper.kit import file_bytes

        shutil.rmtree(self.result, ignore_errors=True)
        self.result.mkdir(parents=True)
        (self.result / "adapter_config.json").write_text(json.dumps(self.config))
        for name, tensors in self.result_weights.items():
            (self.result / name).write_bytes(file_bytes(tensors))
        for name, data in self.result_files.items():
            (self.result / name).write_bytes(data)

    def rows(self) -> tuple[Row, ...]:
        drafts = []
        for name, reading in readings(self.result).items():
            live = re.sub(r"\.([^.]+)$", r".default.\1", name)
            drafts.append(Row(name=live, role="new", initial=reading, result=reading, changed=True))
        for name, reading in readings(self.base).items():
            live = "base_model.model." + name.replace(f"{TARGET}.", f"{TARGET}.base_layer.")
            drafts.append(Row(name=live, role="frozen", base=reading, changed=False))
        plan = plan_of(drafts, self.policy)
        decided = [(row, plan.decision(row.name)) for row in drafts]
        return tuple(row._replace(rule=found.rule, mechanism=found.mechanism) for row, found in decided)

    def verified(self) -> VerificationReport:
        self.write()
        rows = self.rows()
        self.pinned = total(base_readings(rows)).root
        self.sign(self.predicate(rows=rows, result_kind="adapter"))
        return self.verify(3)

    def expected(self) -> dict[str, str]:
        return {row.name: row.base.sha256 for row in self.rows() if row.role == "frozen" and row.base}


NAMES: tuple[Callable[[str], str], ...] = (
    lambda name: f"base_model.model.{name}",
    lambda name: name,
    lambda name: f"base_model.{name}",
    lambda name: f"model.{name}",
    lambda name: f"base_model.model.model.{name}",
    lambda name: "base_model.model." + name.replace(f"{TARGET}.", f"{TARGET}.base_layer."),
    lambda name: "base_model.model." + name.replace(".weight", ".default.weight"),
    lambda name: "base_model.model." + name.replace(".weight", ".original_module.weight"),
    lambda name: "base_model.model." + name.replace(".weight", ".modules_to_save.default.weight"),
    lambda name: "base_model.model." + name.replace(".weight", ".lora_A.weight"),
    lambda name: "base_model.model.unrelated." + name,
)


def overlaid(adapter: Adapter, number: int) -> None:
    """A changed tensor of the base, in the adapter's file."""
    base = load_file(adapter.base / "model.safetensors")
    names = sorted(base)
    name = names[number // len(NAMES) % len(names)]
    dtype, shape, data = _tensor(base[name])
    other = NAMES[number % len(NAMES)](name)
    adapter.result_weights["adapter_model.safetensors"].setdefault(other, (dtype, shape, flipped(data)))


SETTINGS: tuple[dict[str, Any], ...] = (
    {"init_lora_weights": "pissa"},
    {"init_lora_weights": "olora"},
    {"init_lora_weights": "gaussian"},
    {"init_lora_weights": False},
    {"bias": "all"},
    {"modules_to_save": ["lm_head"]},
    {"modules_to_save": ["norm"]},
    {"layer_replication": [[0, 1], [0, 2]]},
    {"lora_alpha": 64},
    {"use_rslora": True},
    {"inference_mode": False},
    {"peft_type": "IA3"},
    {"kasa_config": {}},
    {"use_dora": True},
    {"monteclora_config": {}},
)


def copied(adapter: Adapter, number: int) -> None:
    """A module that peft keeps a copy of, with other bytes for the copy or for the original."""
    modules = ("model.norm", "lm_head", "layers.0.mlp", "layers.1.self_attn")
    module = modules[number % len(modules)]
    adapter.config |= {"modules_to_save": [module]}
    base = load_file(adapter.base / "model.safetensors")
    for name in (name for name in sorted(base) if f"{module}." in name):
        dtype, shape, data = _tensor(base[name])
        adapter.result_weights["adapter_model.safetensors"][f"base_model.model.{name}"] = (dtype, shape, flipped(data))
        if number // len(modules) % 2:
            other = f"base_model.model.{name}".replace(f"{module}.", f"{module}.original_module.")
            adapter.result_weights["adapter_model.safetensors"][other] = (dtype, shape, flipped(data))


def configured(adapter: Adapter, number: int) -> None:
    adapter.config |= SETTINGS[number % len(SETTINGS)]


def beside(adapter: Adapter, number: int) -> None:
    if number % 3 == 0:
        path = adapter.root / "weights.bin"
        torch.save({"a": torch.zeros(1)}, path)
        adapter.result_files["adapter_model.bin"] = path.read_bytes()
    elif number % 3 == 1:
        adapter.result_files["README.md"] = b"text"
    else:
        file = adapter.result_weights["adapter_model.safetensors"]
        adapter.result_weights["adapter_other.safetensors"] = {"x": next(iter(file.values()))}


def harmless(adapter: Adapter, number: int) -> None:
    """A README, another scale, or where the adapter was trained."""
    if number % 3 == 0:
        adapter.result_files["README.md"] = b"text"
    else:
        adapter.config |= {"lora_alpha": number % 64 + 1} if number % 3 == 1 else {"task_type": "CAUSAL_LM"}


CHANGES: tuple[Callable[[Adapter, int], None], ...] = (
    harmless,
    overlaid,
    harmless,
    configured,
    configured,
    beside,
    copied,
)
