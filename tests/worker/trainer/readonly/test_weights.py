"""A write to a frozen weight while a job trains is a violation with its operation and line, without a replay."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from app.freeze.policy import Policy
from app.specs.models import TransformersSpec
from tests.patience import PATIENCE
from tests.worker.trainer.attempts import AFFINE, Attempt, affine_order, attempt
from tests.worker.trainer.readonly.jobs import VOCABULARY, Write, encoder_order, in_each_step
from worker.protocol import WorkOrder, Workspace, write_json
from worker.supervisor.process.child import Forkserver
from worker.trainer.readonly import weights
from worker.trainer.readonly.handler import CannotProtect, FaultHandler, handler
from worker.trainer.training.replay import Replay

AUDIT = {"freeze": ["bert.**"], "on_violation": "continue"}
HERE = "tests/worker/trainer/readonly/test_weights.py"


def vocabulary(stack: torch.nn.Module) -> torch.Tensor:
    """The largest of the frozen weights, which the stack of layers does not hold itself."""
    return next(tensor for tensor in HELD if tensor.shape[0] == 16384)


HELD: list[torch.Tensor] = []


@pytest.fixture(autouse=True)
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the job's own model holds, for writers; and no replay may take place."""
    plain = weights.protectable

    def protectable(model: torch.nn.Module, *rest: Any) -> Any:
        HELD[:] = [parameter.data for parameter in model.parameters()]
        return plain(model, *rest)

    monkeypatch.setattr(weights, "protectable", protectable)
    monkeypatch.setattr(Replay, "_replayed", lambda *_: pytest.fail("a replay was made"))
    yield
    HELD.clear()


def run(order: WorkOrder, root: Path, monkeypatch: pytest.MonkeyPatch, write: Write) -> Attempt:
    def only_while_training(stack: torch.nn.Module) -> None:
        if HELD:
            write(stack)

    in_each_step(monkeypatch, only_while_training)
    return attempt(order, root)


def in_place(stack: torch.nn.Module) -> None:
    vocabulary(stack).add_(1.0)


def by_numpy(stack: torch.nn.Module) -> None:
    array = vocabulary(stack).numpy()
    np.multiply(array, 2, out=array)


def one_item(stack: torch.nn.Module) -> None:
    vocabulary(stack).numpy()[5000, 3] = 7


def by_a_sign(stack: torch.nn.Module) -> None:
    array = vocabulary(stack).numpy()
    array -= 1


def by_an_optimizer(stack: torch.nn.Module) -> None:
    weight = torch.nn.Parameter(vocabulary(stack))
    weight.grad = torch.ones_like(weight)
    torch.optim.AdamW([weight], fused=True).step()


class _Writes(torch.autograd.Function):
    """Writes in its backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 1

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        vocabulary(torch.nn.Identity()).mul_(1.5)
        return gradient


def in_backward(stack: torch.nn.Module) -> None:
    with torch.enable_grad():
        _Writes.apply(torch.ones(3, requires_grad=True)).sum().backward()


def in_a_thread(stack: torch.nn.Module) -> None:
    thread = threading.Thread(target=in_place, args=(stack,))
    thread.start()
    thread.join()


WRITES: dict[str, tuple[Write, str, str]] = {
    "in place": (in_place, "aten::add_", "in_place"),
    "numpy": (by_numpy, "np.multiply", "by_numpy"),
    "one item": (one_item, "[...] =", "one_item"),
    "a sign": (by_a_sign, "-=", "by_a_sign"),
    "fused optimizer": (by_an_optimizer, "aten::_fused_adamw_", "by_an_optimizer"),
    "in backward": (in_backward, "aten::mul_", "backward"),
    "a thread": (in_a_thread, "aten::add_", "in_place"),
}


@pytest.mark.parametrize("kind", WRITES)
def test_a_write_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """The tensor, the step, the operation and the line: from the first step on, and without a replay."""
    write, operation, function = WRITES[kind]
    done = run(encoder_order(tmp_path), tmp_path, monkeypatch, write)
    assert done.failure["code"] == "frozen_tensor_changed"
    (violation,) = done.of("violation")
    assert violation["name"] == VOCABULARY
    assert (violation["last_good_step"], violation["first_bad_step"]) == (0, 1)
    assert violation["operation"].startswith(f"{operation} at {HERE}:")
    assert violation["operation"].endswith(f" in {function}")
    assert violation["operation"] in done.failure["message"]
    assert "read-only while it trains" in str(done.of("event"))


def test_threads_of_a_pool_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever thread is first, the operation is that of the thread which waits for it."""
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    try:
        done = run(encoder_order(tmp_path), tmp_path, monkeypatch, in_place)
    finally:
        torch.set_num_threads(before)
    (violation,) = done.of("violation")
    assert violation["operation"].startswith(f"aten::add_ at {HERE}:")


