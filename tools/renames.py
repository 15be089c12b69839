"""`python -m tools.renames`: adds the renames of the installed transformers to the tables that the verifier follows.

transformers 5 gives many models other names than their files have. The verifier does not import transformers, so it
carries the tables. Tables of earlier versions stay, for attestations that were made with those versions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.evidence.verifier.renames import FILE, Rename, Table, render_tables, tables

PATH = Path(__file__).parents[1] / "app" / "evidence" / "verifier" / FILE
#: What a job can load: the classes of its tasks.
MAPPINGS = (
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
)
#: Stored tensors that are laid side by side keep their bytes; what else is done to them cannot be told by names.
JOINING = ("MergeModulelist", "Concatenate")


def main() -> None:
    known = dict.fromkeys((*tables(), *installed()))
    PATH.write_text(render_tables(known), "utf-8")


def installed() -> list[Table]:
    """Every table of the installed version, once. A class with a head may have one beside that of the model inside."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    from transformers.models.auto import modeling_auto

    def table(key: str) -> Table:
        return tuple(_renames(get_checkpoint_conversion_mapping(key) or []))

    found: dict[Table, None] = {}
    for mapping in MAPPINGS:
        for kind, classes in getattr(modeling_auto, mapping).items():
            inside = _names(modeling_auto.MODEL_MAPPING_NAMES.get(kind, ()))
            for name in _names(classes):
                outer = table(name) or table(kind)
                inner = next((each for each in map(table, inside) if each), ())
                inner = tuple(_within_body(each) for each in inner)
                parts = tuple(rename for part in _parts(kind) for rename in table(part))
                found[outer] = found[inner] = found[outer + inner if outer != inner else outer] = None
                found[outer + parts] = found[outer + inner + parts] = None
    return sorted(each for each in found if each)


def _parts(kind: str) -> Iterator[str]:
    """The kinds of the models inside one of this kind that have tables of their own, such as T5Gemma 2's encoder."""
    from transformers import CONFIG_MAPPING

    inside = CONFIG_MAPPING[kind].sub_configs.values() if kind in CONFIG_MAPPING else ()
    yield from (part.model_type for part in inside if getattr(part, "model_type", "").endswith("_encoder"))


def _names(classes: str | tuple[str, ...]) -> tuple[str, ...]:
    return (classes,) if isinstance(classes, str) else classes


def _renames(transforms: list[Any]) -> Iterator[Rename]:
    for each in transforms:
        operations = getattr(each, "operations", ())
        if any(type(one).__name__ not in JOINING for one in operations):
            continue
        paired = len(each.source_patterns) == len(each.target_patterns)
        for at, source in enumerate(each.source_patterns):
            target = each.target_patterns[at if paired else 0]
            yield Rename(_bounded(source), "=>" if operations else "->", target)


def _within_body(rename: Rename) -> Rename:
    """The rename of a model that is the body of another: its names may begin with the prefix of the body, `model.`."""
    if not rename.pattern.startswith("^"):
        return rename
    return rename._replace(pattern=rf"(?:^|(?<=^model\.)){rename.pattern[1:]}")


def _bounded(pattern: str) -> str:
    """As transformers compiles it: `*.` is any path, and a pattern ends where a word does."""
    pattern = pattern.replace("*.", r".*\.")
    return pattern + r"(?!\w)" if pattern[-1].isalnum() else pattern


if __name__ == "__main__":
    main()
