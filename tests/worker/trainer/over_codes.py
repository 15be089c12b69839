"""Language model jobs over tiny bases that are stored as codes, whatever quantised them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.worker.trainer.attempts import Attempt, attempt_json, data
from worker.protocol import Workspace

TINY = {"type": "transformers", "path": "tiny"}
TEXTS = [{"text": "the cat sat on the mat"}, {"text": "a dog ran"}] * 8
EVERY = {"n_epochs": 1, "batch_size": 4, "learning_rate": 1e-2, "checkpoint_steps": 2, "validation_fraction": 0.25}


def train(
    root: Path, place_base: Callable[[Path], object], *, adapter: dict[str, Any] | None, **changes: Any
) -> Attempt:
    """An attempt in `root` over the base that is there, or else over the one that `place_base` makes."""
    place = Workspace(root).create()
    if not (place.base / "config.json").exists():
        place_base(place.base)
    fields = {
        "stage": "train",
        "model": TINY | ({"adapter": adapter} if adapter else {}),
        "task": "causal-lm",
        "data": data(place, TEXTS, "causal.jsonl"),
        "hyperparameters": EVERY,
        "seed": 4,
        "device": "cpu",
    }
    return attempt_json(fields | changes, root)
