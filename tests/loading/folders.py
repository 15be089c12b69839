"""Results of small real models with their evidence, and changes by a lying signer, who signs whatever they lead to.

A `Folder` is a base, a result and a statement about both, all consistent. `CHANGES` are done to the result; each is a
function of the folder and a number that chooses among its variants.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hypothesis import reject
from safetensors.torch import load_file
from transformers import Lfm2Config, Lfm2ForCausalLM

from app.evidence.format.statement import Row, base_readings, changed, total
from app.evidence.verifier.check_policy import plan_of
from app.evidence.verifier.report import VerificationReport
from tests.tamper.kit import Tensor, World, flipped, readings
from tests.worker.trainer import tiny

CODES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}


@dataclass(frozen=True)
class Model:
    """A base, the class of the result, and what is frozen: names of the base that contain one of `frozen`."""

    make: Callable[[Path], Any]
    result_class: str
    base_class: str
    prefix: str  # of the result's names before the base's
    frozen: tuple[str, ...]
    new: tuple[tuple[str, tuple[int, ...]], ...] = ()
    config: dict[str, Any] = field(default_factory=dict)


MODELS: dict[str, Model] = {
    "bert": Model(
        lambda path: tiny.bert(path),
        "AutoModelForSequenceClassification",
        "AutoModel",
        "bert.",
        ("encoder.layer", "LayerNorm"),
        (("classifier.weight", (2, 32)), ("classifier.bias", (2,))),
        {"architectures": ["BertForSequenceClassification"], "num_labels": 2},
    ),
    "llama": Model(
        lambda path: tiny.llama(path, tie_word_embeddings=False),
        "AutoModelForCausalLM",
        "AutoModel",
        "",
        ("layers.0", "lm_head"),
    ),
    "llama, tied": Model(lambda path: tiny.llama(path), "AutoModelForCausalLM", "AutoModel", "", ("embed", "layers.0")),
    "mixtral": Model(
        lambda path: tiny.mixtral(path), "AutoModelForCausalLM", "AutoModel", "", ("experts", "self_attn", "norm")
    ),
    "hybrid": Model(lambda path: _hybrid(path), "AutoModelForCausalLM", "AutoModel", "", ("layers.",)),
}


def _hybrid(path: Path) -> None:
    """A layer of each kind, which the class takes from another key: there is no list of them."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = Lfm2Config(**sizes, vocab_size=32, num_hidden_layers=2, full_attn_idxs=[1], block_auto_adjust_ff_dim=False)
    torch.manual_seed(0)
    Lfm2ForCausalLM(config).save_pretrained(path)
    content = json.loads((path / "config.json").read_text())
    del content["layer_types"]
    (path / "config.json").write_text(json.dumps(content))


