"""Files of a log that a reader does not trust: too large, cut, or full by now."""

from pathlib import Path

import pytest

from app.evidence.format.tiles import TileError, TilePath, bundle
from app.evidence.verifier.log_source import LogSource


def put(folder: Path, path: TilePath, raw: bytes) -> None:
    (folder / str(path)).parent.mkdir(parents=True, exist_ok=True)
    (folder / str(path)).write_bytes(raw)


def test_parts_are_also_in_full_files(tmp_path: Path) -> None:
    """A log that has grown since may have removed them."""
    put(tmp_path, TilePath(0, 0), bytes(256 * 32))
    put(tmp_path, TilePath(None, 0), bundle([b"a"] * 256))
    source = LogSource(str(tmp_path))
    assert source.tree(3).leaf(2) == bytes(32)
    assert list(source.entries(3)) == [b"a"] * 3


def test_files_of_another_size_are_refused(tmp_path: Path) -> None:
    """By name."""
    source = LogSource(str(tmp_path))
    put(tmp_path, TilePath(0, 0, 3), bytes(95))
    with pytest.raises(TileError, match="95 bytes instead of 96"):
        source.tree(3).leaf(0)
    put(tmp_path, TilePath(None, 0, 3), bundle([b"a"] * 2))
    with pytest.raises(TileError, match="has 2 entries"):
        list(source.entries(3))
    with (tmp_path / str(TilePath(0, 0, 3))).open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(TileError, match="more than"):
        source.tree(3).leaf(0)
