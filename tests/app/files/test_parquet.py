"""Parquet files: each task, damaged files, values that are not trainable, row groups that unpack to too much."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.files.formats import TASKS, Columns, validate
from tests.app.files.training_files import GOOD, PNG, found, lines, read


@pytest.mark.parametrize("task", TASKS)
def test_each_task_in_parquet(tmp_path, task):
    """The same records as a Parquet file give the same examples; images are bytes there."""
    records = [r | ({"image": PNG} if "image" in r else {}) for r in GOOD[task]]
    path, other = tmp_path / "data.parquet", tmp_path / "data.jsonl"
    pq.write_table(
        pa.Table.from_pylist([{"text_pair": None} | r for r in records] if "text" in records[0] else records), path
    )
    other.write_bytes(lines(*GOOD[task]))
    columns = Columns()
    if task.startswith("tabular"):
        flat = [{"one": r["x"][0], "two": r["x"][1], "y": r["y"]} for r in records]
        pq.write_table(pa.Table.from_pylist(flat), path)
    examples = list(read(path, format="parquet", task=task, columns=columns))
    assert examples == list(read(other, format="jsonl", task=task))
    assert validate(path, format="parquet", task=task).examples == len(records)


@pytest.mark.parametrize("damage", ["text", "truncated"])
def test_bad_parquet(tmp_path, damage):
    """A file that is no Parquet, or is cut off, is one clear problem."""
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": [1.0, 2.0], "b": [1.0, 2.0]}), path)
    path.write_bytes(b"a,b\n1,2\n" if damage == "text" else path.read_bytes()[:-10])
    assert found(path, format="parquet", task="tabular-regression")[0][2] == "not_parquet"


def test_parquet_that_breaks_in_the_middle(tmp_path):
    """Damaged pages are found where they stand, not in training."""
    path = tmp_path / "t.parquet"
    table = pa.table({"text": [f"text number {n}" for n in range(5000)]})
    pq.write_table(table, path, row_group_size=1000, compression="zstd", use_dictionary=False)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    path.write_bytes(content)
    assert "not_parquet" in {code for _, _, code in found(path, format="parquet", task="causal-lm")}


@pytest.mark.parametrize(
    ("columns", "field", "code"),
    [
        ({"a": [1.0, None], "b": [1.0, 2.0]}, "a", "not_a_number"),
        ({"a": [1.0, float("nan")], "b": [1.0, 2.0]}, "a", "not_finite"),
        ({"a": [True, False], "b": [1.0, 2.0]}, "a", "not_a_number"),
        ({"a": ["1", "2"], "b": [1.0, 2.0]}, "a", "not_a_number"),
    ],
)
def test_bad_values_in_parquet(tmp_path, columns, field, code):
    """Nulls, NaN, booleans and text in a numeric column, by row."""
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns), path)
    assert (2, field, code) in found(path, format="parquet", task="tabular-regression")
