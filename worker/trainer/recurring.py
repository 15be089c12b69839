"""Tells exceptions that the same work raises again at every attempt from those that a retry can cure."""

from __future__ import annotations

import importlib.metadata
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Final

import torch.distributed as dist

from app.errors import PermafrostError

#: Parts of messages about devices, memory, disks, threads and other processes, which may be well at the next attempt.
PASSING: Final = (
    "CUDA", "cuDNN", "CUDNN", "cuBLAS", "CUBLAS", "NCCL", "Gloo", "gloo", "DataLoader worker",
    "allocate", "can't start new thread", "mmap", "shared memory", "PytorchStreamWriter", "PytorchStreamReader",
    "Connection ", "Broken pipe", "timed out", "Too many open files", "No space left", "Input/output error", "os error",
)  # fmt: skip
#: An assertion in a kernel is about the numbers that it was given, and they are the same again.
ASSERTION: Final = "device-side assert"
MESSAGE_CHARACTERS: Final = 600

#: Words of a library, what they mean here and what would work, and the parameter to change.
EXPLANATIONS: Final = (
    (
        "Expected more than 1 value per channel when training",
        (
            "BatchNorm cannot train on a single example, and one batch of an epoch has just one: choose a "
            "batch_size that leaves no single example over, or freeze the BatchNorm"
        ),
        "hyperparameters.batch_size",
    ),
    (
        "Attempting to unscale FP16 gradients",
        (
            "weights that are stored in float16 cannot be trained with the precision fp16, which needs float32 "
            "weights: leave master_weights on, choose the precision bf16, or load the model with the dtype float32"
        ),
        "hyperparameters.precision",
    ),
    (
        "index out of range in self",
        (
            "an embedding table has fewer rows than an id needs: the tokenizer or the length of the examples does "
            "not fit the model"
        ),
        "model",
    ),
)

_OURS: Final = Path(__file__).parent
#: What a part of the trainer was doing, and the request's parameter that it depends on, by its path.
_PARTS: Final = (
    ("data", "reading the training data", "training_file"),
    ("models", "loading the model", "model"),
    ("freeze", "applying the freeze policy", "freeze_policy"),
    ("export.py", "writing the result", "model"),
    ("curves.py", "writing the result", None),
    ("training/optimizer.py", "setting up the optimizer", "hyperparameters.optimizer"),
    ("training/setup.py", "preparing the training", None),
    ("training", "a training step", None),
    ("prefix", "caching the outputs of frozen layers", "hyperparameters.prefix_cache"),
)


class RecurringError(PermafrostError):
    """A library or the trainer itself raised an exception that another attempt would meet again."""

    code = "trainer_error"


def recurring(error: Exception) -> RecurringError | None:
    """What to report of an exception that every attempt would raise; None where a retry may help.

    The work is the same at each attempt, bit for bit, so an exception comes again unless it is about a device, memory,
    a disk, a thread or another process.
    """
    if may_pass(error):
        return None
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    part, param = _part(frames)
    origin = f"{_library(frames) or 'the trainer'} raised {type(error).__name__}"
    text = " ".join(str(error).split())[:MESSAGE_CHARACTERS] or "without a message"

    for words, explanation, its_param in EXPLANATIONS:
        if words in text:
            return RecurringError(f"{part} failed: {explanation} ({origin}: {text})", param=its_param)
    message = f"{part} failed: {origin}: {text}. Another attempt would fail in the same way; the log has the traceback"
    return RecurringError(message, param=param)


def may_pass(error: BaseException) -> bool:
    """Whether the exception, or one that it was raised from, is about something that may be well another time."""
    return any(_is_passing(link) for link in _causes(error))


def _causes(error: BaseException) -> list[BaseException]:
    """The exception and those that it was raised from."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__
    return chain


def _is_passing(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, OSError, EOFError, dist.DistError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ASSERTION not in text and any(part in text for part in PASSING)


def _part(frames: list[FrameType]) -> tuple[str, str | None]:
    """The innermost part of the trainer that was at work, in words, and the parameter that it depends on."""
    for frame in reversed(frames):
        path = Path(frame.f_code.co_filename)
        if not path.is_relative_to(_OURS):
            continue
        own = path.relative_to(_OURS).as_posix()
        for prefix, part, param in _PARTS:
            if own == prefix or own.startswith(f"{prefix}/"):
                return part, param
    return "the trainer", None


def _library(frames: list[FrameType]) -> str:
    """Name and version of the package that raised it; empty where that was our own code."""
    for frame in reversed(frames):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package in ("app", "worker"):
            return ""
        if package not in sys.stdlib_module_names:
            names = importlib.metadata.packages_distributions().get(package)
            return f"{package} {importlib.metadata.version(names[0])}" if names else package
    return ""
