"""Paths of an attempt's folder, and JSON in it."""

import json
from pathlib import Path

import pytest

from worker.protocol.workspace import Workspace, write_json


def test_create_makes_every_folder_that_a_trainer_writes_to(tmp_path: Path) -> None:
    """Twice is as good as once."""
    workspace = Workspace(tmp_path / "a1").create().create()
    folders = [workspace.base, workspace.data, workspace.checkpoints, workspace.out]
    assert all(folder.is_dir() for folder in [*folders, workspace.files, workspace.form_files])


def test_json_has_null_for_what_is_not_finite(tmp_path: Path) -> None:
    """At any depth, and nothing but the file is left."""
    write_json(tmp_path / "x.json", {"a": [float("nan"), {"b": float("inf")}], 3: (1.5,)})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [None, {"b": None}], "3": [1.5]}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    """What was there before is there still."""
    write_json(tmp_path / "x.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", object())
    assert json.loads((tmp_path / "x.json").read_text()) == 1