def test_equal_bytes_are_no_violation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only bytes decide: a copy onto itself is noticed, looked at, and forgotten."""

    def copy(stack: torch.nn.Module) -> None:
        weight = vocabulary(stack)
        weight.copy_(weight.clone())

    done = run(encoder_order(tmp_path), tmp_path, monkeypatch, copy)
    assert (done.code, done.of("violation")) == (0, [])
    assert done.observations["verdict"] == "verified"


def test_a_run_goes_on_where_the_policy_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write is made as it would have been, in each of six steps; the first one is named."""
    done = run(encoder_order(tmp_path, policy=AUDIT), tmp_path, monkeypatch, in_place)
    assert done.code == 0
    (violation,) = done.observations["violations"]
    assert violation["operation"].startswith(f"aten::add_ at {HERE}:")
    base, result = done.base["embeddings.word_embeddings.weight"], done.composed()[VOCABULARY]
    assert torch.allclose(result - base, torch.full_like(base, 6.0), atol=1e-3)


#: Ways of training that read, save or compute frozen weights at other times.
WAYS: dict[str, dict[str, Any]] = {
    "as ever": {},
    "checkpointing": {"gradient_checkpointing": True},
    "stopping early": {"validation_fraction": 0.25, "early_stopping_patience": 1, "n_epochs": 4},
    "a kept prefix": {"prefix_cache": True, "validation_fraction": 0.25},
    "checkpoints": {"checkpoint_steps": 1},
}


@pytest.mark.parametrize("way", WAYS)
def test_bits_are_those_of_a_run_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Read-only pages change nothing about what is trained, and where there can be none a run goes on as ever."""
    done: dict[str, Attempt] = {}
    noticed: list[int] = []
    monkeypatch.setattr(FaultHandler, "end", _counting(FaultHandler.end, noticed))
    for name in ("protected", "plain"):
        if name == "plain":
            monkeypatch.setattr(weights, "handler", _no_handler)
        done[name] = attempt(encoder_order(tmp_path / name, **WAYS[way]), tmp_path / name)
    assert noticed == [0]
    assert not handler().busy
    assert "there is none here" in str(done["plain"].of("event"))
    assert "read-only while it trains" not in str(done["plain"].of("event"))
    first, second = (load_file(each.place.changed) for each in done.values())
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _counting(end: Callable[[FaultHandler], None], noticed: list[int]) -> Callable[[FaultHandler], None]:
    """The handler's own end, with how many writes it had noticed."""

    def counted(source: FaultHandler) -> None:
        noticed.append(source.noticed)
        end(source)

    return counted


def _no_handler() -> Any:
    raise CannotProtect("there is none here")


