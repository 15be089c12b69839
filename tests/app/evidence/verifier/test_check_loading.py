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


def test_code_for_a_tokenizer_is_a_note(tmp_path: Path) -> None:
    """It has no part in the weights, and published tokenizers name it."""
    files = {"config.json": b"{}", "tokenizer_config.json": b'{"auto_map": {"AutoTokenizer": ["x.X", null]}}'}
    world = World(tmp_path, result_files=files)
    world.sign()
    report = world.verify(2)
    assert report.verified
    assert any("tokenizer_config.json names code" in note for note in report.warnings)


def test_frozen_tensors_of_a_second_dtype_are_a_note(tmp_path: Path) -> None:
    """A base of several dtypes: which of its tensors keep theirs is the class's choice."""
    world = World(tmp_path, result_files={"config.json": b'{"model_type": "bert", "dtype": "float32"}'})
    world.sign()
    report = world.verify(2)
    assert report.verified
    assert any("frozen in another dtype" in note and "bert.enc.0.b" in note for note in report.warnings)
