"""What is stored of a judged job."""

from app.evidence.database_rows import evidence_row, parameter_rows
from tests.app.evidence.attest.readings import BASE, OTHER, judged


def test_database_rows_say_the_same() -> None:
    """Counts, roots and flags of the stored rows are those of the judged ones."""
    found = judged(base=BASE | {"pooler.w": OTHER})
    evidence = evidence_row(found, job_id="ftjob-1", attempt=2, checks={"count": 1})
    assert (evidence.verdict, evidence.frozen_tensors, evidence.frozen_bytes) == ("verified", 1, 32)
    assert evidence.checks == {"count": 1, "scheduled_tensors": 0, "split_tensors": 0}
    stats = {"head.w": {"changed": 7, "l2": 0.5}}
    rows = parameter_rows(found, job_id="ftjob-1", stats=stats)
    assert [(row.position, row.name, row.role, row.changed, row.changed_elements) for row in rows] == [
        (0, "enc.w", "frozen", False, 0),
        (1, "head.w", "trainable", True, 7),
        (2, "pooler.w", "dropped", None, None),
    ]
    assert [row.elements for row in rows] == [8, 8, 8]
    assert rows[1].stats == stats["head.w"]
