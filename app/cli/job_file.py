"""Reads a job from a YAML or JSON file: the fields of POST /v1/fine_tuning/jobs, with local paths for its files."""

import json
from pathlib import Path
from typing import Any, Final

import typer
from yaml import MappingNode, SafeLoader, ScalarNode, SequenceNode, YAMLError, compose, safe_load

from app.evidence.format.strict import read_json, repeated_keys
from app.jsontypes import JsonDict

SUFFIXES: Final = (".yaml", ".yml", ".json")
#: Fields that name uploaded files, or here files of this machine.
FILES: Final = ("training_file", "validation_file")
_OPTION: Final = "--file"


def read_job(path: Path) -> JsonDict:
    """The job in a file. BadParameter where it is not one object of JSON values."""
    try:
        raw = path.read_bytes()
        content = read_json(raw) if path.suffix == ".json" else _yaml(raw)
        json.dumps(content, allow_nan=False)
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}", param_hint=_OPTION) from None
    except (ValueError, TypeError, YAMLError) as error:
        # YAML has dates, sets and more, which JSON has not: such a value needs quotes.
        raise typer.BadParameter(f"{path} is no job of JSON values: {_first_line(error)}", param_hint=_OPTION) from None
    except RecursionError:
        raise typer.BadParameter(f"{path} is nested too deeply to be read", param_hint=_OPTION) from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        message = f"{path} must have the fields of a job, such as `model` and `training_file`"
        raise typer.BadParameter(message, param_hint=_OPTION)
    for key in repeated_keys(content):
        raise typer.BadParameter(f"{path}: the key {key!r} is given twice; give it once", param_hint=_OPTION)
    return content


def local_file(value: Any, folder: Path) -> Path | None:
    """The file of this machine that a job file names, relative to its folder; None for an id, or a reference."""
    if not isinstance(value, str) or value.startswith("file-") or "://" in value:
        return None
    path = folder / Path(value).expanduser()
    if not path.is_file():
        raise typer.BadParameter(
            f"{value!r} is neither a file, nor an id such as file-…, nor a reference such as s3://bucket/key",
            param_hint=_OPTION,
        )
    return path


def _yaml(raw: bytes) -> Any:
    """The content of a YAML file. ValueError for a key that is given twice, of which `safe_load` takes the last."""
    waiting, seen = [compose(raw, SafeLoader)], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, SequenceNode):
            waiting += node.value
        elif isinstance(node, MappingNode):
            names: set[str] = set()
            for key, value in node.value:
                waiting.append(value)
                if isinstance(key, ScalarNode) and key.value in names:
                    line = key.start_mark.line + 1
                    raise ValueError(f"line {line}: the key {key.value!r} is given twice; give it once")
                if isinstance(key, ScalarNode) and key.tag != _MERGE:
                    names.add(key.value)
    return safe_load(raw)


#: Of `<<`, which takes in the keys of another mapping: those that are given as well count.
_MERGE: Final = "tag:yaml.org,2002:merge"


def _first_line(error: Exception) -> str:
    """The problem with its line and column, without the excerpt of the file."""
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', error)}"
    return str(error).splitlines()[0]
