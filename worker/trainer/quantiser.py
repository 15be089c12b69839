"""Imports bitsandbytes, where it is installed, without what it would bring along.

peft imports it whatever a job needs. On its own it has torch compile functions that no CPU or CUDA kernel here calls,
which loads the compiler (1.3 s, and a client for Redis), and, where the package `kernels` is installed as well, fetches
a kernel from a hub, which is code that nobody has looked at.
"""

import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

NAME = "bitsandbytes"
_KERNELS = "kernels"


def load() -> None:
    """Imports the package. Call it before anything imports peft."""
    if NAME in sys.modules or find_spec(NAME) is None:
        return
    with _uncompiled(), _without_hub():
        importlib.import_module(NAME)


@contextmanager
def _uncompiled() -> Iterator[None]:
    import torch

    compiled = torch.compile
    torch.compile = _as_it_is  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compiled


def _as_it_is(function: Any, **options: Any) -> Any:
    return function


@contextmanager
def _without_hub() -> Iterator[None]:
    """Has an import of `kernels` fail, which the package logs and goes on from."""
    log, level = logging.getLogger(NAME), logging.getLogger(NAME).level
    known = sys.modules.get(_KERNELS)
    sys.modules[_KERNELS] = None  # type: ignore[assignment]
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
        del sys.modules[_KERNELS]
        if known is not None:
            sys.modules[_KERNELS] = known
