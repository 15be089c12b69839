"""Saves and restores a run's state after a step. A kill at any time leaves the last checkpoint readable.

`take` copies the state, `write` puts it on disk, possibly later and in another thread: a temporary folder, its files,
the manifest with their digests, each flushed; a rename; the parent folder flushed.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from app.evidence.format.digest import sha256_file
from app.jsontypes import JsonDict
from worker.trainer import determinism
from worker.trainer.ranks.group import ALONE, Group
from worker.trainer.ranks.shards import spread
from worker.trainer.witness.fingerprint import sharded
from worker.trainer.witness.observe import whole

MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
STORED = "stored.safetensors"
MASTERS = "masters.safetensors"
#: Error numbers of a full disk and of a spent quota.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
SCHEMA = 1

Content = dict[str, Mapping[str, Any]]


class DamagedError(Exception):
    """A checkpoint differs from its manifest, or does not fit the run."""


UNREADABLE = (DamagedError, OSError, ValueError, KeyError, SafetensorError)


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """A checkpoint in memory, verified against its manifest."""

    path: Path
    step: int
    tensors: dict[str, Tensor]  # live names: everything that may have moved
    optimizer: dict[str, Tensor]
    random: dict[str, Tensor]
    state: JsonDict  # the JSON part: scalars of the optimizer, generators, scaler, history, environment
    masters: dict[str, Tensor]  # fp32 copies of half-precision weights; empty where the run had none

    def restore_optimizer(self, optimizer: Optimizer) -> None:
        """Loads the state into an optimizer that was built the same way, after `Frozen.at_step(step)`.

        DamagedError where it has fewer tensors than the saved one.
        """
        state: dict[int, JsonDict] = {}
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        for key, tensor in self.optimizer.items():
            index, _, name = key.partition(".")
            if int(index) >= len(parameters):
                message = f"its optimizer has a tensor number {int(index) + 1}, this run's has {len(parameters)}"
                raise DamagedError(message)
            state.setdefault(int(index), {})[name] = spread(tensor, like=parameters[int(index)])
        for key, value in self.state["optimizer"].items():
            index, _, name = key.partition(".")
            state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

    def restore_random_states(self, rank: int = 0) -> bool:
        """Restores this rank's generators; False where the saved run had no such rank."""
        plain = self.state["random"] if rank == 0 else self.state.get("ranks", {}).get(str(rank))
        if plain is None:
            return False
        mine = {name: each for name, each in self.random.items() if not name.startswith("rank")}
        if rank:
            prefix = f"rank{rank}."
            mine = {name.removeprefix(prefix): each for name, each in self.random.items() if name.startswith(prefix)}
        determinism.restore_random_states(plain, mine)
        return True


def take(
    *,
    tensors: Mapping[str, Tensor],
    optimizer: Optimizer,
    state: Mapping[str, Any],
    stored: Mapping[str, Tensor] | None = None,
    masters: Mapping[str, Tensor] | None = None,
    copied: bool = True,
    group: Group = ALONE,
) -> Content:
    """A checkpoint's content by file name. `stored` are tensors of the saved model that are not a whole live one.

    With `copied`, later training steps do not change it. All ranks of the group call this together.
    """
    plain_random, random = _random_states(group)
    scalars, moments = _optimizer_state(optimizer)
    hold = _copied if copied else _plain
    return {
        WEIGHTS: hold(tensors),
        **({STORED: hold(stored)} if stored else {}),
        **({MASTERS: hold(masters)} if masters else {}),
        "optimizer.safetensors": hold(moments),
        "random.safetensors": random,
        "state.json": {**state, "optimizer": scalars, **plain_random},
    }


def size_of(tensors: Iterable[Tensor], optimizer: Optimizer) -> int:
    """How many bytes `take` would copy."""
    _, moments = _optimizer_state(optimizer)
    return sum(each.numel() * each.element_size() for each in (*tensors, *moments.values()))


def write(folder: Path, content: Content, *, step: int, run: str, keep: int, best: int = 0, job_id: str = "") -> Path:
    """Writes the state after `step` into `folder`, and keeps the newest `keep` checkpoints and that of step `best`.

    `run` identifies the run. `job_id` is in the weights' metadata, so that no two jobs have the same file.
    On a full disk older checkpoints are removed to make room, but never the newest; OSError when that is not enough.
    """
    final = path_of(folder, step)
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        _publish(final, content, step=step, run=run, job_id=job_id)
    except OSError as error:
        if error.errno not in NO_ROOM or not _prune(folder, keep=1, best=best):
            raise
        _publish(final, content, step=step, run=run, job_id=job_id)
    _prune(folder, keep=keep, best=best)
    return final


def path_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def steps_in(folder: Path) -> list[int]:
    """Steps of the checkpoints in the folder, oldest first."""
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def newest(
    folder: Path,
    *,
    run: str,
    live: Mapping[str, Tensor],
    on_damage: Callable[[Path, str], None],
    until: int | None = None,
) -> SavedCheckpoint | None:
    """The newest intact checkpoint of this run, of a step not after `until` where given.

    Damaged ones, and those that do not hold the tensors of `live`, are reported to `on_damage` and skipped.
    """
    for path in sorted(folder.glob("step-*"), reverse=True):
        if until is not None and path > path_of(folder, until):
            continue
        try:
            checkpoint = read(path, run=run)
            refuse_other_tensors(checkpoint, live)
            return checkpoint
        except UNREADABLE as error:
            on_damage(path, str(error) or type(error).__name__)
    return None


