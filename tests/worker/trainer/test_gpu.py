"""On a CUDA device: the same trainer, to the same claims. `make test ARGS='-m gpu'` runs all such tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker.trainer.attempts import Attempt, attempt
from tests.worker.trainer.judging import judge
from tests.worker.trainer.models.test_quantised import causal, made
from tests.worker.trainer.ranks.test_together import POLICIES, bert
from tests.worker.trainer.training.test_checkpoints import assert_same, copy_checkpoints
from worker.protocol import WorkOrder

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")

FROZEN = ("bert.embeddings.", "bert.encoder.layer.0.")


def order(
    root: Path, *, policy: str = "requires_grad", devices: int = 1, strategy: str = "ddp", **wanted: Any
) -> WorkOrder:
    changes = {"device": "cuda", "devices": devices, "strategy": strategy, "hyperparameters": wanted}
    return bert(root, POLICIES[policy], **changes)


def trained(root: Path, **wanted: Any) -> Attempt:
    done = attempt(order(root, **wanted), root)
    assert done.code == 0, done.of("failed") or done.place.log
    assert done.observations["verdict"] == "verified"
    for name, each in done.result.items():
        if name.startswith(FROZEN):
            assert each["from"] == "base", name
    return done


@pytest.mark.parametrize("policy", ["requires_grad", "detach", "param_group"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_mechanisms_hold(tmp_path: Path, policy: str, precision: str) -> None:
    """Frozen tensors are the base's in each precision, the scaler's among them."""
    trained(tmp_path, policy=policy, precision=precision)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adafactor", "muon"])
def test_resumed_run_has_the_same_bits(tmp_path: Path, optimizer: str) -> None:
    """Fused kernels, copies for checkpoints that are written beside training, the device's generator."""
    wanted: dict[str, Any] = {
        "optimizer": optimizer,
        "checkpoint_steps": 2,
        "keep_checkpoints": 10,
        "precision": "bf16",
    }
    whole = trained(tmp_path / "whole", **wanted)
    again = order(tmp_path / "resumed", **wanted)
    copy_checkpoints(whole, tmp_path / "resumed", drop=2)
    assert_same(whole, attempt(again, tmp_path / "resumed"))


def test_cpu_and_gpu_agree(tmp_path: Path) -> None:
    """Up to rounding: what is trained is the same run."""
    gpu = trained(tmp_path / "gpu", prefix_cache=False, precision="fp32").changed
    root = tmp_path / "cpu"
    asked = WorkOrder.from_json(order(root, prefix_cache=False, precision="fp32").to_json() | {"device": "cpu"})
    for name, tensor in attempt(asked, root).changed.items():
        assert torch.allclose(tensor, gpu[name], atol=1e-3), name


def test_prefix_is_kept_on_the_device(tmp_path: Path) -> None:
    """What the frozen layers gave goes to the host and comes back."""
    done = trained(tmp_path, n_epochs=3)
    assert done.of("prefix_cache")[0]["in_use"], done.of("event")


def test_memory_that_is_really_spent(tmp_path: Path) -> None:
    """The allocator is held to little more than it has: halved while that helps, then failed with the figures."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (4 << 20)) / total)
    try:
        done = attempt(order(tmp_path, batch_size=27, micro_batch_size=27, optimizer="adamw"), tmp_path)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    halved = [each for each in done.of("event") if "out of memory" in each["message"]]
    assert halved or done.failure["code"] == "out_of_memory"


def test_compiled_for_the_device(tmp_path: Path) -> None:
    """By Triton's kernels; frozen tensors stay."""
    trained(tmp_path, compile=True, n_epochs=1)


@two
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_devices_end_as_one_does(tmp_path: Path, strategy: str) -> None:
    """nccl between them; and the run goes on on one of them."""
    wanted: dict[str, Any] = {"checkpoint_steps": 2, "keep_checkpoints": 10, "precision": "fp32"}
    both = trained(tmp_path / "both", devices=2, strategy=strategy, **wanted)
    one = trained(tmp_path / "one", **wanted).changed
    for name, tensor in both.changed.items():
        assert torch.allclose(tensor, one[name], atol=1e-3), name
    again = order(tmp_path / "resumed", **wanted)
    copy_checkpoints(both, tmp_path / "resumed", drop=2)
    assert attempt(again, tmp_path / "resumed").code == 0


@pytest.mark.parametrize("kind", ["nf4", "nf4-nested", "int8"])
@pytest.mark.parametrize("quantize", [False, True])
def test_quantised_base_on_the_device(tmp_path: Path, kind: str, quantize: bool) -> None:
    """Codes and scales move together, have the base's bytes there, and the run has the same bits again."""
    if quantize and kind == "nf4-nested":
        pytest.skip("scales are nested where a base is stored so")
    runs = []
    for name in ("one", "two"):
        if quantize:
            done, again = made(tmp_path / name, kind, device="cuda")
        else:
            done, again = causal(tmp_path / name, kind, device="cuda"), {}
        assert done.code == 0, done.reports[-1]
        assert judge(done, made=again).verdict == "verified"
        runs.append(done)
    assert_same(*runs)


def test_packed_codes_stay_packed(tmp_path: Path) -> None:
    """compressed-tensors' function unpacks a weight on the device for a moment; two runs end with the same bits."""
    from tests.worker.trainer.models.test_compressed_layers import causal as packed

    runs = [packed(tmp_path / name, device="cuda") for name in ("one", "two")]
    for done in runs:
        assert done.code == 0, done.reports[-1]
        assert judge(done).verdict == "verified"
    assert_same(*runs)
