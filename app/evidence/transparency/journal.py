"""Writes the transparency log: entries get a place in the database, then tiles in the storage, then a signature.

Each step can be repeated by anyone: places never change once they are committed, so that two processes write the same
tiles, and a checkpoint is signed over what both the database and the tiles have.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Select, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.db import Database, now
from app.errors import PermafrostError
from app.evidence.format.keys import KeyFileError, generate, load, write_private
from app.evidence.format.log_proof import Entry, read_entry
from app.evidence.format.note import (
    LogHead,
    Note,
    NoteError,
    NoteKey,
    NoteLine,
    checked_name,
    key_of,
    read_note,
    sign,
    signed_state,
)
from app.evidence.format.tiles import (
    HASH,
    WIDTH,
    ReadTile,
    TileError,
    TilePath,
    Tree,
    bundle,
    entries_of,
    fold,
    in_size,
    leaf_hash,
    paths_between,
)
from app.evidence.transparency.tables import LogEntry, LogState
from app.evidence.transparency.tile_files import TileFiles
from app.storage.blobs import Storage

#: Entries that get a place in one transaction, or are read at once.
BATCH: Final = 4096
STATE: Final = 1
WRITERS: Final = 4


class LogRefused(PermafrostError):
    """The log was not continued: its key, its tiles or its database are not those of its last checkpoint."""

    code = "log_refused"


@dataclass(frozen=True, slots=True)
class LogKey:
    """The key that signs checkpoints, and the log's name."""

    private: Ed25519PrivateKey
    origin: str

    @property
    def public(self) -> NoteKey:
        return key_of(self.private, self.origin)


