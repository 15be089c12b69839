"""The log's files, in a folder and in an object store."""

from pathlib import Path

import pytest

from app.evidence.format.tiles import TileError, TilePath, bundle
from app.evidence.transparency.tile_files import TileFiles
from app.storage.blobs import Storage


@pytest.fixture(params=["folder", "object store"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> TileFiles:
    return TileFiles(Storage(f"file://{tmp_path}" if request.param == "folder" else f"memory://{tmp_path.name}"))


def test_files_are_read_as_they_were_written(files: TileFiles) -> None:
    """A part is also in the full file; what is missing, or has another size, is no tile."""
    full, entries = bytes(range(256)) * 32, [b"%d" % at for at in range(256)]
    files.write(TilePath(0, 7, 2), full[:64])
    files.write(TilePath(0, 7, 3), full[:96])
    assert files.read(0, 7, 2) == full[:64]
    with pytest.raises(TileError, match="is missing"):
        files.read(0, 7, 4)
    files.write(TilePath(0, 7), full)
    files.remove_parts(TilePath(0, 7))
    assert files.read(0, 7, 2) == full[:64] and files.read(0, 7, 256) == full
    files.write(TilePath(None, 7), bundle(entries))
    assert files.file(TilePath(None, 7, 3)) == bundle(entries[:3])
    files.write(TilePath(1, 0, 2), full[:63])
    with pytest.raises(TileError, match="63 bytes instead of 64"):
        files.read(1, 0, 2)


def test_a_checkpoint_takes_the_place_of_the_one_before(files: TileFiles) -> None:
    """There is none in an empty storage."""
    assert files.checkpoint() is None
    for note in ("one", "two"):
        files.write_checkpoint(note)
        assert files.checkpoint() == note.encode()
