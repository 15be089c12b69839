"""What a prefix's results depend on beside the example: the key of the folder that they are kept in."""

from __future__ import annotations

import hashlib
import inspect
import json
import secrets
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from torch import nn

from app.jsontypes import JsonDict
from worker.trainer import determinism
from worker.trainer.models import quantised
from worker.trainer.prefix.serving import Prefix
from worker.trainer.training.prefix_request import PrefixRequest

FORMAT = 1
#: Of a model's configuration, what belongs to its head or says where it came from.
ELSEWHERE = (
    "_name_or_path", "architectures", "finetuning_task", "id2label", "label2id", "num_labels", "problem_type",
    "transformers_version",
)  # fmt: skip
#: Packages whose version stands for their code.
VERSIONED = ("torch", "transformers", "peft")


def key(request: PrefixRequest, prefix: Prefix, digests: Mapping[str, str]) -> str:
    """SHA-256 (hex) of the prefix's tensors, structure, code and configuration, and of everything that computes it."""
    model = request.model
    content = {
        "format": FORMAT,
        "prefix": dict(digests),
        "modules": [[call.path, str(call.module)] for call in prefix.cut.served],
        "leaves": [[call.path, str(leaf)] for call in prefix.cut.served for leaf in call.leaves],
        "code": sorted({_code(kind) for kind in {type(module) for module in model.modules()}}),
        "config": _config(model),
        "most": request.size,
        "precision": request.precision,
        "environment": determinism.environment(
            request.device, attention=_attention(model), quantiser=quantised.package_of(model)
        ),
        "versions": {name: _version(name) for name in VERSIONED},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _config(model: nn.Module) -> JsonDict:
    config = getattr(model, "config", None)
    if config is None:
        return {}
    content = config if isinstance(config, dict) else config.to_dict()
    return {name: value for name, value in content.items() if name not in ELSEWHERE}


def _attention(model: nn.Module) -> str | None:
    return getattr(getattr(model, "config", None), "_attn_implementation", None)


def _code(kind: type) -> str:
    """The class's name and, where no version stands for its code, a digest of the file that it is in."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    if kind.__module__.partition(".")[0] in VERSIONED:
        return name
    try:
        source = Path(inspect.getfile(kind)).read_bytes()
    except (OSError, TypeError):
        return f"{name} {secrets.token_hex(16)}"  # code that cannot be read is never the same as before
    return f"{name} {hashlib.sha256(source).hexdigest()}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
