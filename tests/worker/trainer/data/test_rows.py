"""Rows kept as bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.trainer.data import flat
from worker.trainer.data.rows import Column, store

ROWS = [{"text": f"row {at}", "label": at % 3, "image": bytes([at])} for at in range(20)]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.lists(st.dictionaries(st.text(), VALUES, max_size=4), max_size=5))
def test_rows_come_back_as_they_were(rows: list[dict[str, object]]) -> None:
    """Whatever JSON has, and bytes; the order of fields too."""
    stored, lines = store(enumerate(rows, 1))
    assert list(stored) == rows
    assert [list(row) for row in stored] == [list(row) for row in rows]
    assert lines.tolist() == list(range(1, len(rows) + 1))


@pytest.mark.parametrize("held", [0, 1 << 20], ids=["files", "memory"])
def test_parts_and_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    """By number from either end, a part in its order, a part of a part, one field; beyond the last one is nothing."""
    monkeypatch.setattr(flat, "HELD_BYTES", held)
    stored, _ = store(enumerate(ROWS, 1), tmp_path)
    part = stored.take(np.array([9, 3, 7]))
    assert (stored[-1], part[0], part[-1], len(part)) == (ROWS[19], ROWS[9], ROWS[7], 3)
    assert list(part.take(np.array([2, 0]))) == [ROWS[7], ROWS[9]]
    assert list(part[1:]) == [ROWS[3], ROWS[7]]
    assert list(Column(stored, "image")[3:5]) == [b"\3", b"\4"]
    with pytest.raises(IndexError):
        part[3]
