"""A configuration that redirects a loader is refused by its key; what is only notable is a note."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tamper.kit import World, adapter_rows, adapter_world
from tests.tamper.loading import same_names_world


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"configuration_files": ["config.4.0.0.json"]}, "configuration_files: transformers reads the configuration"),
        (
            {"vision_config": {"attribute_map": {"num_labels": "x"}}},
            "vision_config.attribute_map: transformers reads other",
        ),
        ({"_attn_implementation": "elsewhere/kernel"}, "_attn_implementation: transformers downloads the code"),
    ],
)
def test_a_refusal_names_the_key(config: dict[str, Any], says: str, tmp_path: Path) -> None:
    world = World(tmp_path, result_files={"config.json": json.dumps({"model_type": "toy"} | config).encode()})
    world.sign()
    (problem,) = world.verify(2).problems
    assert (problem.check, problem.subject) == ("config_keys", "config.json")
    assert says in problem.reason


@pytest.mark.parametrize(
    "config",
    [
        {"_attn_implementation": "flash_attention_2", "quantization_config": None},
        {"model_type": "bert", "dtype": "float32", "num_hidden_layers": 2},
        {"model_type": "bert", "dtype": "float32"},  # twelve layers by default
        {"model_type": "bert", "dtype": "float32", "tie_word_embeddings": True},
    ],
)
def test_a_configuration_that_changes_nothing_is_accepted(config: dict[str, Any], tmp_path: Path) -> None:
    world = World(tmp_path, result_files={"config.json": json.dumps(config).encode()})
    world.sign()
    assert world.verify(2).problems == ()


def test_the_base_of_an_adapter_by_name_is_a_note(tmp_path: Path) -> None:
    """peft finds it where the reader is; only a base at hand was compared."""
    world = adapter_world(tmp_path)
    config = {"peft_type": "LORA", "r": 2, "loftq_config": {}, "base_model_name_or_path": "elsewhere/base"}
    world.result_files["adapter_config.json"] = json.dumps(config).encode()
    world.write()
    world.sign(world.predicate(rows=adapter_rows(world), result_kind="adapter"))
    report = world.verify(2)
    assert report.verified
    assert any("'elsewhere/base' was not looked at" in note for note in report.warnings)


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


def test_all_that_is_frozen_may_be_of_the_rarer_dtype(tmp_path: Path) -> None:
    """Float32 norms of a bfloat16 model, for example: the base's own configuration says what most of it is."""
    policy = {"rules": [{"id": "bias", "action": "freeze", "select": {"name": "bert.enc.0.b"}}]}
    files = {"config.json": b'{"model_type": "bert", "dtype": "float32"}'}
    world = World(tmp_path, policy=policy, result_files=files)
    world.sign()
    report = world.verify(3)
    assert report.verified, report.problems
    assert any("frozen in another dtype" in note and "bert.enc.0.b" in note for note in report.warnings)
    (world.result / "config.json").write_text('{"model_type": "bert", "dtype": "float16"}')
    world.sign()
    assert {problem.check for problem in world.verify(3).problems} == {"config_dtype"}


def test_layers_are_counted_by_their_types(tmp_path: Path) -> None:
    """Nemotron-H has no number of layers in its configuration, but a type for each of them."""
    config = b'{"model_type": "nemotron_h", "layers_block_type": ["mamba", "moe"], "n_groups": 1}'
    world = World(tmp_path, result_files={"config.json": config})
    world.sign()
    assert "layers_loaded" not in {problem.check for problem in world.verify(2).problems}
    world = World(tmp_path, result_files={"config.json": config.replace(b', "moe"', b"")})
    world.sign()
    assert "layers_loaded" in {problem.check for problem in world.verify(2).problems}


def test_a_kind_that_is_inside_itself_is_counted_once(tmp_path: Path) -> None:
    """By its defaults the configuration of Qwen3.5's language model has one of its own kind in it."""
    config = b'{"model_type": "qwen3_5_text", "num_hidden_layers": 2}'
    world = World(tmp_path, result_files={"config.json": config})
    world.sign()
    assert "layers_loaded" not in {problem.check for problem in world.verify(2).problems}


@pytest.mark.parametrize("config", [{"model_type": "mobilenet_v2"}, {"model_type": "swiftformer", "depths": [1, 1]}])
def test_numbers_that_count_no_layers_refuse_nothing(config: dict[str, Any], tmp_path: Path) -> None:
    """MobileNet's number of layers is in its code, and Swiftformer counts what is between its stages as well."""
    world = World(tmp_path, result_files={"config.json": json.dumps(config | {"min_depth": 1}).encode()})
    world.sign()
    assert "layers_loaded" not in {problem.check for problem in world.verify(2).problems}


SUBSAMPLE = ["Subsample", 16, 8, 4, 2, 2]
BY_DEFAULT = [SUBSAMPLE, ["Subsample", 16, 16, 4, 2, 2]]
NEXT = ["linear_attention", "full_attention"] * 2


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("levit", {}, {"down_ops": [*BY_DEFAULT, [""]]}),
        ("levit", {"down_ops": [SUBSAMPLE]}, {"down_ops": [SUBSAMPLE, [""]]}),
        ("levit", {"down_ops": [SUBSAMPLE, [""]]}, {"down_ops": [SUBSAMPLE, [""], [""]]}),
        ("longformer", {"attention_window": 512}, {"attention_window": [512, 512]}),
        ("t5", {"feed_forward_proj": "gated-gelu"}, {"feed_forward_proj": "gated-gelu", "is_gated_act": True}),
        ("falcon", {"new_decoder_architecture": True}, {"num_ln_in_parallel_attn": 2}),
        ("qwen3_next", {"num_hidden_layers": 4, "full_attention_interval": 2}, {"layer_types": NEXT}),
        ("gemma4_text", {"num_hidden_layers": 2}, {"per_layer_config": {"01": {"head_dim": 512}}}),
        ("convnext", {}, {"out_features": ["stage4"], "out_indices": [4]}),
        ("llava", {}, {"text_config": {"model_type": "llama", "attention_bias": False}}),
        ("mistral3", {"text_config": {"vocab_size": 9}}, {"text_config": {"model_type": "mistral", "head_dim": 128}}),
        ("qwen2_5_vl", {"text_config": {"model_type": "qwen2_5_vl"}}, {"text_config": {}}),
    ],
)
def test_what_the_class_writes_by_itself_is_no_difference(
    kind: str, before: dict[str, Any], after: dict[str, Any], tmp_path: Path
) -> None:
    """Making a model of its configuration changes it: LeViT adds to a list, Longformer writes out a number."""
    assert configured(kind, before, before | after, tmp_path) == set()
    if kind == "levit" and before:
        assert configured(kind, before, {key: [SUBSAMPLE[:1], [""]] for key in after}, tmp_path) == {"same_tensors"}


def configured(kind: str, before: dict[str, Any], after: dict[str, Any], root: Path) -> set[str]:
    """What is wrong with a result that has another configuration than its base."""
    world = same_names_world(root)
    (world.base / "config.json").write_text(json.dumps({"model_type": kind} | before))
    (world.result / "config.json").write_text(json.dumps({"model_type": kind, "dtype": "float32"} | after))
    world.sign()
    return {problem.check for problem in world.verify(3).problems}
