"""Reading what the trainer reports, and the row ranges that the verdict needs from the files."""

from typing import Any

import pytest

from app.evidence.attest.observations import ObservationsError, read_observations, rows_needed
from tests.app.evidence.attest.readings import (
    OLD,
    embedding,
    seen,
)


@pytest.mark.parametrize(
    "document",
    [
        None,
        {},
        {"tensors": [{"name": "w"}]},
        {"tensors": [seen("w", "not a digest")]},
        {"tensors": [seen("w", OLD.upper())]},
        {"tensors": [seen("w", base=[{"rows": [0, 1]}])]},
        {"tensors": [seen("w", slices=[{"rows": [1]}])]},
    ],
)
def test_unreadable_observations_are_refused(document: Any) -> None:
    """They come from the process that is not trusted; nothing malformed reaches a statement."""
    with pytest.raises(ObservationsError, match=r"observations\.json"):
        read_observations(document)


def test_needed_rows_are_asked_of_both_files() -> None:
    """By each file's own name for the tensor."""
    observed = read_observations({"tensors": [embedding(base=[{"name": "w", "rows": None}])]})
    base, result = rows_needed(observed)
    assert base == {"w": {(0, 2), (2, 4)}}
    assert result == {"emb.w": {(0, 2), (2, 4)}}
