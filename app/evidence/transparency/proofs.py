"""Proofs that an entry is in the log, from its tiles and the last signed checkpoint."""

import structlog
from sqlalchemy import select

from app.db import Database
from app.errors import PermafrostError
from app.evidence.format.log_proof import LogProof
from app.evidence.format.note import LogHead, read_note
from app.evidence.format.tiles import TileError, root_of_path
from app.evidence.transparency.tables import LogEntry, LogState
from app.evidence.transparency.tile_files import TileFiles
from app.storage.blobs import Storage

log = structlog.get_logger(__name__)


def proof_of(db: Database, storage: Storage, leaf: str | None) -> str | None:
    """The proof that an entry is in the log, by its hash. None while it is not under a checkpoint.

    Also where the storage is away or damaged: what is proved is served without a proof, and the doctor finds out.
    """
    if leaf is None:
        return None
    with db.read() as session:
        position = session.scalar(select(LogEntry.position).where(LogEntry.leaf == leaf))
        state = session.scalar(select(LogState))
    if position is None or state is None or state.checkpoint is None or position >= state.size:
        return None
    note = read_note(state.checkpoint)
    try:
        path = TileFiles(storage).tree(state.size).inclusion(position)
    except (TileError, PermafrostError, OSError) as error:
        log.warning("no proof of the log could be made", entry=leaf, reason=str(error))
        return None
    root = root_of_path(bytes.fromhex(leaf), index=position, size=state.size, path=path)
    if root != LogHead.parse(note.text).root:
        log.error("the log's tiles do not make its root; see permafrost doctor", entry=leaf)
        return None
    return str(LogProof(position, tuple(path), note))
