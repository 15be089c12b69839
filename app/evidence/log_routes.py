"""/v1/log: the transparency log as c2sp.org/tlog-tiles serves one. Its state is a row, its tiles are in the storage."""

from fastapi import APIRouter, Response
from sqlalchemy import select

from app.auth.caller import AsReader
from app.errors import NotFound
from app.evidence.format.note import LogHead, read_note
from app.evidence.format.tiles import TileError, TilePath
from app.evidence.schemas import TransparencyLog
from app.evidence.transparency.tables import LogState
from app.evidence.transparency.tile_files import TileFiles
from app.http.dependencies import Blobs, Db
from app.openapi.prose import CHECKPOINT, ERRORS

router = APIRouter(prefix="/log", tags=["Evidence"], responses=ERRORS)

_NO_CACHE = {"cache-control": "no-store"}
_FOREVER = {"cache-control": "private, max-age=31536000, immutable", "x-content-type-options": "nosniff"}


@router.get("", operation_id="retrieveLog", summary="Read the transparency log's state")
def retrieve_log(caller: AsReader, db: Db) -> TransparencyLog:
    """Its name, its public key and the checkpoint that was signed last, over entries of every project.

    Entries hold digests alone. Get the key over a channel that you trust: `permafrost log verify` wants it.
    """
    state = _state(db)
    if state is None or state.checkpoint is None:
        return TransparencyLog(size=0)
    signed = LogHead.parse(read_note(state.checkpoint).text)
    return TransparencyLog(
        origin=signed.origin, key=state.key, size=signed.size, root=signed.root.hex(), checkpoint=state.checkpoint
    )


@router.get(
    "/checkpoint",
    operation_id="downloadLogCheckpoint",
    summary="Download the log's signed checkpoint",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}, "example": CHECKPOINT}}}},
)
def download_checkpoint(caller: AsReader, db: Db) -> Response:
    """A signed note (c2sp.org/tlog-checkpoint): keep it, and a later one must go on from it."""
    state = _state(db)
    if state is None or state.checkpoint is None:
        raise NotFound("the log has no entry yet, and so no checkpoint", code="empty_log")
    return Response(state.checkpoint, media_type="text/plain; charset=utf-8", headers=_NO_CACHE)


@router.get(
    "/tile/{tile:path}",
    operation_id="downloadLogTile",
    summary="Download a tile of the log",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}},
)
def download_tile(tile: str, caller: AsReader, storage: Blobs) -> Response:
    """By its path in c2sp.org/tlog-tiles: `0/x001/234`, `1/000.p/17` (hashes), `entries/000` (entries)."""
    path = TilePath.parse(f"tile/{tile}")
    if path is None:
        raise NotFound(f"{tile[:200]!r} is not the path of a tile, such as 0/000 or entries/000.p/12", code="no_tile")
    try:
        raw = TileFiles(storage).file(path)
    except TileError:
        raise NotFound(f"the log has no {path}; the checkpoint says how large it is", code="no_tile") from None
    return Response(raw, media_type="application/octet-stream", headers=_FOREVER)


def _state(db: Db) -> LogState | None:
    with db.read() as session:
        return session.scalar(select(LogState))
