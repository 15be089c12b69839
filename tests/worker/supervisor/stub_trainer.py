"""A trainer without torch: speaks the whole protocol for `affine`, and has whatever habit the job's `seed` names.

It "trains" by adding 1 to each byte of the bias; the supervisor cannot tell that from learning.
"""

import hashlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from app.evidence.format.digest import read_file
from app.evidence.format.tensorfile import TensorEntry, header_bytes
from app.freeze.plan import TensorInfo, resolve
from worker.protocol import EXIT_FAILED, EXIT_STOPPED, Reporter, WorkOrder, Workspace, write_json

ROWS, COLUMNS = 10, 1
TENSORS = [
    TensorInfo("bias", (COLUMNS,), "F32", module_types=("Affine",)),
    TensorInfo("weight", (ROWS, COLUMNS), "F32", module_types=("Affine",)),
]
STEPS = 3

# Habits, by the job's seed.
HONEST, FAIL, CRASH, CRASH_ONCE, HANG, DEAF, STOPPABLE = range(7)
LIE, MOVE_WEIGHT, LINK, STOP_ON_VIOLATION, BABBLE, STRAY, SLIP_IN, CONVERT = range(7, 15)


def run(folder: Path) -> None:
    place, order = Workspace(folder), WorkOrder.load(folder)
    with Reporter(place.reports) as reporter:
        if order.stage == "initialise":
            write_tensors(place.base / "model.safetensors", {"bias": bytes(4), "weight": bytes(range(40))})
        elif order.stage == "describe":
            write_json(place.manifest, {"tensors": [each.to_json() for each in TENSORS], "files": {}})
        else:
            train(place, order, reporter)


def train(place: Workspace, order: WorkOrder, reporter: Reporter) -> None:
    reporter.stage("loading")
    plan = resolve(order.policy, TENSORS)
    before = {each.name: each for each in read_file(place.base / "model.safetensors").tensors}
    reporter.report("plan", counts=plan.counts(), total_steps=STEPS, epochs=1, plan=plan.to_json(), warnings=[])
    reporter.stage("training")
    for step in range(1, STEPS + 1):
        reporter.report("step", step=step, epoch=step / STEPS, loss=1 / step, learning_rate=0.1, seconds=0.01)
        if step == 1:
            indulge(order.seed, place, reporter)
    leave_checkpoints(place)
    reporter.stage("exporting")
    base = (place.base / "model.safetensors").read_bytes()
    live = {name: base[each.offset : each.offset + each.nbytes] for name, each in before.items()}
    moved = ["bias", "weight"] if order.seed == MOVE_WEIGHT else ["bias"]
    after = live | {name: bytes(byte + 1 for byte in live[name]) for name in moved}
    write_tensors(place.changed, {name: after[name] for name in moved})
    write_json(place.result, result(moved))
    digests = {name: sha256(live[name]) for name in live}
    if order.seed == LIE:
        digests["weight"] = sha256(b"something else")
    write_json(place.observations, observations(plan.to_json(), digests, {n: sha256(b) for n, b in after.items()}))
    write_json(place.files / "config.json", {"architecture": "affine"})
    if order.seed == BABBLE:
        place.observations.write_text('{"tensors": [{"name": 7}]}')
    if order.seed == STRAY:
        write_json(place.result, result([]) | {"tensors": [{"name": "x", "from": "elsewhere", "base_name": None}]})
    if order.seed == SLIP_IN:
        write_json(place.files / "adapter_config.json", {"peft_type": "LORA"})
    if order.seed == CONVERT:
        write_json(place.files / "config.json", {"dtype": "float16"})
    if order.seed == LINK:
        (place.files / "notes.txt").symlink_to("/etc/hostname")
    reporter.report("done", steps=STEPS, trained_tokens=30, metrics={})


def leave_checkpoints(place: Workspace) -> None:
    """One that is torn, and one in which the bias has not quite got where it ends."""
    for step in (1, 2):
        (place.checkpoints / f"step-{step:08d}").mkdir(exist_ok=True)
    (place.checkpoints / "step-00000001" / "model.safetensors").write_bytes(b"torn")
    write_tensors(place.checkpoints / "step-00000002" / "model.safetensors", {"bias": b"\1\1\0\0"})


def indulge(habit: int, place: Workspace, reporter: Reporter) -> None:
    if habit == FAIL:
        errors = [{"line": 3, "field": "y", "code": "not_a_number", "message": "is text"}]
        reporter.report(
            "failed", code="invalid_training_data", message="1 bad line", param="training_file", errors=errors
        )
        raise SystemExit(EXIT_FAILED)
    if habit == STOP_ON_VIOLATION:
        reporter.report("violation", name="weight", last_good_step=0, first_bad_step=1, operation="aten::add_")
        message = "weight changed at step 1, though frozen"
        reporter.report("failed", code="frozen_parameters_changed", message=message, param="freeze_policy", errors=[])
        raise SystemExit(EXIT_FAILED)
    once = place.checkpoints / "crashed"
    if habit == CRASH or (habit == CRASH_ONCE and not once.exists()):
        once.touch()
        print("the last line of this trainer", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if habit == STOPPABLE and not (place.checkpoints / "stopped").exists():
        signal.signal(signal.SIGTERM, lambda *_: stop(place))
        time.sleep(600)
    if habit == DEAF:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if habit in (DEAF, HANG):
        time.sleep(600)


def stop(place: Workspace) -> None:
    (place.checkpoints / "stopped").touch()
    raise SystemExit(EXIT_STOPPED)


def result(moved: list[str]) -> dict[str, Any]:
    tensors = [
        {
            "name": each.name,
            "dtype": each.dtype,
            "shape": list(each.shape),
            "from": "changed" if each.name in moved else "base",
            "base_name": each.name,
        }
        for each in TENSORS
    ]
    return {"tensors": tensors, "metadata": {"format": "pt"}, "kind": "full"}


def observations(plan: dict[str, Any], loaded: dict[str, str], trained: dict[str, str]) -> dict[str, Any]:
    tensors = [
        {
            **each.to_json(),
            "loaded": loaded[each.name],
            "trained": trained[each.name],
            "base": [{"name": each.name, "rows": None}],
            "result": each.name,
            "first_changed_step": 1 if loaded[each.name] != trained[each.name] else None,
        }
        for each in TENSORS
    ]
    checks = {"count": 5, "first_step": 0, "last_step": STEPS, "scheme": "xxh3-128"}
    return {"schema": 1, "steps": STEPS, "plan": plan, "tensors": tensors, "checks": checks, "violations": []}


def write_tensors(path: Path, tensors: dict[str, bytes]) -> None:
    entries, at = [], 0
    for name, data in sorted(tensors.items()):
        shape = next(each.shape for each in TENSORS if each.name == name)
        entries.append(TensorEntry(name, "F32", shape, at, at + len(data)))
        at += len(data)
    path.write_bytes(header_bytes(entries, {"format": "pt"}) + b"".join(data for _, data in sorted(tensors.items())))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_log(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "reports.jsonl").read_text().splitlines()]


def hang(folder: Path) -> None:
    """The same trainer, deaf and hanging after its first step."""
    place, order = Workspace(folder), WorkOrder.load(folder)
    if order.stage == "train":
        WorkOrder.from_json(order.to_json() | {"seed": DEAF}).save(folder)
        (place.checkpoints / "hung").touch()
    run(folder)
