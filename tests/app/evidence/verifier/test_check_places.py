"""Two tensors for one place are named, both of them; models of their own architecture have no such places."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.evidence.format.statement import Row
from app.evidence.verifier import check_places, loaders
from app.evidence.verifier.loaders import kind_of
from tests.tamper.kit import World, readings, tensor
from tests.tamper.loading import bert_world, configured, retied


def with_another(world: World, name: str) -> None:
    """A new tensor of this name beside the others."""
    rows = world.rows()
    world.result_weights["model.safetensors"][name] = tensor("F32", 8, 8, seed="other")
    world.write()
    other = readings(world.result)[name]
    world.sign(world.predicate(rows=(*rows, Row(name=name, role="new", initial=other, result=other, changed=True))))


def test_both_tensors_are_named(tmp_path: Path) -> None:
    world = World(tmp_path)
    with_another(world, "enc.0.w")
    (problem,) = world.verify(2).problems
    assert (problem.check, problem.subject) == ("one_place", "bert.enc.0.w")
    assert "remove 'enc.0.w'" in problem.reason


@pytest.mark.parametrize(("extra", "verdict"), [({}, "verified"), ({"hidden_size": 8}, "rejected")])
def test_an_own_architecture_has_its_own_names(extra: dict[str, int], verdict: str, tmp_path: Path) -> None:
    """Only where nothing in the configuration could make a model of transformers."""
    config = {"type": "torch", "architecture": "toy", "kwargs": {}} | extra
    world = World(tmp_path, result_files={"config.json": json.dumps(config).encode()})
    with_another(world, "enc.0.w")
    assert world.verify(2).verdict == verdict


def test_a_tensor_that_is_not_frozen_may_have_two_names(tmp_path: Path) -> None:
    """Nothing is claimed about it."""
    world = World(tmp_path)
    with_another(world, "bert.head.w")
    assert world.verify(2).verified


def test_names_that_lose_a_number_are_compared_one_by_one(tmp_path: Path) -> None:
    """What tells the two apart is a digit, and it goes with the prefix: the dot of `^bert.` is any character."""
    world = World(tmp_path)
    with_another(world, "bert1enc.0.w")
    (problem,) = world.verify(2).problems
    assert (problem.check, problem.subject) == ("one_place", "bert.enc.0.w")


@pytest.mark.parametrize(("layer", "verdict"), [("decoder.layers.0.w", "verified"), ("encoder.layers.0.w", "rejected")])
def test_a_decoder_alone_has_a_table_of_its_own(layer: str, verdict: str, tmp_path: Path) -> None:
    """Beside an encoder, loaders take both tables from `shared.weight`, which is not stored."""
    world = bert_world(tmp_path)
    retied(world, {"enc.0.w": layer, "enc.1.w": "decoder.embed_tokens.weight"})
    world.policy = {"freeze": ["decoder.embed_tokens.weight"]}
    configured(world, '{"model_type": "bigbird_pegasus", "tie_word_embeddings": true, "dtype": "float32"}')
    report = world.verify(1)
    assert report.verdict == verdict, report.problems
    assert {problem.check for problem in report.problems} <= {"ties"}


def test_a_tower_of_pictures_ties_nothing(tmp_path: Path) -> None:
    """Its configuration says nothing of ties, and the outer one says that there are none."""
    world = bert_world(tmp_path)
    retied(world, {"enc.0.w": "output.weight", "enc.1.w": "embeddings.word_embeddings.weight"})
    world.policy = {"freeze": ["output.weight"]}
    configured(world, '{"model_type": "git", "tie_word_embeddings": false, "dtype": "float32", "vision_config": {}}')
    assert world.verify(1).verified


def test_a_part_that_is_not_there_ties_nothing(tmp_path: Path) -> None:
    """The configuration says itself that there are no ties."""
    world = bert_world(tmp_path)
    retied(world, {"": "lm_head.weight", "enc.1.w": "model.embed_tokens.weight"})
    configured(world, '{"model_type": "qwen2", "tie_word_embeddings": false, "dtype": "float32"}')
    assert world.verify(1).verified


def test_a_prefix_that_is_there_twice_is_rejected(tmp_path: Path) -> None:
    """Older loaders find no tensor of that name, and draw the one of the model anew."""
    world = bert_world(tmp_path)
    retied(world, {"enc.1.w": "bert.enc.1.w"})
    tensors = world.result_weights["model.safetensors"]
    tensors["bert.bert.enc.1.w"] = tensors.pop("bert.enc.1.w")
    world.policy = {"freeze": ["bert.bert.enc.1.w"]}
    configured(world, '{"model_type": "bert", "tie_word_embeddings": false, "dtype": "float32"}')
    assert [(each.check, each.subject) for each in world.verify(1).problems] == [("one_place", "bert.bert.enc.1.w")]


ANY_KIND = kind_of({})
ALL_TABLES = list(ANY_KIND.tables_for([literal for *_, literals in loaders._rules() for literal in literals]))
COUNTING = [rule for table in ALL_TABLES for rule in table if rule.counts and rule.sources and rule.targets]


@st.composite
def renamed_names(draw: st.DrawFn) -> list[str]:
    """Names that a rule with numbers of its own renames, what they become, and the same with other numbers."""
    rule = draw(st.sampled_from(COUNTING))
    old = rule.sources[0].replace("\\.", ".").replace(r"(\d+)", "5").strip("^$")
    new = rule.targets[0].replace(r"\1", "5")
    stem, ending = draw(st.sampled_from(["", "model.", "layers.3."])), draw(st.sampled_from(["", "weight", ".weight"]))
    named = [f"{stem}{old}{ending}", f"{stem}{new}{ending}"]
    others = st.builds(
        lambda name, number: re.sub(r"\d+", str(number), name), st.sampled_from(named), st.integers(0, 12)
    )
    return sorted({*named, *draw(st.lists(others, max_size=8))})


@settings(max_examples=400)
@given(renamed_names())
def test_what_is_not_compared_has_no_two_tensors_in_one_place(names: list[str]) -> None:
    """Names are compared one by one only where those of a shape could come together: the short way misses nothing."""
    for renaming in check_places.renamings(ANY_KIND, names):
        quick = list(check_places.collisions(names, renaming, ANY_KIND, None))
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(check_places, "_may_collide", lambda *_: True)
            assert quick == list(check_places.collisions(names, renaming, ANY_KIND, None))
