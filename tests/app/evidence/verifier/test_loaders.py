"""Where transformers puts stored tensors: prefixes, old names, conversions, by kind of model."""

import pytest

from app.evidence.verifier.loaders import is_known, kind_of, kinds_of, legacy


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("bert.encoder.w", "encoder.w"),
        ("bert.bert.encoder.w", "encoder.w"),
        ("bert_encoder.w", "encoder.w"),  # the dot of `^bert.` is any character
        ("encoder.bert.w", "encoder.bert.w"),
        ("bert", "bert"),
        ("model.encoder.w", "model.encoder.w"),
    ],
)
def test_prefixes_of_the_kind_are_taken_off(name: str, stem: str) -> None:
    assert kind_of({"model_type": "bert"}).stem(name) == stem


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a.LayerNorm.gamma", "a.LayerNorm.weight"),
        ("a.LayerNorm.beta", "a.LayerNorm.bias"),
        ("a.norm.gamma", "a.norm.weight"),
        ("conv.weight_g", "conv.parametrizations.weight.original0"),
        ("conv.weight_v", "conv.parametrizations.weight.original1"),
        ("a.gamma_1", "a.gamma_1"),
        ("a.weight", "a.weight"),
    ],
)
def test_old_names_become_new_ones(old: str, new: str) -> None:
    assert legacy(old) == new


def test_a_kind_has_its_own_conversions_and_an_unknown_one_those_of_all() -> None:
    names = ["model.layers.0.block_sparse_moe.experts.0.w1.weight"]
    tables = [table for table in kind_of({"model_type": "mixtral"}).tables_for(names) if table]
    joins = [rule.renamed(names[0]) for table in tables for rule in table if rule.joins]
    assert ("model.layers.0.block_sparse_moe.experts.gate_up_proj",) in joins
    assert len([table for table in kind_of({"model_type": "unheard of"}).tables_for(names) if table]) > len(tables)
    assert [table for table in kind_of({"model_type": "bert"}).tables_for(names) if table] == []


def test_models_inside_a_model_count_as_well() -> None:
    config = {"model_type": "llava", "text_config": {"model_type": "llama"}, "vision_config": {"model_type": "clip"}}
    assert kinds_of(config)[:3] == ["llava", "llama", "clip"]
    assert kinds_of({"model_type": "llava"}) == ["llava", "llama", "clip_vision_model"]  # by default
    assert is_known(config)
    assert not is_known({"text_config": {"model_type": "llama"}})
    assert not is_known([])
