"""Which names selectors match, and what is said when none does."""

import pytest

from app.freeze.plan import TensorInfo
from tests.app.freeze.plans import freeze, frozen_names, names, refused


@pytest.mark.parametrize(
    ("select", "parts"),
    [
        ({"name": "bert.encoder.layer.1.**"}, (".layer.1.",)),
        (
            {"name": ["classifier.weight", "bert.embeddings.*.weight"]},
            ("classifier.w", "dings.weight", "s.LayerNorm.w"),
        ),
        ({"name": "**.query.*"}, (".query.",)),
        ({"regex": r"bert\.encoder\.layer\.(1|3)\..*"}, (".layer.1.", ".layer.3.")),
        ({"module": "bert.encoder.layer.1"}, (".layer.1.",)),
        ({"module": "bert.encoder.layer.*.output"}, ("0.output", "1.output", *(f"{n}.output" for n in range(2, 10)))),
        ({"module_type": "LayerNorm"}, ("LayerNorm",)),
        ({"module_type": "Bert*Attention"}, (".self.", ".self.")),
        ({"module_type": "BertSelfAttention"}, (".self.",)),
        ({"layers": {"path": "bert.encoder.layer", "first": 2}}, (".layer.0.", ".layer.1.")),
        ({"layers": {"path": "bert.encoder.layer", "last": 2}}, (".layer.10.", ".layer.11.")),
        ({"layers": {"path": "bert.encoder.layer", "from": 1, "to": 3}}, (".layer.1.", ".layer.2.")),
        ({"layers": {"path": "bert.encoder.layer", "from": 10}}, (".layer.10.", ".layer.11.")),
        ({"layers": {"path": "bert.encoder.layer", "to": 1}}, (".layer.0.",)),
        ({"kind": "buffer"}, ("position_ids",)),
    ],
)
def test_each_selector_alone(bert, select, parts):
    """Every selector matches whole names, paths, types or numbers: layer 1 never catches layer 10."""
    assert frozen_names(freeze(select), bert) == names(bert, *parts)


def test_selectors_together_must_all_match(bert):
    """Two selectors in one rule are an intersection; several patterns in one selector are a union."""
    select = {"module_type": "LayerNorm", "layers": {"path": "bert.encoder.layer", "first": 1}, "name": "**.bias"}
    assert frozen_names(freeze(select), bert) == {
        "bert.encoder.layer.0.attention.output.LayerNorm.bias",
        "bert.encoder.layer.0.output.LayerNorm.bias",
    }


def test_a_dotted_module_type_is_compared_whole():
    """A plain class name finds the class in any package, a dotted one only its own."""
    tensors = [
        TensorInfo("a.w", (2,), "F32", module_types=("M", "torch.nn.modules.normalization.LayerNorm")),
        TensorInfo("b.w", (2,), "F32", module_types=("M", "mine.LayerNorm")),
        TensorInfo("c.w", (2,), "F32", module_types=("M", "Linear")),
    ]
    assert frozen_names(freeze({"module_type": "LayerNorm"}), tensors) == {"a.w", "b.w"}
    assert frozen_names(freeze({"module_type": "mine.LayerNorm"}), tensors) == {"b.w"}


def test_neighbours_in_the_alphabet_are_not_inside():
    """Names are found by a slice of a sorted list: what sorts just before or after a module is not in it."""
    inside = ["a.b", "a.z.w"]
    outside = ["a", "a-b", "a-b.w", "a/b", "a/b.w", "a0", "aa.w"]
    tensors = [TensorInfo(name, (1,), "F32") for name in inside + outside]
    assert frozen_names(freeze({"module": "a"}), tensors) == set(inside)
    assert frozen_names(freeze({"name": "a.**"}), tensors) == {"a", *inside}


def test_numbered_children_may_be_tensors_themselves():
    """A list of parameters has numbers for names; what only begins with the number is another child."""
    tensors = [TensorInfo(f"p.{child}", (1,), "F32") for child in ("1", "1-x", "1.w", "01x", "2", "10", "x")]
    assert frozen_names(freeze({"layers": {"path": "p", "first": 2}}), tensors) == {"p.1", "p.1.w", "p.2"}


