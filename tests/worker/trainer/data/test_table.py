"""Tables of numbers as matrices: the same rows and lines as one by one."""

from pathlib import Path

import numpy as np
import pytest

from app.specs.data import DataSpec
from worker.trainer.data import reading, tabular
from worker.trainer.data.table import Table

ROWS = [{"x": [at / 7, float(at)], "y": [at / 2]} for at in range(10)]


def test_rows_come_back_as_they_were() -> None:
    table = Table.of(ROWS)
    assert list(table) == ROWS
    assert list(table[2:5]) == ROWS[2:5]
    assert list(table.take(np.array([3, 0]))) == [ROWS[3], ROWS[0]]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_file_of_several_blocks_is_read_in_order(form: str, tmp_path: Path) -> None:
    """With the lines of all rows, and those held out taken from both."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    count, name = 9_000, f"rows.{form}"
    if form == "csv":
        lines = [f"{at / 7},{at},{'ab'[at % 2]}" for at in range(count)]
        (tmp_path / name).write_text("\n".join(["p,q,label", *lines]))
    else:
        columns = {"p": np.arange(count) / 7, "q": np.arange(count), "label": ["ab"[at % 2] for at in range(count)]}
        pq.write_table(pa.table(columns), tmp_path / name)
    task = "tabular-classification"
    splits = reading.read(tmp_path, DataSpec(training=name), task=task, fraction=0.1, seed=3)
    first = 2 if form == "csv" else 1
    lines_of = (*splits.training_lines, *splits.validation_lines)
    assert sorted(lines_of) == list(range(first, count + first))
    assert (splits.labels, len(splits.validation)) == (("a", "b"), 900)
    for rows, numbers in ((splits.training, splits.training_lines), (splits.validation, splits.validation_lines)):
        assert isinstance(rows, Table)
        ats = np.array(numbers) - first
        assert (rows.x == np.stack([ats / 7, ats], axis=1)).all()
        assert rows.y.tolist() == (ats % 2).tolist()


def test_a_matrix_is_encoded_as_its_rows_are() -> None:
    import torch

    for rows in (ROWS, [{**row, "y": at % 3} for at, row in enumerate(ROWS)]):
        classes = not isinstance(rows[0]["y"], list)
        one, other = (tabular.encode(each, classes=classes, dtype=torch.float32) for each in (rows, Table.of(rows)))
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.y, other.y)
        assert one.y.dtype == (torch.int64 if classes else torch.float32)
