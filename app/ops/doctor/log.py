"""Compares the transparency log's database, its files in the storage, and the checkpoint that was signed over both."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from sqlalchemy import func, select

from app.db import Database
from app.errors import PermafrostError
from app.evidence.format.keys import KeyFileError
from app.evidence.format.note import LogHead, NoteError, read_note, signed_state
from app.evidence.format.tiles import TileError, leaf_hash
from app.evidence.transparency.journal import STATE, Journal, LogKey, load_key
from app.evidence.transparency.tables import LogEntry, LogState
from app.evidence.transparency.tile_files import TileFiles
from app.ops.doctor.finding import Finding
from app.settings import Settings
from app.storage.blobs import Storage


@dataclass(frozen=True, slots=True)
class LogBooks:
    """One comparison of the log's parts. `deep` also reads every entry of the database."""

    settings: Settings
    db: Database
    storage: Storage
    deep: bool = False

    def findings(self) -> Iterator[Finding]:
        with self.db.read() as session:
            state = session.get(LogState, STATE)
            waiting = session.scalar(select(func.count()).where(LogEntry.position.is_(None))) or 0
        in_database = state is not None and state.checkpoint is not None
        signed = in_database or TileFiles(self.storage).checkpoint() is not None
        if not signed and not self.settings.log_key_path.exists():
            if waiting:
                message = f"{waiting} entries are not signed yet; the first worker makes the log's key, and signs them"
                yield Finding("unsigned_entries", "log", message, level="note")
            return
        try:
            key = self._key()
        except (OSError, KeyFileError, NoteError) as error:
            yield Finding("log_key", str(self.settings.log_key_path), f"the log's key cannot be read: {error}")
            return
        yield from self._compare(Journal(self.db, self.storage, key), state, waiting)

    def _key(self) -> LogKey:
        if not self.settings.log_key_path.exists():
            raise KeyFileError("there is no such file, and the log has entries; put the key back from a backup")
        return load_key(self.settings.log_key_path, origin=self.settings.log_origin)

    def _compare(self, journal: Journal, state: LogState | None, waiting: int) -> Iterator[Finding]:
        name = journal.key.origin
        if state is not None and state.key not in (None, str(journal.key.public)):
            yield Finding("log_key", name, f"the log is signed by another key, {state.key}")
            return
        published = _published(journal)
        size = state.size if state else 0
        if published is not None and published.size > size:
            message = f"{published.size} entries were published, and the database, an older one, has {size} of them"
            take_back = partial(self._take_back, journal)
            yield Finding("log_rolled_back", name, message, "the published entries taken back", take_back)
            return
        if state is not None and state.checkpoint is not None and (damage := self._damage(journal, state)):
            remedy = "tiles and checkpoint written again from the database"
            yield Finding("damaged_log", name, damage, remedy, partial(self._rebuild, journal))
        unsigned = waiting + (state.sequenced - state.size if state else 0)
        if unsigned:
            message = f"{unsigned} entries are not signed yet; a running worker signs them within a minute"
            yield Finding("unsigned_entries", name, message, "signed", partial(self._sign, journal), level="note")

    def _damage(self, journal: Journal, state: LogState) -> str | None:
        """What does not agree with the signed checkpoint, or None."""
        files = TileFiles(self.storage)
        try:
            signed = signed_state(read_note(state.checkpoint or ""), [journal.key.public])
            tree = files.tree(signed.size)
            if tree.root() != signed.root:
                return "its tiles do not make the root that was signed"
            if self.deep:
                for place, entry in enumerate(journal.entries(signed.size)):
                    if leaf_hash(entry) != tree.leaf(place):
                        return f"entry {place} of the database is not the one in the tiles"
        except (TileError, NoteError, PermafrostError) as error:
            return str(error)
        raw = files.checkpoint()
        return None if raw == (state.checkpoint or "").encode() else "the checkpoint in the storage is not the last one"

    def _rebuild(self, journal: Journal) -> str:
        return f"{journal.rebuild()} entries written again"

    def _take_back(self, journal: Journal) -> str:
        return f"{journal.take_back()} entries taken back"

    def _sign(self, journal: Journal) -> str:
        journal.enter()
        return "signed"


def _published(journal: Journal) -> LogHead | None:
    """What the storage's checkpoint says, if it is this log's."""
    try:
        return signed_state(read_note(TileFiles(journal.storage).checkpoint() or b""), [journal.key.public])
    except NoteError:
        return None
