"""Database rows of a job's verdict: its evidence, and one row for every tensor."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.evidence.attest.verdict import JobVerdict
from app.evidence.format.statement import Row, frozen_readings, total
from app.evidence.tables import Evidence, Parameter


def evidence_row(judged: JobVerdict, *, job_id: str, attempt: int, checks: dict[str, Any]) -> Evidence:
    """Without the envelope, its key and the bundle for other tools, which are the signer's."""
    frozen = total(frozen_readings(judged.rows))
    return Evidence(
        job_id=job_id,
        attempt=attempt,
        verdict=judged.verdict,
        reason=judged.reason,
        frozen_tensors=frozen.count,
        frozen_bytes=frozen.nbytes,
        base_root=total(row.base for row in judged.rows if row.base).root,
        frozen_root=frozen.root,
        result_root=total(row.result for row in judged.rows if row.result).root,
        violations=list(judged.violations),
        checks=checks | _proved_in_part(judged.rows),
    )


def _proved_in_part(rows: Sequence[Row]) -> dict[str, int]:
    """How many tensors are proved for some steps or some rows only; `frozen_tensors` does not count them."""
    return {f"{role}_tensors": sum(row.role == role for row in rows) for role in ("scheduled", "split")}


def parameter_rows(
    judged: JobVerdict,
    *,
    job_id: str,
    stats: Mapping[str, dict[str, Any]],
    history: Mapping[str, list[dict[str, Any]]] | None = None,
) -> list[Parameter]:
    """One row per tensor, by name. `stats` has change statistics by result name; `history` at checkpoints, by name."""
    rows = []
    for at, row in enumerate(judged.rows):
        end = stats.get(row.result.name) if row.result else None
        made = _parameter(row, judged, job_id=job_id, position=at, stats=end)
        made.history = list((history or {}).get(row.name, ()))
        rows.append(made)
    return rows


def _parameter(row: Row, judged: JobVerdict, *, job_id: str, position: int, stats: dict[str, Any] | None) -> Parameter:
    stored = row.result or row.base
    info_dtype, info_shape = (stored.dtype, stored.shape) if stored else (row.dtype, row.shape)
    assert info_dtype is not None
    assert info_shape is not None
    shape = list(info_shape)
    elements = 1
    for size in shape:
        elements *= size
    return Parameter(
        job_id=job_id,
        position=position,
        name=row.name,
        base_name=row.base.name if row.base else None,
        result_name=row.result.name if row.result else None,
        kind=row.kind,
        role=row.role,
        rule=row.rule,
        mechanism=row.mechanism,
        dtype=info_dtype,
        shape=shape,
        elements=elements,
        nbytes=stored.nbytes if stored else 0,
        changed=None if row.base is None or row.result is None else row.changed,
        changed_elements=0 if row.base and row.result and not row.changed else (stats or {}).get("changed"),
        first_changed_step=judged.first_changed.get(row.alias_of or row.name),
        base_sha256=row.base.sha256 if row.base else None,
        result_sha256=row.result.sha256 if row.result else None,
        stats=stats,
    )
