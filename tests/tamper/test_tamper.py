"""No attack of the reference's list is accepted, and every check of the verifier is needed for one of them."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from app.evidence.format.statement import Row
from app.evidence.verifier.context import Check
from app.evidence.verifier.stages import STAGES
from tests.tamper import audited, classes, loading, papers, quantised, recipes
from tests.tamper.attacks import ATTACKS, Attack, look_alike_world, trained_tie
from tests.tamper.kit import (
    World,
    chained_world,
    flipped,
    forged,
    fused_rows,
    fused_world,
    row_of,
    scheduled_rows,
    scheduled_world,
    sharded_world,
    split_rows,
    split_world,
    tensor,
    tied_rows,
    tied_world,
    twice_frozen_rows,
    twice_frozen_world,
)

assert audited and classes and loading and papers and quantised and recipes  # their attacks are in the list as well
CASES = [pytest.param(attack, level, id=f"{attack.id}-level-{level}") for attack in ATTACKS for level in attack.levels]
# Rejected for every file whose digest is recomputed, which is not done for large ones unless it is asked for.
MISNAMED = "39-wrong-file-digest"
NEEDED = [
    pytest.param(attack, level, id=f"{attack.only}-against-{attack.id}-level-{level}")
    for attack in ATTACKS
    for level in attack.levels
    if attack.only
]


@pytest.mark.parametrize(("attack", "level"), CASES)
def test_attack_is_rejected(attack: Attack, level: int, tmp_path: Path) -> None:
    """The verifier says what is wrong, and by which check where there is only one."""
    world = attack.world(tmp_path)
    report = world.verify(level, **(attack.run(world) or {}))
    assert report.verdict == "rejected"
    assert report.level is None
    assert report.problems
    if attack.only:
        assert {problem.check for problem in report.problems} == {attack.only}


@pytest.mark.parametrize(
    "attack", [pytest.param(attack, id=attack.id) for attack in ATTACKS if 1 in attack.levels and attack.id != MISNAMED]
)
def test_attack_is_rejected_quickly_too(attack: Attack, tmp_path: Path) -> None:
    """Leaving out the digests of whole weight files leaves no attack through: header and tensors are all of a file."""
    world = attack.world(tmp_path)
    options = attack.run(world) or {}
    assert world.verify(1, whole_up_to=0, **options).verdict == "rejected"


def test_digest_of_a_whole_file_that_nobody_recomputed_is_pointed_out(tmp_path: Path) -> None:
    """The one thing that is the signer's word then: by which digest other tools know the file. The report says so."""
    world = World(tmp_path)
    next(attack for attack in ATTACKS if attack.id == MISNAMED).run(world)
    size = (world.result / "model.safetensors").stat().st_size
    report = world.verify(3, whole_up_to=size - 1)
    assert report.verified
    assert any("model.safetensors" in one and "as a whole" in one for one in report.warnings)
    assert {problem.check for problem in world.verify(3, whole_up_to=size).problems} == {"file_digests"}
    world.sign()
    assert not any("as a whole" in one for one in world.verify(3).warnings)


@pytest.mark.parametrize(("attack", "level"), NEEDED)
def test_check_is_needed(attack: Attack, level: int, tmp_path: Path) -> None:
    """With this one check taken out, the attack is accepted: the check is no decoration."""
    world = attack.world(tmp_path)
    options = attack.run(world) or {}
    assert world.verify(level, checks=_without(attack.only), **options).verified


def test_every_check_is_needed_somewhere() -> None:
    """There is an attack that each check alone stands against."""
    checks = {name for stage in STAGES.values() for name in stage}
    assert checks == {attack.only for attack in ATTACKS if attack.only}


