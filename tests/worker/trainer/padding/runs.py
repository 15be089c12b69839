"""Runs that are ready for their first step, over texts of very different lengths."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from tests.worker.trainer import tiny, zoo
from tests.worker.trainer.attempts import data, work_order
from worker.protocol import Reporter, WorkOrder, Workspace
from worker.trainer.models import loading
from worker.trainer.models.tracked import TrackedModel
from worker.trainer.padding.removal import Removal
from worker.trainer.training import tasks
from worker.trainer.training.loop import Run
from worker.trainer.training.setup import assemble
from worker.trainer.training.stop import StopRequest

LENGTHS = [1, 26, 3, 2, 19, 5, 3, 11]
TASKS = (
    "text-classification",
    "text-regression",
    "text-ranking",
    "token-classification",
    "pairs",
    "causal-lm",
    "preference",
)


def saved(kind: zoo.Kind) -> Callable[[Path], Path]:
    """Saves a base as transformers initialises it; the zoo's noise lets gradients vanish."""

    def save(folder: Path) -> Path:
        kind.save(folder)
        torch.manual_seed(0)
        model = getattr(transformers, kind.saved)(getattr(transformers, kind.config)(**kind.sizes))
        model.save_pretrained(folder)
        return folder

    return save


def rows(task: str, lengths: list[int] = LENGTHS) -> list[dict[str, Any]]:
    """A text of so many words for each length."""
    words = [[tiny.WORDS[(3 * at + 5 * place) % 21] for place in range(n)] for at, n in enumerate(lengths)]
    texts = [" ".join(each) for each in words]
    if task == "text-regression":
        return [{"text": text, "label": at / 4} for at, text in enumerate(texts)]
    if task == "text-ranking":
        return [{"query": tiny.WORDS[at % 5], "document": text, "score": at % 3 / 2} for at, text in enumerate(texts)]
    if task == "token-classification":
        return [{"tokens": each, "labels": ["ab"[len(word) % 2] for word in each]} for each in words]
    if task == "pairs":
        return [{"anchor": text, "positive": f"a {tiny.WORDS[at % 21]}"} for at, text in enumerate(texts)]
    if task == "causal-lm":
        return [{"text": f"the cat sat on {text}"} for text in texts]
    if task == "preference":
        return [{"prompt": f"the {text}", "chosen": "good very good", "rejected": "bad"} for text in texts]
    return [{"text": text, "label": "ab"[at % 2]} for at, text in enumerate(texts)]


def order(
    root: Path, save: Callable[[Path], Any], task: str, *, lengths: list[int] = LENGTHS, **wanted: Any
) -> WorkOrder:
    """A job over all layers in batches of 8; `wanted` are hyperparameters."""
    place = Workspace(root).create()
    if not any(place.base.iterdir()):
        save(place.base)
    return work_order(
        job_id="j",
        stage="train",
        model={"type": "transformers", "path": "base"},
        task=task,
        data=data(place, rows(task, lengths)),
        hyperparameters={"n_epochs": 2, "batch_size": 8, "learning_rate": 0.01} | wanted,
        policy={"default": "train", "rules": []},
        seed=5,
        device="cpu",
    )


def prepared(given: WorkOrder, root: Path) -> Run:
    place = Workspace(root)
    task = str(given.task)
    source = tasks.read(given, place, task=task)
    loaded = loading.load(given.model, place.base, task=task, labels=source.labels, seed=0)
    tracked = TrackedModel.of(loaded)
    plan = tracked.plan(given.policy)
    tracked.read_loaded(plan)
    reporter, stop = Reporter(place.reports), StopRequest()
    return assemble(given, place, tracked, plan, source, task=task, reporter=reporter, stop=stop)


def computed(run: Run, removal: Removal) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of the first step with dropout off."""
    run.state.model.eval()
    run.passes.removal = removal
    loss = run.passes.gradients(1)
    gradients = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in run.state.model.named_parameters()
    }
    run.state.optimizer.zero_grad(set_to_none=True)
    return loss, gradients