def load_key(path: Path, *, origin: str = "") -> LogKey:
    """The log's key (Ed25519, PKCS #8 PEM), made on first use with its public half beside it (`.vkey`).

    Raises KeyFileError for a key of another kind.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # another process was first: its key is the key
            write_private(path, generate())
    private = load(path).private
    if not isinstance(private, Ed25519PrivateKey):
        raise KeyFileError(f"{path} is no Ed25519 key; a log's checkpoints are signed by one")
    name = origin or f"localhost/permafrost/{key_of(private, 'log').public.hex()[:16]}"
    key = LogKey(private, checked_name(name))
    line = f"{key.public}\n"
    public = path.with_suffix(".vkey")
    if not public.exists() or public.read_text() != line:
        public.write_text(line)
    return key


def record(session: Session, *entries: Entry) -> None:
    """Put entries into the log, which gives them a place later. One that is there already stays as it is."""
    if not entries:
        return
    at = now(session)
    rows = [{"leaf": each.leaf.hex(), "subject": each.subject, "entry": each.raw, "created_at": at} for each in entries]
    session.execute(_insert(session, LogEntry).on_conflict_do_nothing(index_elements=[LogEntry.leaf]), rows)


@dataclass(frozen=True, slots=True)
class Journal:
    """The log of one service. Any number of processes may write to it at once."""

    db: Database
    storage: Storage
    key: LogKey

    def enter(self, *entries: Entry) -> LogHead | None:
        """Put entries into the log, and sign a checkpoint over them and over all that waited. None for an empty log.

        Raises LogRefused where the log cannot be continued as it was.
        """
        published = self._published()
        while True:
            start, waiting = self._sequence(entries, published)
            if start.sequenced > start.size:
                self._publish(start)
            if not waiting:
                break
            entries = ()
        return self._write_checkpoint()

    def checkpoint(self) -> str | None:
        """The newest signed checkpoint; None for an empty log."""
        with self.db.read() as session:
            return session.scalar(select(LogState.checkpoint))

    def add_lines(self, note: Note, lines: Iterable[NoteLine]) -> bool:
        """Put cosignatures under a checkpoint. False where the log has gone on from it meanwhile."""
        with self.db.write() as session:
            state = locked_state(session)
            current = read_note(state.checkpoint) if state.checkpoint else None
            if current is None or current.text != note.text:
                return False
            state.checkpoint = str(current.with_lines(lines))
        self._write_checkpoint()
        return True

    def catch_up(self) -> bool:
        """Sign what waits, if anything does: entries of a process that was killed, or of a base. True if it did."""
        with self.db.read() as session:
            state = session.get(LogState, STATE)
            waiting = session.scalar(select(LogEntry.id).where(LogEntry.position.is_(None)).limit(1)) is not None
        if not waiting and (state is None or state.size == state.sequenced):
            return False
        self.enter()
        return True

    def rebuild(self) -> int:
        """Write every tile again from the database, and the checkpoint. Returns the number of entries."""
        with self.db.read() as session:
            state = session.get(LogState, STATE)
        if state is None or not state.size:
            return 0
        self._write_tiles(TileFiles(self.storage), state, old=0, new=state.size)
        self._write_checkpoint()
        return state.size

    def take_back(self) -> int:
        """Put entries into the database that were published and that it lacks. Returns how many there were.

        Raises LogRefused where those that it has are not the published ones, or where files are missing.
        """
        try:
            return self._take_back(TileFiles(self.storage), self._published())
        except TileError as error:
            raise LogRefused(f"the published log cannot be read: {error}") from None

    def _take_back(self, files: TileFiles, published: int) -> int:
        with self.db.write() as session:
            state = locked_state(session)
            if state.size >= published:
                return 0
            note = read_note(files.checkpoint() or b"")
            head = signed_state(note, [self.key.public])
            first = state.size - state.size % WIDTH
            taken = [
                entry for path in paths_between(first, head.size) if path.level == 0 for entry in _entries(files, path)
            ]
            have = session.scalars(_placed(first, state.size)).all()
            tree = files.tree(head.size)
            sound = all(leaf_hash(raw) == tree.leaf(first + at) for at, raw in enumerate(taken))
            if tree.root() != head.root or not sound or list(have) != taken[: len(have)]:
                raise LogRefused("the published entries do not make the published root, or go on from other entries")
            session.execute(update(LogEntry).where(LogEntry.position >= state.size).values(position=None))
            missing = taken[state.size - first :]
            lost = [leaf_hash(raw).hex() for raw in missing]
            session.execute(delete(LogEntry).where(LogEntry.position.is_(None), LogEntry.leaf.in_(lost)))
            at = now(session)
            session.add_all(
                LogEntry(
                    created_at=at, leaf=lost[each], subject=_subject_of(raw), entry=raw, position=state.size + each
                )
                for each, raw in enumerate(missing)
            )
            state.size = state.sequenced = head.size
            state.checkpoint, state.key = str(note), str(self.key.public)
            return len(missing)

    # ---- the steps

    def _published(self) -> int:
        """The size of the checkpoint in the storage, which is written after the database has it; 0 without ours."""
        try:
            return signed_state(read_note(TileFiles(self.storage).checkpoint() or b""), [self.key.public]).size
        except NoteError:
            return 0

    def _sequence(self, entries: Iterable[Entry], published: int) -> tuple[LogState, bool]:
        """Give places to entries that have none, in one transaction. Returns the state, and whether more wait."""
        with self.db.write() as session:
            state = locked_state(session)
            self._refuse_other_key(state)
            if state.size < published:
                message = f"{published} entries were signed and published, and the database has {state.size} of them"
                raise LogRefused(f"{message}: an older one was restored (permafrost doctor --repair takes them back)")
            record(session, *entries)
            pending = select(LogEntry.id).where(LogEntry.position.is_(None)).order_by(LogEntry.id).limit(BATCH + 1)
            waiting = session.scalars(pending).all()
            placed = [{"id": each, "position": state.sequenced + at} for at, each in enumerate(waiting[:BATCH])]
            if placed:
                session.execute(update(LogEntry), placed)
                state.sequenced += len(placed)
            return state, len(waiting) > BATCH

    def _publish(self, state: LogState) -> None:
        """Write the tiles of entries that have a place, then sign a checkpoint over them."""
        files, new = TileFiles(self.storage), state.sequenced
        try:
            root = self._write_tiles(files, state, old=state.size, new=new)
        except (TileError, LogRefused):  # tiles of the storage are lost or damaged: the database makes them again
            root = self._write_tiles(files, state, old=0, new=new)
        self._sign(LogHead(self.key.origin, new, root))
        for path in _full_between(state.size, new):
            files.remove_parts(path)

    def _write_tiles(self, files: TileFiles, state: LogState, *, old: int, new: int) -> bytes:
        """Write the tiles of a log that grows from `old` entries, and return its root.

        Raises LogRefused, before anything is written, where these tiles do not go on from what was signed last.
        """

        def made() -> Iterator[tuple[TilePath, bytes]]:
            return grown(self._rows(old - old % WIDTH, new), old=old, new=new, kept=files.read)

        kept = list(made()) if old else None  # a whole log would be too large to hold
        tiles = {(path.level, path.index): raw for path, raw in kept or made() if path.level is not None}

        def read(level: int, index: int, width: int) -> bytes:
            tile = tiles.get((level, index))
            return tile[: width * HASH] if tile is not None else files.read(level, index, width)

        self._refuse_other_root(Tree(state.size, read).root(), state)
        if kept is not None:
            _write_at_once(files, kept)
        else:
            for path, raw in made():
                files.write(path, raw)
        return Tree(new, read).root()

    def _sign(self, checkpoint: LogHead) -> None:
        """Make this the log's state, unless another process has signed a larger one meanwhile."""
        note = Note(checkpoint.text, (sign(checkpoint.text, self.key.private, self.key.origin),))
        with self.db.write() as session:
            state = locked_state(session)
            self._refuse_other_key(state)
            if state.size < checkpoint.size:
                state.size, state.checkpoint, state.key = checkpoint.size, str(note), str(self.key.public)

    def _write_checkpoint(self) -> LogHead | None:
        """Write the state's checkpoint into the storage; again, if it has changed meanwhile."""
        written = None
        while True:
            with self.db.read() as session:
                state = session.get(LogState, STATE)
                note = state.checkpoint if state else None
            if note is None or note == written:
                return LogHead.parse(read_note(note).text) if note else None
            TileFiles(self.storage).write_checkpoint(note)
            written = note

    # ---- what is read

    def entries(self, end: int) -> Iterator[bytes]:
        """Every entry of the database that has a place below `end`. Raises LogRefused where it lacks one."""
        return self._rows(0, end)

    def _rows(self, first: int, end: int) -> Iterator[bytes]:
        """Entries by their places, from the beginning of a tile on."""
        for begin in range(first, end, BATCH):
            with self.db.read() as session:
                found = session.scalars(_placed(begin, min(begin + BATCH, end))).all()
            if len(found) != min(BATCH, end - begin):
                raise LogRefused(f"the database lacks entries of its log, between {begin} and {end}")
            yield from found

    def _refuse_other_key(self, state: LogState) -> None:
        if state.key not in (None, str(self.key.public)):
            message = f"the log is signed by the key {state.key}, and this process has {self.key.public}"
            raise LogRefused(f"{message}: put the log's key back (PERMAFROST_LOG_KEY, PERMAFROST_LOG_ORIGIN)")

    def _refuse_other_root(self, root: bytes, state: LogState) -> None:
        if state.checkpoint is None:
            return
        signed = signed_state(read_note(state.checkpoint), [self.key.public])
        if signed.size != state.size or signed.root != root:
            raise LogRefused(f"the entries do not make the root that was signed over {signed.size} of them")


