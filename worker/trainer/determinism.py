"""Makes runs repeatable: seeds, deterministic kernels, a fixed thread count, and a record of the environment."""

from __future__ import annotations

import os
import platform
import random
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from app.jsontypes import JsonDict
from worker.trainer.freeze.fixed import sentence
from worker.trainer.ranks.group import ALONE, Group

#: torch's messages about operations that ran without a deterministic kernel.
relaxed: list[str] = []


def configure(*, threads: int | None = None) -> None:
    """Chooses deterministic kernels and fixes the number of threads. Call it once, in the trainer's own process.

    Another thread count gives other bits.
    """
    relaxed.clear()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.set_num_threads(threads or default_threads())
    torch.use_deterministic_algorithms(True)  # only this strict kind makes fused attention deterministic on a GPU
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs a write per allocation, and hides nothing here
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def relax(error: RuntimeError) -> bool:
    """Whether `error` is about an operation without a deterministic kernel; from then on torch only warns of them."""
    if "does not have a deterministic implementation" not in str(error):
        return False
    relaxed.append(str(error).splitlines()[0])
    torch.use_deterministic_algorithms(True, warn_only=True)
    return True


def default_threads() -> int:
    """OMP_NUM_THREADS where set, else this rank's share of the cores that the process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def seed_everything(seed: int, *, rank: int = 0) -> None:
    """Seeds every generator. Each rank has a stream of its own, so that they do not drop out the same units."""
    seed = (seed + rank * 0x9E3779B97F4A7C15) % 2**63
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)  # every device


def random_states() -> tuple[JsonDict, dict[str, torch.Tensor]]:
    """The state of every generator: (JSON for Python and numpy, tensors for torch and each device)."""
    algorithm, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    version, words, gauss = random.getstate()
    plain = {
        "python": [version, list(words), gauss],
        "numpy": [algorithm, np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
    }
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        tensors |= {f"cuda:{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return plain, tensors


def restore_random_states(plain: JsonDict, tensors: dict[str, torch.Tensor]) -> None:
    version, words, gauss = plain["python"]
    random.setstate((version, tuple(words), gauss))
    algorithm, keys, position, has_gauss, cached = plain["numpy"]
    np.random.set_state((algorithm, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    for name, state in tensors.items():
        if name == "cpu":
            torch.set_rng_state(state)
        elif int(name.partition(":")[2]) < torch.cuda.device_count():  # a run may resume on fewer devices
            torch.cuda.set_rng_state(state, name)


def report(now: JsonDict, *, seed: int, resumed: list[JsonDict], frozen_dropout: bool) -> JsonDict:
    """Whether the same job gives the same bits again in the environment `now`, and what prevents it.

    `resumed` has each step after which the run resumed, with what differed in the environment; `frozen_dropout` is
    the hyperparameter, and the report adds the reason for it.
    """
    return {
        "exact": not relaxed and not any(each["differs"] for each in resumed),
        "seed": seed,
        "frozen_dropout": {"value": frozen_dropout, "reason": sentence(frozen_dropout=frozen_dropout)},
        "not_deterministic": relaxed,
        "resumed": resumed,
        "environment": now,
    }


def environment(
    device: torch.device, *, attention: str | None = None, group: Group = ALONE, quantiser: str | None = None
) -> JsonDict:
    """Everything that a run's bits depend on beside its inputs: runs resume exactly in an equal environment.

    `quantiser` is the package, with its version, that computes with a quantised base.
    """
    return {
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "processor": processor(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()),
        "attention": attention,
        "ranks": group.size,
        "strategy": group.strategy if group.size > 1 else None,
        **({"quantiser": quantiser} if quantiser else {}),
    }


@cache
def processor() -> str:
    """The processor's name: MKL and oneDNN take other kernels on others, also where the instructions are the same."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
