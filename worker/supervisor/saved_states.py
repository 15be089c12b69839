"""Digests of the checkpoints that a job's attempts have read, kept beside the checkpoints for the attempts that follow.

The recipe lists the checkpoints of the whole run. A trainer cannot write to this file: it lies beside its folder.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from app.evidence.format.fields import StatementError, as_object
from app.evidence.format.recipe import SavedState, state_json
from app.evidence.format.recipe_reading import read_state
from app.evidence.format.strict import JsonError, read_json
from worker.protocol import Workspace


def load(workspace: Workspace) -> dict[int, SavedState]:
    """By step, up to the newest checkpoint that is there: an attempt that goes on from it repeats what is later.

    Nothing where the file cannot be read: the recipe lists fewer checkpoints then.
    """
    newest = max((int(path.name[5:]) for path in workspace.checkpoints.glob("step-*") if _counts(path)), default=0)
    try:
        found = read_json(_file(workspace).read_bytes())
        listed = found if isinstance(found, list) else []
        states = [read_state(as_object(one, "states"), "states") for one in listed]
    except (OSError, JsonError, StatementError):
        return {}
    return {state.step: state for state in states if state.step <= newest}


def store(workspace: Workspace, states: Iterable[SavedState]) -> None:
    """Write them down, in the place of what was there, whole or not at all."""
    path = _file(workspace)
    written = path.with_suffix(".new")
    written.write_text(json.dumps([state_json(state) for state in states]))
    written.replace(path)


def _file(workspace: Workspace) -> Path:
    return workspace.root.parent / "states.json"


def _counts(path: Path) -> bool:
    return path.name[5:].isdecimal() and path.name.isascii()