class Folder(World):
    """A world of the tamper suite whose files are those of a real model."""

    def __init__(self, root: Path, model: Model, base: Path) -> None:
        self.model = model
        shutil.copytree(base, root / "base")
        tensors = {name: _tensor(value) for name, value in load_file(base / "model.safetensors").items()}
        config = json.loads((base / "config.json").read_text()) | model.config
        result: dict[str, Tensor] = {}
        self.pairs: dict[str, str] = {}
        for name, value in tensors.items():
            own = model.prefix + name
            self.pairs[own] = name
            result[own] = value if self.is_frozen(name) else (value[0], value[1], flipped(value[2]))
        for name, shape in model.new:
            result[name] = _tensor(torch.full(shape, 0.25))
        self.config = config
        super().__init__(
            root,
            base_weights={"model.safetensors": tensors},
            result_weights={"model.safetensors": result},
            result_files={},
            policy={"freeze": ["nothing"]},
        )
        self.write()

    def is_frozen(self, base_name: str) -> bool:
        return any(part in base_name for part in self.model.frozen)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Tensors of the result's first file, which holds all of them unless a change has spread them."""
        return self.result_weights[min(self.result_weights)]

    def write(self) -> None:
        shutil.rmtree(self.result, ignore_errors=True)  # a change may have taken a file away
        self.result.mkdir(parents=True)
        (self.result / "config.json").write_text(json.dumps(self.config))
        base, self.base_weights = self.base_weights, {}
        try:
            super().write()
        finally:
            self.base_weights = base
        shutil.copyfile(self.root / "source.json", self.base / "config.json")

    def __post_init__(self) -> None:
        shutil.copyfile(self.root / "base" / "config.json", self.root / "source.json")
        self.base, self.result = self.root / "base", self.root / "result"
        self.attestation = self.root / "attestation.json"

    def rows(self) -> tuple[Row, ...]:
        """Honest rows for what has a pair in the base, and new ones for all else."""
        base, result = readings(self.base), readings(self.result)
        drafts: list[Row] = []
        for name, after in result.items():
            before = base.get(self.pairs.get(name, ""))
            live, part, shape = self._live(name, result)
            own: dict[str, Any] = {} if part is None else {"part": part, "shape": shape, "dtype": after.dtype}
            drafts.append(
                Row(name=live, role="new", base=before, result=after, changed=changed(before, after), **own)
                if before
                else Row(name=live, role="new", initial=after, result=after, changed=True, **own)
            )
        frozen = sorted({row.name for row in drafts if row.base and row.result and self.is_frozen(row.base.name)})
        if not frozen:
            reject()  # changes that together leave nothing to prove
        self.policy = {"freeze": frozen}
        plan = plan_of(drafts, self.policy)
        rows = []
        for row in drafts:
            decision = plan.decision(row.name)
            role = "new" if row.base is None else "frozen" if decision.action == "freeze" else "trainable"
            rows.append(row._replace(rule=decision.rule, mechanism=decision.mechanism, role=role))
        used = {row.base.name for row in rows if row.base}
        rows += [Row(name=name, role="dropped", base=base[name], changed=False) for name in sorted(set(base) - used)]
        return tuple(rows)

    def _live(self, name: str, result: dict[str, Any]) -> tuple[str, tuple[int, int] | None, tuple[int, ...] | None]:
        """Mixtral's experts are two live tensors, of which each stored one is a part."""
        if self.model is not MODELS["mixtral"] or name not in self.pairs or ".experts." not in name:
            return name, None, None
        head, _, tail = self.pairs[name].partition(".experts.")
        number, which = int(tail.split(".")[0]), tail.split(".")[1]
        rows, width = result[name].shape
        target = {"w1": "gate_up_proj", "w3": "gate_up_proj", "w2": "down_proj"}[which]
        each = 2 if which != "w2" else 1
        start = (number * each + (which == "w3")) * rows
        shape = (2, each * rows, width)
        live = f"{self.model.prefix}{head.replace('block_sparse_moe', 'mlp')}.experts.{target}"
        assert start + rows <= math.prod(shape[:-1])
        return live, (start, start + rows), shape

    def verified(self) -> VerificationReport:
        """The report on what the signer says about the folder as it is, with the base at hand."""
        rows = self.rows()
        self.pinned = total(base_readings(rows)).root
        self.sign(self.predicate(rows=rows))
        return self.verify(3)

    def expected(self) -> dict[str, str]:
        """Digests of the frozen tensors by live name, as the base's files have them. A part stands for its rows."""
        return {
            f"{row.name}@{row.part[0]}-{row.part[1]}" if row.part else row.name: row.base.sha256
            for row in self.rows()
            if row.role == "frozen" and row.base
        }


def _tensor(value: torch.Tensor) -> Tensor:
    data = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return CODES[value.dtype], tuple(value.shape), data


Change = Callable[[Folder, int], None]


def _pick(folder: Folder, number: int) -> str:
    names = sorted(folder.tensors)
    return names[number % len(names)]


def harmless(folder: Folder, number: int) -> None:
    """A README, a tokenizer's file, a tensor of no model, or a shard more, with its index."""
    if number % 3 == 0:
        folder.result_files["README.md"] = b"text"
    elif number % 3 == 1:
        folder.tensors[f"unrelated.{number}"] = ("F32", (1,), b"\0\0\0\0")
    else:
        shards(folder, number)


def shards(folder: Folder, number: int) -> None:
    """The weights in two or three files, with the index that says so."""
    if set(folder.result_weights) != {"model.safetensors"}:
        return
    tensors, count = folder.result_weights.pop("model.safetensors"), 2 + number % 2
    for at, (name, value) in enumerate(sorted(tensors.items())):
        file = f"model-{at % count + 1:05}-of-{count:05}.safetensors"
        folder.result_weights.setdefault(file, {})[name] = value


