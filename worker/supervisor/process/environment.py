"""The environment that trainers get: what numerics needs, and nothing that opens a door."""

import os
from collections.abc import Mapping
from pathlib import Path

import worker

#: Variables that pass, by name or (with a trailing *) by prefix. Everything else, secrets first, stays with the worker.
PASSED = (
    "PATH", "LANG", "LC_*", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH",
    "OMP_*", "MKL_*", "OPENBLAS_*", "KMP_*", "GOMP_*",
    "CUDA_*", "NVIDIA_*", "NCCL_*", "PYTORCH_*", "TORCH_*", "TRITON_*",
)  # fmt: skip

FIXED = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Sets of strings must iterate in the same order in every attempt at a job.
    "PYTHONHASHSEED": "0",
    # Whatever a library starts looks for modules neither in its working folder nor in a home that trainers write to.
    "PYTHONSAFEPATH": "1",
    "PYTHONNOUSERSITE": "1",
    # A log whose last lines are missing after a kill explains nothing.
    "PYTHONUNBUFFERED": "1",
    # cuBLAS reads it when CUDA starts; without it, its results may differ from run to run.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}


#: What the worker's own environment may say otherwise.
DEFAULTS = {
    # Waiting threads sleep instead of spinning: on a busy machine that halves the processor time, with the same bits.
    "OMP_WAIT_POLICY": "PASSIVE",
}


def cleaned(environment: Mapping[str, str] | None = None, *, home: Path) -> dict[str, str]:
    """`home` is an empty folder: caches may go there, and no token or configuration of the worker's user is found."""
    source = os.environ if environment is None else environment
    passed = {name: value for name, value in source.items() if _passes(name)}
    return DEFAULTS | passed | FIXED | {"HOME": str(home), "PYTHONPATH": _import_path(passed.get("PYTHONPATH", ""))}


def _passes(name: str) -> bool:
    return any(name == each or (each.endswith("*") and name.startswith(each[:-1])) for each in PASSED)


def _import_path(given: str) -> str:
    """The folder that holds this package comes first: the forkserver's own working folder is another."""
    root = Path(worker.__path__[0]).parent
    rest = [str(Path(each).absolute()) for each in given.split(os.pathsep) if each]
    return os.pathsep.join([str(root.absolute()), *rest])
