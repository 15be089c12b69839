"""The modules of a sentence-transformers result: exactly what the product writes, and anything else is rejected."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.evidence.format.statement import FileRef, Statement, Total
from app.evidence.verifier.check_modules import no_modules
from app.evidence.verifier.context import CheckContext, Holdings, Inputs
from tests.tamper.kit import NOW, World

Files = dict[str, Any]


def files() -> Files:
    """The files of a pooling and a dense layer as they are written."""
    listed = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (kind, path) in enumerate((("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense")))
    ]
    dense = {"in_features": 8, "out_features": 4, "bias": True}
    return {
        "modules.json": listed,
        "sentence_bert_config.json": {"max_seq_length": 16, "do_lower_case": False},
        "1_Pooling/config.json": {"word_embedding_dimension": 8, "pooling_mode_cls_token": True},
        "2_Dense/config.json": dense | {"activation_function": "torch.nn.modules.activation.Tanh"},
        "2_Dense/model.safetensors": None,
    }


def problems(tmp_path: Path, held: Files, *, kind: str = "full") -> list[str]:
    world = World(tmp_path)
    refs = tuple(FileRef(name, 1, "0" * 64) for name in ("model.safetensors", *held))
    none = Total(0, 0, "")
    predicate = replace(world.predicate(), result_files=refs, result_kind=kind)
    statement = Statement(predicate, (), "", "", {}, none, none, none)
    documents = {name: json.dumps(content).encode() for name, content in held.items() if content is not None}
    context = CheckContext(Inputs((), NOW), statement_read=statement)
    context.result = Holdings(tmp_path, documents=documents)
    return [str(problem) for problem in no_modules(context)]


def test_what_the_product_writes_is_accepted(tmp_path: Path) -> None:
    """Modules in their folders, each with its files."""
    assert problems(tmp_path, files()) == []


CHANGES: dict[str, tuple[Callable[[Files], Any], str]] = {
    "a class of other code": (
        lambda held: held["modules.json"][1].update(type="evil.Pooling"),
        "modules.json: sentence-transformers loads the modules that it names: module 1 is of type 'evil.Pooling'",
    ),
    "another spelling of a class": (
        lambda held: held["modules.json"][1].update(type="sentence_transformers.evil.Pooling"),
        "not as this product writes it",
    ),
    "an argument of a module": (
        lambda held: held["modules.json"][0].update(kwargs=["x"]),
        "not as this product writes it",
    ),
    "a module that is not listed": (
        lambda held: held.update({"3_Dense/config.json": {}}),
        "3_Dense/config.json: not a file of the modules that are listed",
    ),
    "weights that are not there": (
        lambda held: held.pop("2_Dense/model.safetensors"),
        "2_Dense/model.safetensors: missing, and modules.json names it",
    ),
    "a layer that reads other features": (
        lambda held: held["2_Dense/config.json"].update(module_input_name="token_embeddings"),
        "2_Dense/config.json: module_input_name",
    ),
    "an activation of other code": (
        lambda held: held["2_Dense/config.json"].update(activation_function="evil.Tanh"),
        "'evil.Tanh' is not one of torch.nn",
    ),
    "arguments of the transformer": (
        lambda held: held["sentence_bert_config.json"].update(model_args={"trust_remote_code": True}),
        "sentence_bert_config.json: model_args",
    ),
    "arguments of the transformer under an older name": (
        lambda held: held.update({"sentence_roberta_config.json": {"model_args": {"torch_dtype": "float16"}}}),
        "sentence_roberta_config.json: model_args",
    ),
    "folders without a list": (
        lambda held: held.pop("modules.json"),
        "1_Pooling/config.json: in a folder, and there is no modules.json",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_anything_else_is_rejected(change: str, tmp_path: Path) -> None:
    """By the file, with what sentence-transformers would make of it."""
    held = files()
    edit, says = CHANGES[change]
    edit(held)
    found = problems(tmp_path, held)
    assert found
    assert any(says in problem for problem in found), found


def test_an_adapter_has_no_modules(tmp_path: Path) -> None:
    """peft reads none."""
    (problem,) = problems(tmp_path, files(), kind="adapter")
    assert problem.startswith("modules.json: sentence-transformers loads")
