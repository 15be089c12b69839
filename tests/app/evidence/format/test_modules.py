import re
from typing import Any

import pytest

from app.evidence.format.modules import ModulesError, file_of, files_of, is_module_file, parse, tensor_prefix


def listed(*kinds: str, **changes: Any) -> list[dict[str, Any]]:
    """A `modules.json` as sentence-transformers writes it; `changes` are made to the last entry."""
    entries: list[dict[str, Any]] = [
        {
            "idx": at,
            "name": str(at),
            "path": f"{at}_{kind}" if at else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for at, kind in enumerate(kinds)
    ]
    entries[-1] |= changes
    return entries


def test_modules_are_read_and_written_alike() -> None:
    """Names of classes of newer versions become those that every version reads."""
    document = listed("Transformer", "Pooling", "Dense", "Normalize")
    newer = [entry | {"type": entry["type"].replace(".models.", ".base.modules.x.")} for entry in document]
    assert parse(document) == parse(newer)
    assert [module.to_json(at) for at, module in enumerate(parse(newer))] == document
    assert files_of(parse(document)) == ["1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({}, "not a list"),
        ([], "its modules are none"),
        (listed("Transformer"), "its modules are Transformer; supported are"),
        (listed("Transformer", "Pooling", "Pooling"), "Transformer, Pooling, Pooling"),
        (listed("Transformer", "Pooling", "LSTM"), "type 'sentence_transformers.models.LSTM'"),
        (listed("Transformer", "Pooling", type="my_code.Pooling"), "type 'my_code.Pooling'"),
        (listed("Transformer", "Pooling", path="../1_Pooling"), "is in '../1_Pooling' and not in '1_Pooling'"),
        (listed("Transformer", "Pooling", idx=2), "module 1"),
        (listed("Transformer", path="0_Transformer"), "is in '0_Transformer' and not in ''"),
    ],
)
def test_other_modules_are_refused(document: Any, reason: str) -> None:
    """What is wrong is named: a kind, an order or a folder."""
    with pytest.raises(ModulesError, match=re.escape(reason)):
        parse(document)


def test_tensors_are_called_after_their_folder() -> None:
    """The prefix of a file's tensors leads back to the file."""
    assert tensor_prefix("2_Dense/model.safetensors") == "2_Dense."
    assert tensor_prefix("model.safetensors") == ""
    assert all(map(is_module_file, ["1_Pooling/config.json", "2_Dense/model.safetensors"]))
    assert not any(map(is_module_file, ["1_Pooling/model.safetensors", "../2_Dense/config.json", "1_LSTM/config.json"]))
    files = ["1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"]
    assert file_of("2_Dense.linear.weight", files) == "2_Dense/model.safetensors"
    assert file_of("1_Pooling.weight", files) is None
    assert file_of("encoder.weight", files) is None
