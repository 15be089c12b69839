"""The configuration of a base as transformers reads it, with the outputs that a task needs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig

from app.errors import ModelError
from app.specs.fit import ONE_OUTPUT
from app.specs.models import TransformersSpec
from worker.trainer.models import configs

CONFIG, GENERATION = "config.json", "generation_config.json"
#: Makes pipelines and servers show a score as it was learned: the sigmoid of the output, and not the output itself.
_RANKING = "multi_label_classification"
#: What transformers raises for values that a configuration cannot have.
ERRORS = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ImportError, ArithmeticError, AssertionError),
    StrictDataclassError,
)
#: How transformers says which package is missing.
_INSTALL = re.compile(r"`(pip install [^`]+)`")


def load(spec: TransformersSpec, folder: Path, *, task: str, labels: Sequence[str] | None) -> Any:
    """The configuration for the task; `labels` size and name a classifier's head.

    ModelError where a file cannot be read, or transformers has no class for the kind of model.
    """
    content = configs.read(folder / CONFIG)
    if (folder / GENERATION).is_file():  # transformers takes one that it cannot read for a missing one
        configs.read(folder / GENERATION)
    kind = content.get("model_type")
    if kind is None and "pretrained_cfg" in content:  # as timm writes it, and transformers reads it
        kind = "timm_wrapper"
    if not isinstance(kind, str):
        raise ModelError("config.json has no model_type", param="model")
    if kind not in CONFIG_MAPPING:
        _refuse_unknown_kind(kind, configs.ignored_keys(folder / CONFIG))
    try:
        config = _read(folder, content)
    except ERRORS as error:
        raise ModelError(f"transformers does not understand config.json: {said(error)}", param="model") from error

    _set_outputs(config, spec, task, labels)
    if task in ("causal-lm", "preference"):
        config.use_cache = False  # a cache of keys and values is for generation
    if task == "image-text":
        config.get_text_config().use_cache = False
    return config


def label_names(folder: Path) -> tuple[str, ...] | None:
    """Class names of a base that already has a labelled head, by index; None where it has none."""
    names = configs.read(folder / CONFIG).get("id2label")
    if not isinstance(names, dict) or not all(str(key).isdecimal() for key in names):
        return None
    ordered = tuple(str(names[key]) for key in sorted(names, key=int))
    return None if all(name.startswith("LABEL_") for name in ordered) else ordered


def said(error: BaseException, folder: Path | None = None) -> str:
    """What transformers said, in one line, and what would work where that is known.

    Of a KeyError it says the key alone: that is looked up in the configuration of `folder`.
    """
    if isinstance(error, ImportError):
        text = str(error).strip()
        named = ", ".join(dict.fromkeys(_INSTALL.findall(text)))
        if not named and "SentencePiece" in text:  # transformers names a page, and not the command
            named = "pip install sentencepiece"
        cure = f"install it where the worker runs: {named}" if named else "install the package where the worker runs"
        return f"{text.splitlines()[0].partition('You can install')[0].strip()[:200]} ({cure})"
    if isinstance(error, KeyError) and folder is not None:
        found = configs.paths_of(folder / CONFIG, error.args[0] if error.args else None)
        if found:
            return f"{CONFIG}: {found[0]} is {error.args[0]!r}, which it does not know"
    lines = [line.strip() for line in str(error).strip().splitlines()]
    text = " ".join(lines[: 2 if isinstance(error, StrictDataclassError) else 1])[:300]
    if not text or isinstance(error, LookupError | ArithmeticError | AssertionError):
        return f"{type(error).__name__}{f': {text}' if text else ''}; compare {CONFIG} with the files"
    return text


def _set_outputs(config: Any, spec: TransformersSpec, task: str, labels: Sequence[str] | None) -> None:
    if labels is not None:
        names = [*labels, *(f"LABEL_{index}" for index in range(len(labels), spec.num_labels or 0))]
        config.id2label = dict(enumerate(names))
        config.label2id = {name: index for index, name in enumerate(names)}
        config.problem_type = "single_label_classification" if task.startswith(("text", "image")) else None
    elif task in ONE_OUTPUT:
        config.num_labels = spec.num_labels or 1
        config.problem_type = "regression" if task == "text-regression" else _RANKING
    elif spec.num_labels:
        config.num_labels = spec.num_labels


def _read(folder: Path, content: Mapping[str, Any]) -> Any:
    """The folder's configuration as transformers reads it from a file, which has notations of its own in it.

    Where keys are ignored, that is a file without them.
    """
    if not configs.ignored_keys(folder / CONFIG):
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with TemporaryDirectory() as cleaned:
        (Path(cleaned) / CONFIG).write_text(json.dumps(content), "utf-8")
        return AutoConfig.from_pretrained(cleaned, local_files_only=True, trust_remote_code=False)


def _refuse_unknown_kind(kind: str, ignored: Sequence[str]) -> None:
    if "auto_map" in ignored:
        message = (
            f"transformers has no class of its own for a {kind!r} model: only the code that its config.json names "
            "(auto_map) could load it, and code that comes with a model is never run"
        )
    else:
        message = f"transformers {transformers.__version__} knows no model_type {kind!r} (config.json)"
    raise ModelError(message, param="model", code="unsupported_model")
