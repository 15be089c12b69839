"""The processors of vision-language models: pictures and texts become model inputs as the model's family has it.

Pictures are resized through PIL. transformers builds a family's processor only where all of its parts can be built,
the one for videos among them, which needs torchvision: here a part that pictures and texts do not need is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from transformers import AutoImageProcessor
from transformers.models.auto.auto_factory import model_type_to_module_name
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from app.errors import ModelError
from app.files.problems import first_line
from worker.trainer.models import configs

#: Where a folder has the configuration of its processor, the first of them that is there.
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
#: Everything beside tokenizer and weights that a processor is built from.
COMPANIONS = (*PROCESSOR_FILES, "video_preprocessor_config.json", "chat_template.json")
_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError)


def load(folder: Path, tokenizer: Any, *, kind: str, options: Mapping[str, Any]) -> Any:
    """The processor of a vision-language model in `folder`, over its tokenizer. `kind` is the model's `model_type`.

    ModelError where the folder has none, where it is not one of transformers, and where this installation lacks a
    package that it needs.
    """
    content = _configuration(folder, kind)
    cls = _class_of(str(content.get("processor_class") or PROCESSOR_MAPPING_NAMES.get(kind)), kind)
    try:
        parts = [_part(name, folder, tokenizer, kind=kind, options=options) for name in cls.get_attributes()]
        settings, _ = cls.get_processor_dict(folder, **options)
        found = _lenient(cls).from_args_and_dict(parts, settings)
    except ModelError:
        raise
    except _ERRORS as error:
        if isinstance(error, ImportError) or "torchvision" in str(error):
            raise _lacking(kind, error) from error
        message = f"transformers could not load the processor ({cls.__name__}): {first_line(error)}"
        raise ModelError(message, param="model", code="processor_does_not_fit") from error
    return found


def is_here(folder: Path) -> bool:
    """Whether the folder has a processor's configuration."""
    return any((folder / name).is_file() for name in PROCESSOR_FILES)


def refuse_missing(kind: str) -> NoReturn:
    """Raises the refusal of a folder without a processor for pictures."""
    message = (
        f"the model's folder has no processor for pictures ({' or '.join(PROCESSOR_FILES)}), without which this "
        f"{kind} model cannot be shown any; take the files from where the model comes from"
    )
    raise ModelError(message, param="model", code="no_processor")


def _configuration(folder: Path, kind: str) -> Mapping[str, Any]:
    """The configuration that names the processor's class; every file of it is looked through before it is used."""
    found = [configs.read(folder / name) for name in COMPANIONS if (folder / name).is_file()]
    if not is_here(folder):
        refuse_missing(kind)
    return next((content for content in found if content.get("processor_class")), {})


def _class_of(name: str, kind: str) -> Any:
    """A processor's class, from the module of its family: the package's own attribute is a stub without torchvision."""
    families = [family for family, processor in PROCESSOR_MAPPING_NAMES.items() if processor == name]
    own = name.removesuffix("Processor").lower()  # Mistral 3 has Pixtral's, a family without a class for this task
    for family in dict.fromkeys((kind, *families, own)):
        module = model_type_to_module_name(family)
        try:
            inner = import_module(f"transformers.models.{module}.processing_{module}")
        except ImportError as error:
            if "torchvision" in str(error):
                raise _lacking(kind, error) from error
            continue
        if hasattr(inner, name):
            return getattr(inner, name)
    message = f"transformers has no processor {name!r} for a {kind} model, so that it cannot be shown pictures"
    raise ModelError(message, param="model", code="unsupported_model")


def _part(name: str, folder: Path, tokenizer: Any, *, kind: str, options: Mapping[str, Any]) -> Any:
    """One of the processor's parts; None for those that pictures and texts do without."""
    if name == "tokenizer":
        return tokenizer
    if name != "image_processor":
        return None
    chosen = AutoImageProcessor.from_pretrained(folder, backend="pil", **options)
    if not type(chosen).__name__.endswith("Pil"):
        raise _lacking(kind, ImportError(f"{type(chosen).__name__} requires the Torchvision library"))
    return chosen


def _lenient(cls: Any) -> Any:
    """The class with parts left out: transformers looks up the class of a video processor, which it may not have."""

    def check(self: Any, name: str, argument: Any) -> Any:
        return (
            None if argument is None or "video" in name else cls.check_argument_for_proper_class(self, name, argument)
        )

    return type(cls.__name__, (cls,), {"check_argument_for_proper_class": check})


def _lacking(kind: str, error: Exception) -> ModelError:
    """The refusal of a family whose processor needs what is not installed."""
    said = str(error)
    package = "num2words" if "num2words" in said else "torchvision" if "orchvision" in said else None
    what = f"{package}, which is not installed" if package else first_line(error)
    message = f"the processor of {kind} models needs {what}: install it where the worker runs"
    hint = " (the build that fits the installed torch)" if package == "torchvision" else ""
    return ModelError(message + hint, param="model", code="missing_package")
