"""The files of examples are JSON objects, and each has a reader."""

import json
from pathlib import Path

from app.openapi import load


def test_every_file_is_read_by_some_module() -> None:
    """A file that no module names would be shipped and never shown."""
    sources = [path.read_text("utf-8") for path in Path(load.__file__).parents[1].rglob("*.py")]
    files = sorted((Path(load.__file__).parent / "examples").iterdir())
    assert len(files) > 3
    for file in files:
        assert file.suffix == ".json"
        assert load.load_examples(file.stem) == json.loads(file.read_text("utf-8"))
        assert any(f'load_examples("{file.stem}")' in source for source in sources), file.name