def test_layers_counts_the_children_that_are_there(gpt):
    """`first` and `last` go by the numbers that the model has, in numeric order, with gaps."""
    select = {"layers": {"path": "transformer.h", "last": 2}}
    assert frozen_names(freeze(select), gpt) == {"transformer.h.1.mlp.weight", "transformer.h.10.mlp.weight"}


def test_a_module_type_speaks_for_every_name_of_a_tie(gpt):
    """The class around the other name is not in the manifest; the tensor is one all the same."""
    assert frozen_names(freeze({"module_type": "Embedding"}), gpt) == {"transformer.wte.weight"}


def test_a_kind_that_the_model_has_not(gpt):
    """A rule about buffers in a model without any matches nothing."""
    assert "the model has no buffer" in refused(freeze({"kind": "buffer"}), gpt).message


@pytest.mark.parametrize(
    ("policy", "param", "says"),
    [
        ({"freeze": ["bert.encodr.**"]}, "freeze_policy.freeze", "'bert.encoder.**'"),
        ({"freeze": ["encoder.layer.**"]}, "freeze_policy.freeze", "'bert.encoder.layer.**'"),
        ({"freeze": ["bert.**", "clasifier.**"]}, "freeze_policy.freeze[1]", "'classifier.**'"),
        ({"freeze": ["clasifier.weight"]}, "freeze_policy.freeze", "'classifier.weight'"),
        ({"freeze": ["bert"]}, "freeze_policy.freeze", "write 'bert.**'"),
        ({"freeze": ["bert.encoder.layer.[0-9].*"]}, "freeze_policy.freeze", "only '*' and '**' are wildcards"),
        (freeze({"regex": "encoder"}), "freeze_policy.rules[0].select.regex", "whole name"),
        (freeze({"module": "bert.encodr"}), "freeze_policy.rules[0].select.module", "'bert.encoder'"),
        (freeze({"module_type": "Layernorm"}), "freeze_policy.rules[0].select.module_type", "'LayerNorm'"),
        (
            freeze({"layers": {"path": "encoder.layer", "first": 1}}),
            "freeze_policy.rules[0].select.layers.path",
            "is no module; nearest: 'bert.encoder.layer'",
        ),
        (
            freeze({"layers": {"path": "bert.encoder", "first": 1}}),
            "freeze_policy.rules[0].select.layers.path",
            "has no numbered layers; nearest: 'bert.encoder.layer'",
        ),
        (
            freeze({"layers": {"path": "bert.encoder.layer", "first": 13}}),
            "freeze_policy.rules[0].select.layers.first",
            "has 12 layers, 0 to 11",
        ),
        (
            freeze({"layers": {"path": "bert.encoder.layer", "from": 6, "to": 13}}),
            "freeze_policy.rules[0].select.layers.to",
            "has 12 layers, 0 to 11",
        ),
        (
            freeze({"name": "classifier.*", "module_type": "LayerNorm"}),
            "freeze_policy.rules[0].select",
            "all of its selectors together",
        ),
        (
            freeze({"name": "classifier.*"}, expect={"tensors": 3}),
            "freeze_policy.rules[0].expect.tensors",
            "expects 3 tensors and decides 2",
        ),
        (
            freeze({"name": "classifier.*"}, expect={"tensors": 2, "elements": 35}),
            "freeze_policy.rules[0].expect.elements",
            "expects 35 elements and decides 36",
        ),
        ({"freeze": ["**"]}, "freeze_policy", "nothing is left to train"),
        ({"default": "freeze"}, "freeze_policy", "nothing is left to train"),
    ],
)
def test_a_rule_that_does_not_mean_what_it_says(bert, policy, param, says):
    """No match, a missed expectation, nothing left: the rule, the reason, and the nearest real names."""
    error = refused(policy, bert)
    assert error.param == param
    assert says in error.message
