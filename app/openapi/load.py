"""Loads the examples of the API page from the JSON files in `examples/`."""

import json
from pathlib import Path

from app.jsontypes import JsonDict

_FOLDER = Path(__file__).parent / "examples"


def load_examples(name: str) -> JsonDict:
    """The content of `examples/NAME.json`."""
    examples: JsonDict = json.loads((_FOLDER / f"{name}.json").read_text("utf-8"))
    return examples
