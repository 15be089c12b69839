"""Workspaces for tests: written as the supervisor writes them, run as it runs them, read back as it reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from worker.protocol import Report, WorkOrder, Workspace, read_reports, write_json
from worker.trainer.main import run

AFFINE = {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 10, "out_features": 10}}


@dataclass(frozen=True)
class Attempt:
    """One attempt's folder after its run; `code` is the exit status."""

    place: Workspace
    code: int

    @property
    def reports(self) -> list[Report]:
        return read_reports(self.place.reports)[0]

    def of(self, kind: str) -> list[Report]:
        return [report for report in self.reports if report["type"] == kind]

    @property
    def failure(self) -> Report:
        return self.of("failed")[0]

    @property
    def changed(self) -> dict[str, torch.Tensor]:
        return load_file(self.place.changed)

    @property
    def result(self) -> dict[str, dict[str, Any]]:
        return {each["name"]: each for each in json.loads(self.place.result.read_text())["tensors"]}

    @property
    def observations(self) -> dict[str, Any]:
        return json.loads(self.place.observations.read_text())

    @property
    def observed(self) -> dict[str, dict[str, Any]]:
        return {each["name"]: each for each in self.observations["tensors"]}

    @property
    def base(self) -> dict[str, torch.Tensor]:
        return load_file(self.place.base / "model.safetensors")

    def composed(self) -> dict[str, torch.Tensor]:
        """The full result: changed tensors, and the base's for the rest."""
        base, changed = self.base, self.changed
        return {
            name: changed[name] if each["from"] == "changed" else base[each["base_name"]]
            for name, each in self.result.items()
        }


def attempt(order: WorkOrder, root: Path) -> Attempt:
    """Run an order in this process."""
    return attempt_json(order.to_json(), root)


def attempt_json(order: Mapping[str, Any], root: Path) -> Attempt:
    """Run what need not be a readable order."""
    write_json(Workspace(root).create().order, order)
    with pytest.raises(SystemExit) as ended:
        run(root)
    return Attempt(Workspace(root), int(ended.value.code or 0))


def work_order(**fields: Any) -> WorkOrder:
    """An order from fields as they are in JSON."""
    return WorkOrder.from_json(fields)


def affine_order(root: Path, *, rows: Sequence[dict[str, Any]] | None = None, **changes: Any) -> WorkOrder:
    """A job on the article's model, with a base file of its own and random rows."""
    place = Workspace(root).create()
    generator = torch.Generator().manual_seed(1)
    if not (place.base / "model.safetensors").exists():
        tensors = {"weight": torch.randn(10, 10, generator=generator), "bias": torch.randn(10, generator=generator)}
        save_file(tensors, place.base / "model.safetensors")
    if rows is None:
        x, y = torch.randn(40, 10, generator=generator), torch.randn(40, 10, generator=generator)
        rows = [{"x": a, "y": b} for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    order = {
        "job_id": "ftjob-test",
        "stage": "train",
        "model": AFFINE,
        "task": "tabular-regression",
        "data": data(place, rows),
        "hyperparameters": {"n_epochs": 2, "batch_size": 8, "learning_rate": 0.05},
        "seed": 3,
        "device": "cpu",
    }
    return WorkOrder.from_json(order | changes)


def data(place: Workspace, rows: Sequence[dict[str, Any]], name: str = "train.jsonl") -> dict[str, Any]:
    path = place.data / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return {"training": f"data/{name}", "format": "jsonl"}
