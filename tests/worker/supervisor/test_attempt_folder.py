"""The folder of one attempt: made anew, filled with links, and removed."""

from pathlib import Path

import pytest

from app.storage.blobs import Storage
from worker.protocol import Workspace
from worker.supervisor import attempt_folder


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = attempt_folder.locate(tmp_path / "work", "ftjob-1", 2)
    attempt_folder.create(workspace)
    return workspace


def stored(tmp_path: Path, content: bytes) -> tuple[Storage, str]:
    storage = Storage(f"file://{tmp_path / 'blobs'}")
    with storage.writer() as writer:
        writer.write(content)
    return storage, writer.blob.key


def test_attempts_share_their_checkpoints(tmp_path: Path, workspace: Workspace) -> None:
    """What the second attempt saved, the third one finds; whatever else was under its name is gone."""
    (workspace.checkpoints / "step-1").mkdir()
    later = attempt_folder.locate(tmp_path / "work", "ftjob-1", 3)
    later.root.mkdir()
    (later.root / "stray").touch()
    attempt_folder.create(later)
    assert [path.name for path in later.checkpoints.iterdir()] == ["step-1"]
    assert not (later.root / "stray").exists()


@pytest.mark.parametrize("ended", [True, False])
def test_discard_keeps_checkpoints_of_a_job_that_goes_on(workspace: Workspace, ended: bool) -> None:
    """An ended job leaves nothing."""
    (workspace.checkpoints / "step-1").mkdir()
    attempt_folder.discard(workspace, ended=ended)
    job = workspace.root.parent
    assert not workspace.root.exists()
    assert (job / "checkpoints" / "step-1").exists() is not ended
    assert job.exists() is not ended


@pytest.mark.parametrize(
    ("filename", "staged"),
    [("table.CSV", "data/training.csv"), ("../../etc/passwd", "data/training"), ("a.b/../c.j s", "data/training")],
)
def test_only_the_suffix_of_a_clients_name_is_used(
    tmp_path: Path, workspace: Workspace, filename: str, staged: str
) -> None:
    """Whatever path a client put into the name of its file."""
    storage, blob = stored(tmp_path, b"x,y\n")
    path = attempt_folder.stage_data(workspace, "training", filename=filename, blob=blob, storage=storage)
    assert path == staged
    assert (workspace.root / path).read_bytes() == b"x,y\n"


def test_log_tail_is_redacted_and_short(workspace: Workspace) -> None:
    """The last lines alone, without keys, NUL or paths of this machine; none where nothing was printed."""
    assert attempt_folder.log_tail(workspace, {}) == []
    lines = [f"line {number}" for number in range(5000)]
    workspace.log.write_text("\n".join([*lines, f"in {workspace.root}/base", "token hf_0123456789abcdef", "nul \0"]))
    tail = attempt_folder.log_tail(workspace, {str(workspace.root): "<job>"})
    assert len(tail) == attempt_folder.LOG_LINES
    assert tail[-3:] == ["in <job>/base", "token hf_***", "nul \ufffd"]
    assert workspace.log.stat().st_size > attempt_folder.LOG_BYTES
