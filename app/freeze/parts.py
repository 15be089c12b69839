"""The parts of a model of pictures and texts, by the names that its family gives them.

    vision_tower    what looks at pictures            model.vision_tower, model.visual, model.vision_model
    projector       what brings that to the text      model.multi_modal_projector, model.connector, model.visual.merger
    language_model  what reads both and answers       model.language_model, model.text_model, lm_head
    text_tower      what reads texts to compare them  text_model, text_projection

A part is found by a segment of a tensor's name, the first one that is any part's; within a tower, a merger is the
projector. A model that compares pictures with texts, such as CLIP, has two towers, each with its projection, and no
other part. Before a policy is resolved, parts become names: so a statement says what was frozen without this table.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from app.errors import PolicyError
from app.freeze.policy import PARTS, Policy, Rule
from app.freeze.tensors import TensorInfo
from app.jsontypes import JsonDict

#: Names of modules by part, as classes of transformers have them.
MODULES: Final[Mapping[str, tuple[str, ...]]] = {
    "vision_tower": ("vision_tower", "visual", "vision_model", "vision_encoder", "vision_backbone", "image_tower"),
    "projector": (
        "multi_modal_projector", "connector", "mm_projector", "projector", "embed_vision", "aligner", "image_newline",
        "vision_projection", "visual_projection", "multimodal_projector", "perceiver_resampler", "modality_projection",
    ),
    "language_model": ("language_model", "text_model", "lm_head"),
}  # fmt: skip
#: Modules within a tower that are its projector, as in Qwen's and GLM's families.
#: Modules of a model that compares pictures with texts, by tower.
TOWERS: Final[Mapping[str, tuple[str, ...]]] = {
    "vision_tower": ("vision_model", "visual_projection", "vision_proj", "image_projection"),
    "text_tower": ("text_model", "text_projection", "text_proj"),
}
#: The parameter by which one is known: what similarities are multiplied by.
_SCALE: Final = "logit_scale"
MERGERS: Final = ("merger", "deepstack_merger_list", "patch_merger")
_PART_OF: Final = {module: part for part, modules in MODULES.items() for module in modules}
_TOWER_OF: Final = {module: part for part, modules in TOWERS.items() for module in modules}


@dataclass(frozen=True, slots=True)
class Matched:
    """What one part of a rule stands for in a model."""

    rule: str
    part: str
    names: tuple[str, ...]
    tensors: int
    elements: int

    def to_json(self) -> JsonDict:
        return {
            "rule": self.rule,
            "part": self.part,
            "matched": list(self.names),
            "tensors": self.tensors,
            "elements": self.elements,
        }


def bound(policy: Policy, tensors: Sequence[TensorInfo]) -> Policy:
    """The policy with names in place of parts. PolicyError for a part that the model lacks, with its top modules."""
    if not any(rule.select.part for rule in policy.rules):
        return policy
    found = _patterns(tensors)
    return replace(policy, rules=tuple(_bound(rule, found, tensors) for rule in policy.rules))


def matched(policy: Policy, tensors: Sequence[TensorInfo]) -> list[Matched]:
    """What each part in the policy's rules stands for in this model."""
    found = _patterns(tensors)
    part_of = _parts_of(each.name for each in tensors)
    sizes = {part: [each for each in tensors if part_of(each.name) == part] for part in PARTS}
    return [
        Matched(rule.id, part, tuple(found[part]), len(sizes[part]), sum(each.elements for each in sizes[part]))
        for rule in policy.rules
        for part in rule.select.part
        if part in found
    ]


def part_of(name: str) -> str | None:
    """The part of a model that a tensor is of, by its name; None where its family has other names."""
    segments = name.split(".")
    for at, segment in enumerate(segments):
        part = _PART_OF.get(segment)
        if part == "vision_tower" and any(each in MERGERS for each in segments[at + 1 :]):
            return "projector"
        if part is not None:
            return part
    return None


def tower_of(name: str) -> str | None:
    """The tower of a tensor of a model that compares pictures with texts; None for what belongs to neither."""
    return next((_TOWER_OF[segment] for segment in name.split(".") if segment in _TOWER_OF), None)


def sees_and_writes(root: str, names: Iterable[str]) -> bool:
    """Whether a model of the class `root` looks at pictures and writes text: it has a tower and a language model."""
    return root.endswith("ForConditionalGeneration") and {"vision_tower", "language_model"} <= set(map(part_of, names))


def _bound(rule: Rule, found: Mapping[str, list[str]], tensors: Sequence[TensorInfo]) -> Rule:
    if not rule.select.part:
        return rule
    for part in rule.select.part:
        if part not in found:
            tops = ", ".join(_top_modules(tensors))
            known = ", ".join(MODULES.get(part) or TOWERS[part])
            message = (
                f"rule '{rule.id}' matches nothing: this model has no {part} by any name that is known ({known}); its "
                f"top modules are {tops}: name the modules in rules of your own"
            )
            raise PolicyError(message, param=rule.select_at("part"))
    names = tuple(name for part in rule.select.part for name in found[part])
    return replace(rule, select=replace(rule.select, part=(), name=names))


def _patterns(tensors: Iterable[TensorInfo]) -> dict[str, list[str]]:
    """Globs that match exactly the names of each part that the model has."""
    names = sorted({name for tensor in tensors for name in (tensor.name, *tensor.aliases)})
    part_of = _parts_of(names)
    parts = {name: part_of(name) for name in names}
    found: dict[str, list[str]] = {}
    for part, pattern in _covering(names, parts, depth=1):
        found.setdefault(part, []).append(pattern)
    return found


def _parts_of(names: Iterable[str]) -> Callable[[str], str | None]:
    """How the parts of a model with tensors of these names are found: a model that compares has towers."""
    compares = any(name.rpartition(".")[2] == _SCALE for name in names)
    return tower_of if compares else part_of


def _covering(names: Sequence[str], parts: Mapping[str, str | None], *, depth: int) -> Iterator[tuple[str, str]]:
    """The shortest prefixes below which all names are of one part."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(".".join(name.split(".")[:depth]), []).append(name)
    for prefix, inside in groups.items():
        kinds = {parts[name] for name in inside}
        if len(kinds) == 1:
            part = next(iter(kinds))
            if part is not None:
                yield part, prefix if inside == [prefix] else f"{prefix}.**"
        else:
            yield from _covering(inside, parts, depth=depth + 1)


def _top_modules(tensors: Iterable[TensorInfo]) -> list[str]:
    """The model's modules down to the second level, without numbers."""
    paths = {".".join(tensor.name.split(".")[:-1][:2]) for tensor in tensors}
    return sorted(path for path in paths if path)[:12]
