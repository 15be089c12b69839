"""A model's id may contain slashes; the paths below a model belong to their own routes."""

import re

import pytest

from app.models.url import ModelIdConvertor


@pytest.mark.parametrize(
    ("path", "matches"),
    [
        ("minilm", True),
        ("owner/name@main", True),
        ("tensors", True),
        ("ft:a:b:c:1", True),
        ("minilm/tensors", False),
        ("owner/name/tensors", False),
        ("minilm/files/model.safetensors", False),
        ("minilm/files", True),
        ("minilm/files/a/b", True),
        ("minilm/files/1_Pooling/config.json", False),
        ("minilm/files/additional_chat_templates/rag.jinja", False),
    ],
)
def test_paths_of_other_routes_are_no_ids(path: str, matches: bool) -> None:
    """Whatever the method of the request."""
    assert (re.fullmatch(ModelIdConvertor.regex, path) is not None) == matches
