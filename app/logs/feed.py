"""A job's log as a live feed."""

from typing import Final

from sqlalchemy.orm import Session

from app.jobs.live.watcher import Block, Feed, block
from app.logs.queries import read
from app.logs.schemas import LogLine


def _blocks(session: Session, job_id: str, after: int, upto: int) -> list[Block]:
    lines = read(session, job_id, after=after, upto=upto)
    return [(line.number, block(str(line.number), LogLine.of(line).model_dump_json())) for line in lines]


LINES: Final = Feed("lines", lambda state: state.lines, _blocks)