def read(path: Path, *, run: str) -> SavedCheckpoint:
    """The checkpoint in `path`. DamagedError where a file differs from the manifest, or it is of another run."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except ValueError as error:
        raise DamagedError(f"{MANIFEST} is not JSON ({error})") from error
    if manifest.get("schema") != SCHEMA:
        raise DamagedError(f"its schema is {manifest.get('schema')!r}, and this trainer reads {SCHEMA}")
    if manifest["run"] != run:
        raise DamagedError("it belongs to another model, data, policy or set of hyperparameters")
    for name, entry in manifest["files"].items():
        if _entry(path / name) != entry:
            raise DamagedError(f"{name} is not what the manifest says")
    return SavedCheckpoint(
        path=path,
        step=manifest["step"],
        tensors=load_file(path / WEIGHTS),
        optimizer=load_file(path / "optimizer.safetensors"),
        random=load_file(path / "random.safetensors"),
        state=json.loads((path / "state.json").read_bytes()),
        masters=load_file(path / MASTERS) if MASTERS in manifest["files"] else {},
    )


def refuse_other_tensors(checkpoint: SavedCheckpoint, live: Mapping[str, Tensor]) -> None:
    """Raises DamagedError for a tensor that is missing, extra or of another shape."""
    for name, tensor in checkpoint.tensors.items():
        if name not in live:
            raise DamagedError(f"it holds {name!r}, which the model does not have")
        if live[name].shape != tensor.shape or live[name].dtype != tensor.dtype:
            raise DamagedError(f"{name!r} has another shape or dtype than the model's")
    missing = sorted(set(live) - set(checkpoint.tensors))
    if missing:
        raise DamagedError(f"it lacks {', '.join(missing[:5])}")


def restore_tensors(checkpoint: SavedCheckpoint, live: Mapping[str, Tensor]) -> None:
    """Copies the saved bytes into the live tensors; DamagedError where the tensors differ."""
    refuse_other_tensors(checkpoint, live)
    with torch.no_grad():
        for name, tensor in checkpoint.tensors.items():
            live[name].copy_(spread(tensor, like=live[name]))


def flush(path: Path) -> None:
    """Flushes a file or a folder to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _publish(final: Path, content: Content, *, step: int, run: str, job_id: str) -> None:
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()
        for name, each in content.items():
            _write(temporary / name, each, metadata={"checkpoint": f"{job_id} step {step}"})
        entries = {name: _entry(temporary / name) for name in content}
        _write(temporary / MANIFEST, {"schema": SCHEMA, "step": step, "run": run, "files": entries}, metadata={})
        flush(temporary)
        if final.exists():  # of a killed attempt, whose steps are repeated
            shutil.rmtree(final)
        temporary.rename(final)
        flush(final.parent)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write(path: Path, content: Mapping[str, Any], *, metadata: dict[str, str]) -> None:
    """Writes tensors as safetensors, anything else as JSON, and flushes. safetensors' own error becomes an OSError."""
    if path.suffix == ".safetensors":
        try:
            save_file(dict(content), path, metadata=metadata)
        except SafetensorError as error:
            code = re.search(r"os error (\d+)", str(error))
            raise OSError(int(code[1]) if code else errno.EIO, str(error)) from error
    else:
        path.write_text(json.dumps(content), "utf-8")
    flush(path)


def _entry(path: Path) -> JsonDict:
    return {"size": path.stat().st_size, "sha256": sha256_file(path)}


def _prune(folder: Path, *, keep: int, best: int) -> bool:
    """Removes all but the newest `keep` and that of step `best`. Whether any was removed."""
    old = [path for path in sorted(folder.glob("step-*"), reverse=True)[keep:] if path != path_of(folder, best)]
    for path in old:
        shutil.rmtree(path, ignore_errors=True)
    return bool(old)


def _random_states(group: Group) -> tuple[JsonDict, dict[str, Tensor]]:
    """Generator states of every rank: the first one's under plain names, the others' under their rank."""
    plain, tensors = determinism.random_states()
    first, *others = zip(group.gather(plain), group.gather_tensors(tensors), strict=True)
    plain_states = {"random": first[0]} | (
        {"ranks": {str(at): each[0] for at, each in enumerate(others, 1)}} if others else {}
    )
    apart = {f"rank{at}.{name}": tensor for at, each in enumerate(others, 1) for name, tensor in each[1].items()}
    return plain_states, first[1] | apart


def _optimizer_state(optimizer: Optimizer) -> tuple[JsonDict, dict[str, Tensor]]:
    """Numbers and tensors of the state, by "index.name". Groups are not saved: they are built from hyperparameters."""
    scalars: JsonDict = {}
    tensors: dict[str, Tensor] = {}
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            (tensors if isinstance(value, Tensor) else scalars)[f"{index}.{name}"] = value
    return scalars, tensors


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors gathered, contiguous and on the CPU, as safetensors needs them; copied only where necessary."""
    return {name: whole(tensor.detach()).cpu().contiguous() for name, tensor in tensors.items()}


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As `_plain`, but never in the memory of the live tensor."""
    plain = _plain(tensors)
    same = {name for name, each in tensors.items() if not sharded(each) and each.data_ptr() == plain[name].data_ptr()}
    return {name: each.clone() if name in same else each for name, each in plain.items()}
