"""The stages run in their order; one that finds a problem is the last, and one without input is left out."""

from collections.abc import Callable, Iterator

import pytest

from app.evidence.verifier.context import Check, CheckContext, Inputs, Problem, Rejected
from app.evidence.verifier.stages import STAGES, examine
from tests.tamper.kit import NOW, World


def recording(seen: list[str], *, failing: str | None = None) -> dict[str, dict[str, Check]]:
    def check(stage: str) -> Callable[[CheckContext], Iterator[Problem]]:
        def run(context: CheckContext) -> Iterator[Problem]:
            seen.append(stage)
            return iter([Problem("x", "wrong")] if stage == failing else [])

        return run

    return {stage: {"one": check(stage), "other": check(stage)} for stage in STAGES}


def context_of(world: World) -> CheckContext:
    return CheckContext(Inputs(world.trusted, NOW))


def test_a_stage_that_finds_a_problem_runs_to_its_end_and_is_the_last(world: World) -> None:
    """So that a report names all that is wrong with the statement, and no file is read for a wrong one."""
    seen: list[str] = []
    with pytest.raises(Rejected) as rejection:
        examine(context_of(world), world.attestation.read_bytes(), recording(seen, failing="statement"))
    assert seen == ["envelope", "envelope", "statement", "statement"]
    assert len(rejection.value.problems) == 2


def test_stages_about_files_that_are_not_given_are_left_out(world: World) -> None:
    seen: list[str] = []
    examine(context_of(world), world.attestation.read_bytes(), recording(seen))
    assert {"base", "result"}.isdisjoint(seen)
    assert "predicate" in seen


def test_what_cannot_be_read_is_a_rejection(world: World) -> None:
    with pytest.raises(Rejected, match="JSON"):
        examine(context_of(world), b"{", recording([]))
