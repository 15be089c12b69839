"""A run's whole state after a step, on disk so that a kill at any instant leaves the last one readable.

`take` holds the state as it is now, `write` puts it on disk, later and in another thread where that suits: a temporary
folder, its files and then the manifest with their digests, each flushed; a rename; the parent flushed.
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
from worker.trainer import determinism
from worker.trainer.ranks.group import ALONE, Group
from worker.trainer.ranks.shards import spread
from worker.trainer.witness.fingerprint import sharded
from worker.trainer.witness.observe import whole

MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
STORED = "stored.safetensors"
#: What a full disk, or a quota that is spent, says.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
SCHEMA = 1

Content = dict[str, Mapping[str, Any]]


class DamagedError(Exception):
    """A checkpoint that is not what its manifest says."""


UNREADABLE = (DamagedError, OSError, ValueError, KeyError, SafetensorError)


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """A checkpoint that was read whole and agrees with its manifest."""

    path: Path
    step: int
    tensors: dict[str, Tensor]  # live names: everything that may have moved
    optimizer: dict[str, Tensor]
    random: dict[str, Tensor]
    state: dict[str, Any]  # the JSON part: scalars of the optimizer, generators, scaler, history, environment

    def restore_optimizer(self, optimizer: Optimizer) -> None:
        """Into an optimizer that was built the same way, with `Frozen.at_step(step)` already applied.

        DamagedError where it has fewer tensors than the one that was saved.
        """
        state: dict[int, dict[str, Any]] = {}
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
        """Of this rank; False where the run that saved them had no such rank."""
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
    copied: bool = True,
    group: Group = ALONE,
) -> Content:
    """What a checkpoint holds, by file. `stored` are tensors of a saved model that no live one is by itself.

    `copied`: it stays what it is now, whatever training does next. All ranks of the group take it together.
    """
    plain_random, random = _random_states(group)
    scalars, moments = _optimizer_state(optimizer)
    hold = _copied if copied else _plain
    return {
        WEIGHTS: hold(tensors),
        **({STORED: hold(stored)} if stored else {}),
        "optimizer.safetensors": hold(moments),
        "random.safetensors": random,
        "state.json": {**state, "optimizer": scalars, **plain_random},
    }


def size_of(tensors: Iterable[Tensor], optimizer: Optimizer) -> int:
    """Bytes that `take` would copy."""
    _, moments = _optimizer_state(optimizer)
    return sum(each.numel() * each.element_size() for each in (*tensors, *moments.values()))


def write(folder: Path, content: Content, *, step: int, run: str, keep: int, best: int = 0, job_id: str = "") -> Path:
    """Write the state after `step` into `folder` and prune to the newest `keep` and the one of step `best`.

    `run` names what is being trained. `job_id` is in the weights' metadata: no other job has the same file, so one may
    be removed without asking the others.

    On a full disk an older checkpoint makes room, the newest never does; OSError when that is not enough.
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
    """The steps of the checkpoints that are there, oldest first."""
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def newest(
    folder: Path,
    *,
    run: str,
    live: Mapping[str, Tensor],
    on_damage: Callable[[Path, str], None],
    until: int | None = None,
) -> SavedCheckpoint | None:
    """The newest checkpoint of this run that is intact, of a step not after `until` where that is given.

    Damaged ones, and those that do not hold the tensors of `live`, are told to `on_damage` and passed over.
    """
    for path in sorted(folder.glob("step-*"), reverse=True):
        if until is not None and path > path_of(folder, until):
            continue
        try:
            found = read(path, run=run)
            refuse_other_tensors(found, live)
            return found
        except UNREADABLE as error:
            on_damage(path, str(error) or type(error).__name__)
    return None


def read(path: Path, *, run: str) -> SavedCheckpoint:
    """The checkpoint in `path`; DamagedError when a file differs from the manifest or it belongs to another run."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except ValueError as error:
        raise DamagedError(f"{MANIFEST} is no JSON ({error})") from error
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
    )


def refuse_other_tensors(checkpoint: SavedCheckpoint, live: Mapping[str, Tensor]) -> None:
    """DamagedError names a tensor that is missing, extra or of another shape."""
    for name, tensor in checkpoint.tensors.items():
        if name not in live:
            raise DamagedError(f"it holds {name!r}, which the model does not have")
        if live[name].shape != tensor.shape or live[name].dtype != tensor.dtype:
            raise DamagedError(f"{name!r} has another shape or dtype than the model's")
    missing = sorted(set(live) - set(checkpoint.tensors))
    if missing:
        raise DamagedError(f"it lacks {', '.join(missing[:5])}")


def restore_tensors(checkpoint: SavedCheckpoint, live: Mapping[str, Tensor]) -> None:
    """Copy the saved bytes over the live tensors; DamagedError where they are not the same ones."""
    refuse_other_tensors(checkpoint, live)
    with torch.no_grad():
        for name, tensor in checkpoint.tensors.items():
            live[name].copy_(spread(tensor, like=live[name]))


def flush(path: Path) -> None:
    """fsync a file or a folder."""
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
        if final.exists():  # left by an attempt that was killed and went through this step again
            shutil.rmtree(final)
        temporary.rename(final)
        flush(final.parent)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write(path: Path, content: Mapping[str, Any], *, metadata: dict[str, str]) -> None:
    """Tensors as safetensors, anything else as JSON; flushed. OSError also for what safetensors has its own error."""
    if path.suffix == ".safetensors":
        try:
            save_file(dict(content), path, metadata=metadata)
        except SafetensorError as error:
            code = re.search(r"os error (\d+)", str(error))
            raise OSError(int(code[1]) if code else errno.EIO, str(error)) from error
    else:
        path.write_text(json.dumps(content), "utf-8")
    flush(path)


def _entry(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": sha256_file(path)}


def _prune(folder: Path, *, keep: int, best: int) -> bool:
    """Remove all but the newest `keep` and that of step `best`; whether any was removed."""
    old = [path for path in sorted(folder.glob("step-*"), reverse=True)[keep:] if path != path_of(folder, best)]
    for path in old:
        shutil.rmtree(path, ignore_errors=True)
    return bool(old)


def _random_states(group: Group) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Every rank's: the first one's as "random" and under plain names, the others' apart."""
    plain, tensors = determinism.random_states()
    first, *others = zip(group.gather(plain), group.gather_tensors(tensors), strict=True)
    told = {"random": first[0]} | ({"ranks": {str(at): each[0] for at, each in enumerate(others, 1)}} if others else {})
    apart = {f"rank{at}.{name}": tensor for at, each in enumerate(others, 1) for name, tensor in each[1].items()}
    return told, first[1] | apart


def _optimizer_state(optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The state by "index.name": numbers apart from tensors. Groups are built again from the settings, not saved."""
    scalars: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            (tensors if isinstance(value, Tensor) else scalars)[f"{index}.{name}"] = value
    return scalars, tensors


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole, on the CPU and in one piece each, which safetensors asks for. What is so already is not copied."""
    return {name: whole(tensor.detach()).cpu().contiguous() for name, tensor in tensors.items()}


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As `_plain`, and none in the memory of the tensor that it was taken from."""
    plain = _plain(tensors)
    same = {name for name, each in tensors.items() if not sharded(each) and each.data_ptr() == plain[name].data_ptr()}
    return {name: each.clone() if name in same else each for name, each in plain.items()}
