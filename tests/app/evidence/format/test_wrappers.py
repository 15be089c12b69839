from app.evidence.format.wrappers import unwrapped, wrappers_in


def test_wrappers_are_found_at_the_start_and_inside() -> None:
    """Whole segments only: a module of the model's own that ends alike keeps its name."""
    assert unwrapped("_orig_mod.bert.pooler.weight") == "bert.pooler.weight"
    assert unwrapped("bert._orig_mod.pooler.weight") == "bert.pooler.weight"
    assert unwrapped("module._fsdp_wrapped_module.layers.0._checkpoint_wrapped_module.w") == "layers.0.w"
    assert unwrapped("base_model.model.model.layers.0.w") == "model.layers.0.w"
    assert unwrapped("submodule.weight") == "submodule.weight"


def test_names_are_counted_by_wrapper() -> None:
    """A name counts once for each of its wrappers."""
    names = ["module.a._orig_mod.w", "module.b", "c"]
    assert wrappers_in(names) == {"module.": 2, "_orig_mod.": 1}
