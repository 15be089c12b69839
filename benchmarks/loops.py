"""The same work by our loop, by a hand-written one, by the HF Trainer and by Lightning: a round of steps a call."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import greenlet
import pytorch_lightning as lightning
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from benchmarks.work import RATE, Case, Material
from worker.trainer.data.batch import Batch
from worker.trainer.training import loop

#: BENCH_CLOCK=cpu counts processor time, which other processes of a busy machine change least.
CLOCK = time.process_time if os.environ.get("BENCH_CLOCK") == "cpu" else time.perf_counter

Round = Callable[[], float]  # steps per second

HAND, HF, LIGHTNING = "a hand-written loop", "the HF Trainer", "Lightning"


def ours(run: loop.Run, case: Case) -> Round:
    """`train` itself, once: each round is the next steps of one long run, all that `train` does between them included.

    In between it stands still in the middle of its loop, and so does the clock by which its witness keeps to a budget.
    """
    run.job = replace(run.job, total_steps=sys.maxsize)
    outside = greenlet.getcurrent()
    inside = greenlet.greenlet(lambda: loop.train(run))
    look = run.witness.after_step
    taken = 0

    def after_step() -> None:
        nonlocal taken
        look()
        taken += 1
        if taken % case.steps == 0:
            ended = CLOCK()
            outside.switch(ended)
            run.witness.witness._budget.started += CLOCK() - ended

    run.witness.after_step = after_step  # type: ignore[method-assign]

    def go() -> float:
        began = CLOCK()
        ended: float = inside.switch()
        return case.steps / (ended - began)

    return go


def hand_written(given: Material, case: Case, folder: Path) -> Round:
    """What one would write in an afternoon, at its best: a DataLoader, fused AdamW over what trains, no frills."""
    model = given.model
    parameters = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    rounds = parts(given, case)

    def go() -> float:
        model.train()
        pending = iter(loader(next(rounds)))
        began = CLOCK()
        for _ in range(case.steps):
            batch = next(pending).to(torch.device(case.device))
            loss = loss_of(model, batch, case)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()
        return case.steps / (CLOCK() - began)

    return go


def hf_trainer(given: Material, case: Case, folder: Path) -> Round:
    """Its own loop over the same batches; timed from the first step's begin to the last one's end."""
    model = given.model if hasattr(given.model, "config") else WithLoss(given.model)

    class Clock(TrainerCallback):
        first = last = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.first = self.first or CLOCK()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.last = CLOCK()

    def collate(batches: list[Batch]) -> dict[str, Any]:
        return {**batches[0].inputs, "labels": batches[0].targets}

    rounds = parts(given, case)

    def go() -> float:
        clock = Clock()
        arguments = TrainingArguments(
            output_dir=str(folder / "hf"),
            per_device_train_batch_size=1,  # an item of the data set is a whole batch here
            max_steps=case.steps,
            learning_rate=RATE,
            optim="adamw_torch_fused",
            weight_decay=0.0,
            lr_scheduler_type="constant",
            max_grad_norm=1.0,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=case.device == "cpu",
            bf16=case.precision == "bf16",
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=next(rounds), data_collator=collate)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(clock)
        trainer.train()
        return case.steps / (clock.last - clock.first)

    return go


def lightning_trainer(given: Material, case: Case, folder: Path) -> Round:
    """Its own loop over the same batches, timed in the same way, with nothing of it on that a loop does not need."""

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = given.model

        def training_step(self, batch: Batch, index: int) -> torch.Tensor:
            loss = loss_of(self.model, batch, case)
            self.log("loss", loss)
            return loss

        def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
            return batch.to(device)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            parameters = [each for each in self.model.parameters() if each.requires_grad]
            return torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0, fused=True)

    class Clock(lightning.Callback):
        first = last = 0.0

        def on_train_batch_start(self, *arguments: Any) -> None:
            self.first = self.first or CLOCK()

        def on_train_batch_end(self, *arguments: Any) -> None:
            self.last = CLOCK()

    module, rounds = Module(), parts(given, case)

    def go() -> float:
        clock = Clock()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on workers and logging intervals
            trainer = lightning.Trainer(
                max_steps=case.steps,
                accelerator="cpu" if case.device == "cpu" else "gpu",
                devices=1,
                gradient_clip_val=1.0,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                callbacks=[clock],
                default_root_dir=str(folder),
            )
            module.train()
            trainer.fit(module, loader(next(rounds)))
        return case.steps / (clock.last - clock.first)

    return go


class WithLoss(nn.Module):
    """A plain model as the HF Trainer wants it: labels in, loss out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.model(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


class Batches(Dataset[Batch]):
    """The job's own batches of the steps from `first` on, collated on demand."""

    def __init__(self, given: Material, case: Case, first: int) -> None:
        self.given = given
        self.steps = case.steps
        self.first = first

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> Batch:
        return self.given.training.batch(self.given.order.positions(self.first + index))


def parts(given: Material, case: Case) -> Iterator[Batches]:
    """The batches of one round after the other."""
    for first in count(1, case.steps):
        yield Batches(given, case, first)


def loader(batches: Batches) -> DataLoader[Batch]:
    return DataLoader(batches, batch_size=None)


def loss_of(model: nn.Module, batch: Batch, case: Case) -> torch.Tensor:
    with torch.autocast(case.device, dtype=torch.bfloat16, enabled=case.precision == "bf16"):
        if hasattr(model, "config"):
            loss: torch.Tensor = model(**batch.inputs, labels=batch.targets).loss
            return loss
        return F.cross_entropy(model(**batch.inputs), batch.targets)
