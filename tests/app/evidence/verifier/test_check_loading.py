"""A refusal names the file, the loader's rule and what to remove; what is only notable is a note."""

from pathlib import Path

import pytest

from tests.tamper.kit import World


@pytest.mark.parametrize(
    ("name", "data", "check", "says"),
    [
        ("pytorch_model.bin", b"\x80", "no_containers", "in place of the safetensors file; remove it"),
        ("modeling_x.py", b"pass", "no_code", "transformers runs to load the model"),
        ("modules.json", b"[]", "no_modules", "sentence-transformers"),
        ("weights.index.json", b"{}", "index_name", "transformers reads model.safetensors.index.json"),
        (
            "config.json",
            b'{"transformers_weights": "x"}',
            "config_keys",
            "in place of model.safetensors; remove the key",
        ),
    ],
)
def test_a_refusal_says_what_to_remove(name: str, data: bytes, check: str, says: str, tmp_path: Path) -> None:
    world = World(tmp_path, result_files={"config.json": b"{}", name: data})
    world.sign()
    (problem,) = world.verify(2).problems
    assert (problem.check, problem.subject) == (check, name)
    assert says in problem.reason
