"""What became of a job's tensors, for its page and its result's: the freeze map, and which layer moved when."""

from typing import Any, Final

from sqlalchemy.orm import Session

from app.pages import freeze_map, heat_strip

#: Of a job that has not ended, and of a model that no job has left.
NONE: Final[dict[str, Any]] = {"map": None, "strip": None}


def of_job(session: Session, job_id: str) -> dict[str, Any]:
    """What the template `freeze_map.html` needs."""
    tensors = freeze_map.tensors_of(session, job_id)
    kinds = {tensor.kind for tensor in tensors}
    if kinds & {"t1", "t2", "t3", "t4", "t5"}:
        kinds.add("t3")  # one entry of the key for all shades
    return {
        "map": freeze_map.draw(tensors),
        "map_key": freeze_map.KEY,
        "map_kinds": dict.fromkeys(kinds, True),
        "strip": heat_strip.draw(heat_strip.moves_of(session, job_id)),
    }
