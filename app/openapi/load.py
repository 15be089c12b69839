"""Loads the examples of the API page from the JSON files in `examples/`."""

import json
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent / "examples"


def load_examples(name: str) -> dict[str, Any]:
    """The content of `examples/NAME.json`."""
    examples: dict[str, Any] = json.loads((_FOLDER / f"{name}.json").read_text("utf-8"))
    return examples
