"""Attacks by a lying signer on the class that loaders make: it lacks what was proved, or finds other names in it."""

import json
from typing import Any

from tests.tamper.attacks import Options, attack
from tests.tamper.kit import World
from tests.tamper.loading import bert_world, configured, same_names_world

for number, (kind, before, after) in enumerate(
    (
        ("funnel", {"architectures": ["FunnelModel"]}, {"architectures": ["FunnelBaseModel"]}),
        ("deit", {"architectures": ["DeiTForImageClassificationWithTeacher"]}, {}),
        (
            "perceiver",
            {"architectures": ["PerceiverForImageClassificationConvProcessing"]},
            {"architectures": ["PerceiverModel", "PerceiverForImageClassificationFourier"]},
        ),
    )
):

    @attack(f"16-another-one-of-the-classes-{number}", only="same_class", levels=(3,), world=same_names_world)
    def _(world: World, kind: str = kind, before: Any = before, after: Any = after) -> Options:
        """An auto class chooses by `architectures`, and the other class has no place for what was proved."""
        known = {"model_type": kind}
        (world.base / "config.json").write_text(json.dumps(known | before))
        (world.result / "config.json").write_text(json.dumps(known | {"dtype": "float32"} | after))
        world.sign()


@attack("16-class-of-another-kind", only="own_class", world=bert_world)
def _(world: World) -> Options:
    """ELECTRA's encoder has BERT's tensors under another prefix: who goes by `architectures` loads none of them."""
    configured(
        world, '{"model_type": "bert", "dtype": "float32", "architectures": ["ElectraForSequenceClassification"]}'
    )


@attack("16-fewer-layers-of-a-kind-that-is-not-known", only="unknown_kind", levels=(3,), world=same_names_world)
def _(world: World) -> Options:
    """A later transformers has this kind of model, and makes one layer less than was proved."""
    (world.base / "config.json").write_text('{"model_type": "of-next-year", "text": {"blocks_in_stack": 2}}')
    inside = {"text": {"blocks_in_stack": 1}}
    (world.result / "config.json").write_text(json.dumps({"model_type": "of-next-year", "dtype": "float32"} | inside))
    world.sign()


@attack("16-more-layers-than-the-base", only="layers_loaded", levels=(3,), world=same_names_world)
def _(world: World) -> Options:
    """Some classes have a tensor in their last layer alone: in another one it is not loaded."""
    (world.base / "config.json").write_text('{"model_type": "gpt_neox_japanese", "num_hidden_layers": 4}')
    config = '{"model_type": "gpt_neox_japanese", "dtype": "float32", "num_hidden_layers": 5}'
    (world.result / "config.json").write_text(config)
    world.sign()


@attack("16-more-layers-of-a-part-without-a-name", only="layers_loaded", levels=(3,), world=same_names_world)
def _(world: World) -> Options:
    """A configuration inside that has no model_type of its own."""
    (world.base / "config.json").write_text('{"model_type": "evolla"}')
    inside = {"protein_encoder_config": {"num_hidden_layers": 2}}
    (world.result / "config.json").write_text(json.dumps({"model_type": "evolla", "dtype": "float32"} | inside))
    world.sign()
