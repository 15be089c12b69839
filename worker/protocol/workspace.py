"""The paths in the folder of one attempt, and how JSON is written there."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Workspace:
    """The names of things in one attempt's folder."""

    root: Path

    @property
    def order(self) -> Path:
        return self.root / "job.json"

    @property
    def base(self) -> Path:
        return self.root / "base"

    @property
    def adapter(self) -> Path:
        """Weights of the adapter that this job trains on, as an earlier job left them."""
        return self.root / "adapter" / "adapter_model.safetensors"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def reports(self) -> Path:
        return self.root / "reports.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def prefix_cache(self) -> Path:
        """A link to the folder of frozen layers' results that the project's jobs share; absent where none is kept."""
        return self.root / "prefix-cache"

    @property
    def log(self) -> Path:
        return self.root / "log.txt"

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def changed(self) -> Path:
        return self.out / "model.changed.safetensors"

    @property
    def initial(self) -> Path:
        return self.out / "model.initial.safetensors"

    @property
    def result(self) -> Path:
        return self.out / "result.json"

    @property
    def observations(self) -> Path:
        return self.out / "observations.json"

    @property
    def files(self) -> Path:
        return self.out / "files"

    @property
    def form(self) -> Path:
        """Where each tensor of a model made of a checkpoint has its bytes; `form_files` go beside its weights."""
        return self.out / "form.json"

    @property
    def form_files(self) -> Path:
        return self.out / "form"

    @property
    def made(self) -> Path:
        """Digests of what loading makes of stored tensors for the computation, by their names in the base's files."""
        return self.out / "made.json"

    @property
    def manifest(self) -> Path:
        return self.out / "manifest.json"

    def create(self) -> Self:
        """Make the folders that do not exist yet."""
        for folder in (self.root, self.base, self.data, self.checkpoints, self.out, self.files, self.form_files):
            folder.mkdir(parents=True, exist_ok=True)
        return self


def write_json(path: Path, content: Any, *, indent: int | None = 1) -> None:
    """Write JSON to `path` through a temporary file, fsync and rename.

    `indent=None` is for what no person reads: without indentation json encodes several times as fast.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(finite(content), ensure_ascii=False, indent=indent, allow_nan=False))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def finite(value: Any) -> Any:
    """The value with NaN and infinities replaced by null, at any depth: JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value
