"""What is written once and read at any place."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from worker.trainer.data import flat
from worker.trainer.data.flat import Flat


@pytest.mark.parametrize("held", [0, 100, 1 << 20], ids=["file", "file with a rest", "memory"])
def test_elements_are_read_as_they_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    """In memory or in a file; nobody can write them."""
    monkeypatch.setattr(flat, "HELD_BYTES", held)
    written = Flat(np.int32, tmp_path)
    for at in range(0, 300, 3):
        written.add(np.arange(at, at + 3, dtype=np.int32).tobytes())
    found = written.finished()
    assert found.dtype == np.int32
    assert found.tolist() == list(range(300))
    assert not found.flags.writeable


def test_files_have_no_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They end with the process, also one that is killed, and the folder has nothing to remove."""
    monkeypatch.setattr(flat, "HELD_BYTES", 0)
    written = Flat(np.uint8, tmp_path)
    written.add(b"abc")
    assert list(tmp_path.iterdir()) == []
    assert bytes(written.finished()) == b"abc"


def test_without_elements_or_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is an empty array; without a folder all of it stays in memory."""
    assert Flat(np.int64).finished().tolist() == []
    monkeypatch.setattr(flat, "HELD_BYTES", 0)
    written = Flat(np.uint8)
    written.add(b"abc")
    assert bytes(written.finished()) == b"abc"


def test_a_full_disk_is_said_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ENOSPC, of which a trainer makes the exit code for no room: while writing, and not later by a signal."""
    monkeypatch.setattr(flat, "HELD_BYTES", 0)
    with Path("/dev/full").open("r+b", buffering=0) as full:
        monkeypatch.setattr("tempfile.TemporaryFile", lambda **options: full)
        written = Flat(np.uint8, Path("/"))
        with pytest.raises(OSError) as refused:
            written.add(b"a" * 100_000)
    assert refused.value.errno == errno.ENOSPC
