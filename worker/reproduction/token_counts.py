"""Counts the tokens of each training example as the run did, which `length_bucketing` orders by."""

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.evidence.format.recipe import Recipe
from app.evidence.format.statement import FileRef
from app.evidence.verifier.context import CannotCheck
from app.specs.hyperparameters import Hyperparameters
from worker.protocol import Workspace
from worker.reproduction.material import Material
from worker.reproduction.rerun import stage, work_order


def token_counts(
    recipe: Recipe, settings: Hyperparameters, material: Material, *, base_files: tuple[FileRef, ...]
) -> NDArray[np.int64]:
    """One number for each training example. `settings` are what the trainer decided."""
    from worker.trainer.models import loading  # imports torch
    from worker.trainer.training import tasks

    with tempfile.TemporaryDirectory(prefix="permafrost-prove-") as folder:
        workspace = Workspace(Path(folder).resolve()).create()
        order = work_order(recipe, material, workspace, device="cpu", until=None)
        stage(material, workspace, base_files)
        order.save(workspace.root)
        task = recipe.request.task
        source = tasks.read(order, workspace, task=task)
        loaded = loading.load(order.model, workspace.base, task=task, labels=source.labels, seed=order.seed)
        length, packed = settings.max_length, bool(settings.packing)
        lengths = tasks.encode(task, source, loaded, asked_length=length, packed=packed).training.lengths
    if lengths is None:
        raise CannotCheck("the recipe says length_bucketing of examples that have no tokens")
    return lengths
