"""Policies by name for models of pictures and texts: what `preset` in a policy stands for."""

from collections.abc import Mapping
from typing import Final

from app.jsontypes import JsonDict

#: Names of adapters' own tensors, as peft gives them.
ADAPTER_NAMES: Final = r"(.*\.)?(lora_|ia3_|prompt_encoder\.).*"


def _frozen(part: str) -> JsonDict:
    return {"default": "train", "rules": [{"id": part, "action": "freeze", "select": {"part": part}}]}


def _trained(*parts: str) -> JsonDict:
    rules = [{"id": part, "action": "train", "select": {"part": part}} for part in parts]
    return {"default": "freeze", "rules": rules}


PRESETS: Final[Mapping[str, JsonDict]] = {
    # The part is frozen, and all else trains.
    "vision_tower": _frozen("vision_tower"),
    "projector": _frozen("projector"),
    "language_model": _frozen("language_model"),
    "text_tower": _frozen("text_tower"),
    # The two stages of LLaVA (Liu 2023): alignment, then instruction tuning.
    "llava-stage-1": _trained("projector"),
    "llava-stage-2": _trained("projector", "language_model"),
    # An adapter beside the language model trains. All of the base is frozen, and so is an adapter elsewhere.
    "lora-language-model": {
        "default": "freeze",
        "rules": [
            {
                "id": "adapter",
                "action": "train",
                "select": {"part": "language_model", "regex": ADAPTER_NAMES},
            }
        ],
    },
}
