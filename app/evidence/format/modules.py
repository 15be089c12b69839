"""Sentence-transformers folders: which modules follow the transformer, and which files hold them.

`modules.json` lists them in their order: the transformer in the folder itself, then a pooling, and then any number of
dense layers and normalisations, each in a folder such as `1_Pooling`. A tensor of a module is called after its folder,
`2_Dense.linear.weight`, wherever all tensors of a model are listed together; in its own file it is `linear.weight`.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from app.evidence.format.digest import FileReading

MODULES = "modules.json"
MAX_BYTES = 1 << 20  # of a modules.json
WEIGHTS, CONFIG = "model.safetensors", "config.json"
#: The files of each kind of module in its folder.
FILES = {"Transformer": (), "Pooling": (CONFIG,), "Dense": (CONFIG, WEIGHTS), "Normalize": ()}
_MODULE_FILE = re.compile(r"[1-9]\d?_(?:Pooling/config\.json|Dense/config\.json|Dense/model\.safetensors)", re.ASCII)
_PACKAGE = "sentence_transformers."


class ModulesError(ValueError):
    """A `modules.json` that describes other modules than these."""


class SentenceModule(NamedTuple):
    """One entry of `modules.json`. `path` is "" for the transformer."""

    kind: str
    path: str

    def to_json(self, at: int) -> dict[str, Any]:
        """The entry as every version of sentence-transformers reads it."""
        return {"idx": at, "name": str(at), "path": self.path, "type": f"{_PACKAGE}models.{self.kind}"}


def parse(document: Any) -> tuple[SentenceModule, ...]:
    """The modules that a `modules.json` lists. Raises ModulesError for an unknown kind, order or folder."""
    if not isinstance(document, list) or not all(isinstance(entry, dict) for entry in document):
        raise ModulesError("it is not a list of modules")
    modules = tuple(_module(entry, at) for at, entry in enumerate(document))
    kinds = [module.kind for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or not {"Dense", "Normalize"}.issuperset(kinds[2:]):
        raise ModulesError(
            f"its modules are {', '.join(kinds) or 'none'}; supported are a Transformer, a Pooling, and then any "
            "number of Dense and Normalize"
        )
    return modules


def _module(entry: dict[str, Any], at: int) -> SentenceModule:
    kind = str(entry.get("type"))
    if not kind.startswith(_PACKAGE) or kind.rpartition(".")[2] not in FILES:
        raise ModulesError(
            f"module {at} is of type {kind!r}; supported are {', '.join(FILES)} of sentence-transformers"
        )
    kind = kind.rpartition(".")[2]
    path = "" if kind == "Transformer" else f"{at}_{kind}"
    if entry.get("idx") != at or entry.get("path") != path:
        raise ModulesError(f"module {at}, a {kind}, is in {entry.get('path')!r} and not in {path!r}")
    return SentenceModule(kind, path)


def files_of(modules: Iterable[SentenceModule]) -> list[str]:
    """The files of the modules in folders of their own."""
    return [f"{module.path}/{name}" for module in modules for name in FILES[module.kind]]


def files_listed(folder: Path) -> list[str]:
    """The files of a folder's modules, by its `modules.json`; none where its modules are not supported."""
    path = folder / MODULES
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        return []
    try:
        return files_of(parse(json.loads(path.read_bytes())))
    except (ValueError, RecursionError):
        return []


def files_in(folder: Path) -> list[str]:
    """Those of the files of a folder's modules that are there."""
    return [name for name in files_listed(folder) if (folder / name).is_file()]


def is_module_file(name: str) -> bool:
    """Whether this is the path of a file of a module, such as `2_Dense/model.safetensors`."""
    return _MODULE_FILE.fullmatch(name) is not None


def tensor_prefix(file: str) -> str:
    """What the names of a file's tensors begin with where all tensors of a model are listed together."""
    folder = file.rpartition("/")[0]
    return f"{folder}." if folder else ""


def within(reading: FileReading, file: str) -> FileReading:
    """The reading of `file`, a path within a model's folder, with its tensors called after that path's folder."""
    prefix = tensor_prefix(file)
    tensors = tuple(tensor._replace(name=f"{prefix}{tensor.name}") for tensor in reading.tensors)
    return reading._replace(name=file, tensors=tensors)


def file_of(tensor: str, files: Iterable[str]) -> str | None:
    """The one of a module's `files` of weights that holds a tensor; None for a tensor of the transformer."""
    inside = (file for file in files if file.endswith(f"/{WEIGHTS}"))
    return next((file for file in inside if tensor.startswith(tensor_prefix(file))), None)