def single_beside_shards(folder: Folder, number: int) -> None:
    """One shard is called model.safetensors."""
    shards(folder, number)
    if "model.safetensors" in folder.result_weights:  # beside a file of another change, which would replace it
        return
    first = sorted(folder.result_weights)[number % len(folder.result_weights)]
    folder.result_weights["model.safetensors"] = folder.result_weights.pop(first)


def distributed_names(folder: Folder, number: int) -> None:
    shards(folder, number)
    for at, name in enumerate(sorted(folder.result_weights)):
        folder.result_weights[f"shard-{at + 1:05}-model-00001-of-00001.safetensors"] = folder.result_weights.pop(name)


#: Names that some release of some loader takes for another one.
ALIASES: tuple[Callable[[str, Folder], str], ...] = (
    lambda name, folder: name.removeprefix("bert.").removeprefix("model."),
    lambda name, folder: f"bert.{name}",
    lambda name, folder: f"model.{name}",
    lambda name, folder: f"bert_{name.removeprefix('bert.')}",
    lambda name, folder: f"model-{name.removeprefix('model.')}",
    lambda name, folder: f"transformer.{name}",
    lambda name, folder: f"base_model.model.{name}",
    lambda name, folder: f"_orig_mod.{name}",
    lambda name, folder: f"module.{name}",
    lambda name, folder: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
        "LayerNorm.bias", "LayerNorm.beta"
    ),
    lambda name, folder: name.removesuffix("weight") + "gamma",
    lambda name, folder: name.removesuffix("bias") + "beta",
    lambda name, folder: name.replace("norm.weight", "norm.gamma"),
    lambda name, folder: name.removesuffix("weight") + "weight_g",
    lambda name, folder: name.removesuffix("weight") + "weight_v",
    lambda name, folder: name.removesuffix("weight") + "parametrizations.weight.original0",
    lambda name, folder: name.replace("block_sparse_moe", "mlp"),
    lambda name, folder: name.replace("experts.0", "experts.00"),
    lambda name, folder: name.replace("experts.1", "experts.2"),
    lambda name, folder: name.replace("self_attn", "attn").replace("o_proj", "out_proj"),
    lambda name, folder: name.replace("layers.0", "layers.00"),
    lambda name, folder: name.upper(),
    lambda name, folder: name + ".",
    lambda name, folder: "language_model." + name,
)