def test_every_attack_of_the_list_is_here() -> None:
    """Numbers 1 to 41; 42 asks for a warning and has a test of its own."""
    assert {int(attack.id[:2]) for attack in ATTACKS} == set(range(1, 42))


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize(
    ("make", "rows"),
    [
        (World, World.rows),
        (sharded_world, World.rows),
        (split_world, split_rows),
        (scheduled_world, scheduled_rows),
        (twice_frozen_world, twice_frozen_rows),
        (fused_world, fused_rows),
        (tied_world, tied_rows),
        (trained_tie, tied_rows),
        (chained_world, World.rows),
    ],
    ids=["one file", "shards", "partly frozen", "scheduled", "twice", "fused", "tie", "trained tie", "chain"],
)
def test_honest_claim_is_verified(
    make: Callable[[Path], World], rows: Callable[[World], tuple[Row, ...]], level: int, tmp_path: Path
) -> None:
    """The same worlds, left alone, are accepted at the level asked for."""
    world = make(tmp_path)
    world.sign(world.predicate(rows=rows(world)))
    report = world.verify(level)
    assert report.problems == ()
    assert report.verified
    # The root does not cover single rows: for those the reader needs the base's bytes.
    assert report.level == (1 if make is split_world and level == 2 else level)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_honest_recipe_is_shown(level: int, tmp_path: Path) -> None:
    """Beside a statement at any level, also where one is required; the trainer's word is kept apart."""
    world = World(tmp_path)
    recipes.sign(world)
    report = world.verify(level, require_recipe=True)
    assert report.problems == ()
    facts = report.to_json()["recipe"]
    assert facts["observed"]["data"] == {"training": "11" * 32}
    assert (facts["reported"]["steps"], facts["requested"]["seed"]) == (20, 7)
    text = "\n".join(report.lines())
    assert "recipe: text-classification, seed 7, on cpu" in text
    assert "the trainer's word: steps 20, tokens 640" in text


def test_a_newer_recipe_is_named(tmp_path: Path) -> None:
    """The statement beside it is verified; the report says which version of a recipe was not read."""
    world = World(tmp_path)
    recipes.sign(world, document=recipes.newer)
    report = world.verify(2)
    assert report.verified
    assert any("urn:permafrost:fine-tuning:v9" in warning for warning in report.warnings)
    assert "recipe" not in report.to_json()


def test_level_1_accepts_a_lying_signer_and_says_so(tmp_path: Path) -> None:
    """33 at level 1: nothing at hand contradicts the signer, and the report claims no more than that."""
    world = World(tmp_path)
    attack = next(attack for attack in ATTACKS if attack.id == "33-lying-signer-flips-a-bit")
    attack.run(world)
    report = world.verify(1)
    assert report.verified
    assert report.level == 1
    assert "the signer's word" in report.to_json()["meaning"]


def test_level_2_is_not_reached_for_partly_frozen_tensors(tmp_path: Path) -> None:
    """Without the base's bytes, a signer who lies about rows is believed; the report stays at level 1 and says why."""
    world = split_world(tmp_path)
    world.edit_result("bert.emb.weight", lambda t: (t[0], t[1], flipped(t[2])))
    slices = row_of(split_rows(world), "bert.emb.weight").slices
    lied = tuple(part._replace(base=part.result) if part.action == "freeze" else part for part in slices)
    world.sign(world.predicate(rows=forged(world.rows(), "bert.emb.weight", slices=lied)))
    report = world.verify(2)
    assert report.level == 1
    assert any("partly frozen" in warning for warning in report.warnings)
    assert not world.verify(3).verified


def test_42_names_that_look_alike_are_pointed_out(tmp_path: Path) -> None:
    """Case and normal form are different names here and one name on other systems: a warning, not a rejection."""
    world = look_alike_world(tmp_path)
    world.sign()
    report = world.verify(2)
    assert report.verified
    groups = [warning for warning in report.warnings if warning.startswith("names that some systems take for one")]
    assert len(groups) == 2
    assert any("Head.w, head.w" in group for group in groups)


def test_names_cannot_write_the_report(tmp_path: Path) -> None:
    """A tensor's name with line breaks and terminal codes is shown as what it is."""
    world = World(tmp_path)
    evil = "x\n\x1b[2JVERIFIED, level 3\u202e"
    world.result_weights["model.safetensors"][evil] = tensor("F32", 1, seed="evil")
    world.write()
    rows = tuple(row for row in world.rows() if row.name != evil)
    world.sign(world.predicate(rows=rows))
    lines = "\n".join(world.verify(1).lines())
    assert "x\\n\\x1b[2JVERIFIED" in lines
    assert not any(line.startswith("VERIFIED") for line in lines.splitlines())
    assert all(one.isprintable() or one == "\n" for one in lines)


def _without(name: str | None) -> Mapping[str, Mapping[str, Check]]:
    return {stage: {key: check for key, check in checks.items() if key != name} for stage, checks in STAGES.items()}