def _write_at_once(files: TileFiles, tiles: Sequence[tuple[TilePath, bytes]]) -> None:
    """Write the few files of an append side by side: each waits for a disk, or for an object store."""
    with ThreadPoolExecutor(WRITERS) as pool:
        for _ in pool.map(lambda tile: files.write(*tile), tiles):
            pass  # raises what a writer raised


def _placed(first: int, end: int) -> Select[bytes]:
    places = (LogEntry.position >= first, LogEntry.position < end)
    return select(LogEntry.entry).where(*places).order_by(LogEntry.position)


def _entries(files: TileFiles, path: TilePath) -> list[bytes]:
    return entries_of(files.file(TilePath(None, path.index, path.width)))


def _subject_of(raw: bytes) -> str:
    entry = read_entry(raw)
    return entry.subject if entry else hashlib.sha256(raw).hexdigest()


def locked_state(session: Session) -> LogState:
    """The log's state, whose row the transaction keeps from others."""
    session.execute(_insert(session, LogState).values(id=STATE, sequenced=0, size=0).on_conflict_do_nothing())
    return session.scalars(select(LogState).where(LogState.id == STATE).with_for_update()).one()


def grown(entries: Iterable[bytes], *, old: int, new: int, kept: ReadTile) -> Iterator[tuple[TilePath, bytes]]:
    """The files of a log that grows: `entries` from the beginning of the last bundle on, `kept` for its last tiles."""
    fresh: list[bytes] = []
    rows = iter(entries)
    for index in range(old // WIDTH, -(-new // WIDTH)):
        part = [entry for _, entry in zip(range(min(WIDTH, new - index * WIDTH)), rows, strict=False)]
        yield TilePath(None, index, len(part)), bundle(part)
        hashes = [leaf_hash(entry) for entry in part]
        yield TilePath(0, index, len(part)), b"".join(hashes)
        fresh += [fold(hashes)] if len(hashes) == WIDTH else []
    level = 1
    while fresh:
        above: list[bytes] = []
        yield from _of_level(level, fresh, old=old, kept=kept, above=above)
        fresh, level = above, level + 1


def _of_level(
    level: int, fresh: Sequence[bytes], *, old: int, kept: ReadTile, above: list[bytes]
) -> Iterator[tuple[TilePath, bytes]]:
    """Tiles of a level to which hashes are added; roots of full ones go to the level above."""
    first, there = divmod(in_size(level, old), WIDTH)
    data = (kept(level, first, there) if there else b"") + b"".join(fresh)
    for index, at in enumerate(range(0, len(data), WIDTH * HASH), start=first):
        tile = data[at : at + WIDTH * HASH]
        yield TilePath(level, index, len(tile) // HASH), tile
        if len(tile) == WIDTH * HASH:
            above.append(fold([tile[each : each + HASH] for each in range(0, len(tile), HASH)]))


def _full_between(old: int, new: int) -> Iterator[TilePath]:
    """Tiles and bundles that have become full, of which there may be partial files."""
    level = 0
    while in_size(level, new):
        for index in range(in_size(level, old) // WIDTH, in_size(level, new) // WIDTH):
            yield TilePath(level, index)
            if level == 0:
                yield TilePath(None, index)
        level += 1


def _insert(session: Session, table: type[LogEntry | LogState]) -> sqlite.Insert | postgresql.Insert:
    """An insertion that may leave alone what is there: each database has its own statement for it."""
    return (sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert)(table)