def doubled(folder: Folder, number: int) -> None:
    """Other bytes under another name of a tensor of the model."""
    files = sorted(folder.result_weights)
    file = folder.result_weights[files[number % len(files)]]
    known = {name for tensors in folder.result_weights.values() for name in tensors}
    frozen = sorted(name for name in file if name in folder.pairs and folder.is_frozen(folder.pairs[name])) or sorted(
        file
    )
    name = frozen[number // len(ALIASES) % len(frozen)]
    other = ALIASES[number % len(ALIASES)](name, folder)
    if other not in known and other:
        dtype, shape, data = file[name]
        file[other] = (dtype, shape, flipped(data, number % len(data)))


def fused_beside_parts(folder: Folder, number: int) -> None:
    """The experts as one tensor, beside the experts one by one."""
    for name in [
        name for tensors in list(folder.result_weights.values()) for name in tensors if ".experts.0.w1" in name
    ]:
        where = next(tensors for tensors in folder.result_weights.values() if name in tensors)
        dtype, (rows, width), data = where[name]
        fused = name.partition(".experts.")[0].replace("block_sparse_moe", ("mlp", "block_sparse_moe")[number % 2])
        where[f"{fused}.experts.gate_up_proj"] = (dtype, (2, 2 * rows, width), flipped(data) * 4)


def hidden(folder: Folder, number: int) -> None:
    """What was proved has a prefix more, and others have its names."""
    prefix = ("xx.", "bert.", "model.", "base_model.", "vit.")[number % 5]
    if set(folder.result_weights) != {"model.safetensors"}:
        return
    tensors, pairs = dict(folder.tensors), dict(folder.pairs)
    folder.pairs.clear()
    folder.tensors.clear()
    for name, value in tensors.items():
        if name in pairs:
            folder.tensors[prefix + name] = value
            folder.pairs[prefix + name] = pairs[name]
            folder.tensors.setdefault(name, (value[0], value[1], flipped(value[2])))
        else:
            folder.tensors.setdefault(name, value)


def shifted_experts(folder: Folder, number: int) -> None:
    """The first expert's tensors are dropped, and others come behind the last."""
    for tensors in folder.result_weights.values():
        for name in [name for name in tensors if ".experts.0." in name]:
            value = tensors.pop(name)
            folder.pairs.pop(name, None)
            tensors[name.replace(".experts.0.", ".experts.7.")] = (value[0], value[1], flipped(value[2]))


def tied(folder: Folder, number: int) -> None:
    """Both names of a tie, with other bytes under one of them."""
    for tensors in folder.result_weights.values():
        source = next(
            (name for name in tensors if name.endswith(("embed_tokens.weight", "word_embeddings.weight"))), None
        )
        if source is not None:
            dtype, shape, data = tensors[source]
            target = ("lm_head.weight", "cls.predictions.decoder.weight")[number % 2]
            if not any(target in each for each in folder.result_weights.values()):
                tensors[target] = (dtype, shape, flipped(data))
            folder.config["tie_word_embeddings"] = bool(number // 2 % 2)
            if number // 4 % 3 == 0:  # the copy alone is stored
                folder.pairs.pop(source, None)
                tensors.pop(source)
            return


#: What a configuration can do to weights, or does not do.
SETTINGS: tuple[dict[str, Any], ...] = (
    {"dtype": "float16"},
    {"torch_dtype": "bfloat16", "dtype": None},
    {"dtype": "float32", "torch_dtype": "float16"},
    {"tie_word_embeddings": True},
    {"tie_word_embeddings": False},
    {"transformers_weights": "other.safetensors"},
    {"auto_map": {"AutoModel": "modeling.Model"}},
    {"model_type": "roberta"},
    {"model_type": "mistral"},
    {"hidden_dropout_prob": 0.5},
    {"num_hidden_layers": 1},
    {"architectures": ["BertForMaskedLM"]},
    {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
    {"tie_encoder_decoder": True},
    {"pruned_heads": {"0": [0]}},
    {"torchscript": True},
    {"use_cache": False},
    {"attribute_map": {"tie_word_embeddings": "other"}, "other": True},
    {"attribute_map": {"dtype": "other"}, "other": "float16"},
    {"model_type": None, "dtype": "float16"},
    {"num_hidden_layers": 1, "encoder_layers": 99},
    {"layer_types": ["conv", "full_attention"]},
    {"layer_types": ["full_attention", "conv"]},
    {"full_attn_idxs": []},
)


def configured(folder: Folder, number: int) -> None:
    folder.config |= SETTINGS[number % len(SETTINGS)]


def beside(folder: Folder, number: int) -> None:
    """Files that some loader reads."""
    tensors = {name: torch.zeros(1) for name in ("a",)}
    which = number % 9
    if which == 0:
        path = folder.root / "weights.bin"
        torch.save(tensors, path)
        folder.result_files["pytorch_model.bin"] = path.read_bytes()
    elif which == 1:
        folder.result_files["adapter_config.json"] = b'{"peft_type": "LORA", "base_model_name_or_path": "."}'
    elif which == 2:
        module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
        folder.result_files["modules.json"] = json.dumps([module]).encode()
    elif which == 3:
        folder.result_files["model.safetensors.index.fp16.json"] = b'{"metadata": {}, "weight_map": {}}'
    elif which == 4:
        folder.result_files["generation_config.json"] = b'{"max_length": 7}'
    elif which == 5:
        name = _pick(folder, number) if "model.safetensors" in folder.result_weights else None
        if name is not None:
            dtype, shape, data = folder.tensors[name]
            folder.result_weights["model.fp16.safetensors"] = {f"{name}.other": (dtype, shape, flipped(data))}
    elif which == 6:
        folder.result_files["modeling.py"] = b"pass"
    elif which == 7:
        folder.result_files["config.4.0.0.json"] = json.dumps(folder.config | {"dtype": "float16"}).encode()
        folder.config["configuration_files"] = ["config.4.0.0.json"]
    else:
        folder.result_files["tf_model.h5"] = b"\x89HDF"


CHANGES: tuple[Change, ...] = (
    harmless,
    shards,
    single_beside_shards,
    distributed_names,
    doubled,
    doubled,
    doubled,
    fused_beside_parts,
    hidden,
    shifted_experts,
    tied,
    configured,
    beside,
)
