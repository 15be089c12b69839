"""Digests of checkpoints from one attempt to the next."""

from pathlib import Path

import pytest

from app.evidence.format.recipe import SavedState
from app.evidence.format.statement import FileRef
from worker.protocol import Workspace
from worker.supervisor.saved_states import load, store

STATES = [SavedState(step=step, root="44" * 32, files=(FileRef("state.json", 9, "55" * 32),)) for step in (2, 4, 6)]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """With checkpoints of steps 2 and 4, and one that was being written."""
    place = Workspace(tmp_path / "a2").create()
    for name in ("step-00000002", "step-00000004", "step-00000006.part"):
        (place.checkpoints / name).mkdir()
    return place


def test_what_the_next_attempt_repeats_is_left_out(workspace: Workspace) -> None:
    """It goes on from the newest checkpoint that is there."""
    assert load(workspace) == {}
    store(workspace, STATES)
    assert load(workspace) == {state.step: state for state in STATES[:2]}
    for path in workspace.checkpoints.iterdir():
        path.rmdir()
    assert load(workspace) == {}


@pytest.mark.parametrize("content", ["", "[", "{}", "[1]", '[{"step": -1}]'], ids=["empty", "cut", "object", "1", "-1"])
def test_a_file_that_cannot_be_read_is_nothing(workspace: Workspace, content: str) -> None:
    """The job goes on, and its recipe lists fewer checkpoints."""
    store(workspace, STATES)
    (workspace.root.parent / "states.json").write_text(content)
    assert load(workspace) == {}
