"""Options of an optimizer as torch takes them."""

from app.specs.optimizers import OptimizerSpec


def test_only_given_options_are_passed_on() -> None:
    """Pairs as tuples; name and groups are no options, and zero is one."""
    spec = OptimizerSpec.from_json({"name": "adafactor", "eps": [1e-30, 1e-3], "weight_decay": 0, "groups": []})
    assert spec.options() == {"eps": (1e-30, 1e-3), "weight_decay": 0}
    assert OptimizerSpec().options() == {}
