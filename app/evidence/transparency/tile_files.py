"""The log's static files in the storage: tiles, bundles of entries, and the checkpoint, below `log/`.

A folder of them, or the prefix of a bucket, is a whole log for clients of c2sp.org/tlog-tiles.
"""

from app.evidence.format.tiles import HASH, WIDTH, TileError, TilePath, Tree, bundle, entries_of
from app.storage.blobs import Storage

PREFIX = "log"
CHECKPOINT = f"{PREFIX}/checkpoint"


class TileFiles:
    """Reads and writes tiles. Nothing that it reads is trusted before it fits a signed root."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def tree(self, size: int) -> Tree:
        return Tree(size, self.read)

    def read(self, level: int, index: int, width: int) -> bytes:
        """Hashes of a tile. Raises TileError where it is missing or has another size."""
        return self.file(TilePath(level, index, width))

    def file(self, path: TilePath) -> bytes:
        """The bytes of a tile or bundle; those of a partial one may be in the full one by now. Raises TileError."""
        raw = self._get(path)
        if raw is None and path.width < WIDTH:
            whole = self._get(TilePath(path.level, path.index))
            raw = _beginning(whole, path) if whole is not None else None
        if raw is None:
            raise TileError(f"{path} is missing")
        if path.level is not None and len(raw) != path.width * HASH:
            raise TileError(f"{path} has {len(raw)} bytes instead of {path.width * HASH}")
        return raw

    def write(self, path: TilePath, raw: bytes) -> None:
        self._storage.write_named(f"{PREFIX}/{path}", raw)

    def write_checkpoint(self, note: str) -> None:
        self._storage.write_named(CHECKPOINT, note.encode())

    def checkpoint(self) -> bytes | None:
        """The checkpoint as it was last written; None where there is none."""
        return self._storage.read_named(CHECKPOINT)

    def remove_parts(self, path: TilePath) -> None:
        """Remove the partial files of a tile that is full now."""
        self._storage.remove_named(f"{PREFIX}/{TilePath(path.level, path.index)}.p")

    def _get(self, path: TilePath) -> bytes | None:
        return self._storage.read_named(f"{PREFIX}/{path}")


def _beginning(whole: bytes, path: TilePath) -> bytes:
    if path.level is None:
        return bundle(entries_of(whole)[: path.width])
    return whole[: path.width * HASH]
