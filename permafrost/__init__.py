"""Permafrost as a library: watch frozen weights in any training loop, verify attestations, compare models.

    from permafrost import Witness, diff, verify

Each name is loaded when it is first used: `Witness` needs torch and xxhash, `verify` needs cryptography, `diff` numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from app import __version__

if TYPE_CHECKING:
    from app.evidence.diff.diff import diff_models as diff
    from app.evidence.verifier.verify import verify_files as verify
    from worker.trainer.witness import Witness

__all__ = ["Witness", "__version__", "diff", "verify"]

_HOMES: Final = {
    "Witness": ("worker.trainer.witness", "Witness"),
    "diff": ("app.evidence.diff.diff", "diff_models"),
    "verify": ("app.evidence.verifier.verify", "verify_files"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