def test_what_the_optimizer_holds_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an audit everything trains, and the replay explains it as ever."""
    monkeypatch.setattr(Replay, "_replayed", lambda *_: [])
    policy = {"freeze": ["bert.**"], "enforce": False}
    done = attempt(encoder_order(tmp_path, policy=policy), tmp_path)
    assert "read-only" not in str(done.of("event"))
    assert done.observations["verdict"] == "violated"


def test_schedules_rows_and_buffers_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What trains later, or in part, can be written to at any time."""
    rules = [
        {"id": "rows", "action": "train", "select": {"name": VOCABULARY, "rows": [[0, 4]]}},
        {"id": "late", "action": "freeze", "select": {"name": "bert.encoder.layer.1.**"}, "when": [{"to_step": 2}]},
        {"id": "rest", "action": "freeze", "select": {"name": "bert.**"}},
    ]
    named: list[str] = []
    plain = weights.protectable

    def protectable(*arguments: Any) -> Any:
        spans = plain(*arguments)
        named.extend(name for span in spans for name, _ in span.names)
        return spans

    monkeypatch.setattr(weights, "protectable", protectable)
    done = attempt(encoder_order(tmp_path, policy={"default": "train", "rules": rules}), tmp_path)
    assert done.code == 0, done.of("failed")
    assert any("layer.0" in name for name in named)
    assert not any("layer.1" in name or name == VOCABULARY for name in named)


def test_memory_that_no_file_backs_is_left_alone(tmp_path: Path) -> None:
    """A torch architecture's weights are copied into memory of its own."""
    done = attempt(affine_order(tmp_path, model=AFFINE, policy={"freeze": ["weight"]}), tmp_path)
    assert done.code == 0
    assert "read-only" not in str(done.of("event"))


def test_system_calls_are_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system writes nothing to a read-only page and sends no signal: the job ends, and no other attempt is made."""
    source = tmp_path / "numbers"
    source.write_bytes(bytes(65536))

    def read(stack: torch.nn.Module) -> None:
        with source.open("rb", buffering=0) as file:
            file.readinto(vocabulary(stack).numpy().data)

    done = run(encoder_order(tmp_path / "job"), tmp_path / "job", monkeypatch, read)
    assert done.failure["code"] == "frozen_tensor_changed"
    assert "read into a tensor of your own" in done.failure["message"]
    assert os.strerror(14) in done.failure["message"]


def test_below_an_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an adapter is wrapped around is frozen, and still lies in the base's file."""
    order = encoder_order(tmp_path)
    model = TransformersSpec.from_json({**order.model.to_json(), "adapter": {"type": "lora", "r": 2}})
    done = run(replace(order, model=model, policy=Policy()), tmp_path, monkeypatch, in_place)
    assert done.failure["code"] == "frozen_tensor_changed"
    (violation,) = done.of("violation")
    assert violation["name"].endswith(VOCABULARY)
    assert violation["operation"].startswith(f"aten::add_ at {HERE}:")


def test_each_rank_watches_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where several train together, and no replay could be made: the write of one rank has its operation."""

    def on_the_second(stack: torch.nn.Module) -> None:
        if os.environ.get("RANK") == "1":
            in_place(stack)

    order = replace(encoder_order(tmp_path), devices=2)
    done = run(order, tmp_path, monkeypatch, on_the_second)
    assert done.failure["code"] == "frozen_tensor_changed"
    (violation,) = done.of("violation")
    assert (violation["name"], violation["rank"], violation["first_bad_step"]) == (VOCABULARY, 1, 1)
    assert violation["operation"].startswith(f"aten::add_ at {HERE}:")
    assert "explanation" not in violation


def test_in_a_trainer_process(tmp_path: Path) -> None:
    """Forked from the worker's forkserver, within its walls: the same step, operation and line."""
    order = encoder_order(tmp_path / "job")
    write_json(Workspace(tmp_path / "job").order, order.to_json())
    trainees = "tests.worker.trainer.readonly.trainees"
    with (
        Forkserver(home=tmp_path / "home", entry=f"{trainees}:writing", preload=[trainees]) as forkserver,
        forkserver.start(tmp_path / "job") as child,
    ):
        assert child.wait(PATIENCE) == 1
    done = Attempt(Workspace(tmp_path / "job"), 1)
    (violation,) = done.of("violation")
    assert (violation["last_good_step"], violation["first_bad_step"]) == (3, 4)
    assert violation["operation"].startswith("aten::add_ at tests/worker/trainer/readonly/trainees.py:")
