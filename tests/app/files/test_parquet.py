"""Parquet files: each task, damaged files, values that are not trainable, row groups that unpack to too much."""

import math
import tracemalloc
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.files import formats
from app.files.columns import Columns
from app.files.formats import TASKS, validate
from app.files.parquet import ParquetFile
from app.files.problems import LineProblem
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


def _write(path: Path, table: dict[str, Any]) -> Path:
    pq.write_table(pa.table(table), path)
    return path


def _rows(path: Path) -> list[Any]:
    """The records, without their row numbers."""
    items = list(ParquetFile(path).records())
    return [item[1] for item in items if not isinstance(item, LineProblem)]


def _codes(path: Path) -> list[str]:
    file = ParquetFile(path)
    found = [*file.header_problems, *(item for item in file.records() if isinstance(item, LineProblem))]
    return [problem.code for problem in found]


def test_values_of_every_kind_are_python_values(tmp_path):
    """Dictionaries, nulls, decimals, lists, structs and empty columns, at every depth as pyarrow's own reading."""
    dialogue = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None}]
    table = {
        "text": ["x", "y", None, "x"],
        "number": [1, 2, None, 4],
        "price": [Decimal("1.5"), None, Decimal("-2.25"), Decimal(0)],
        "nothing": pa.nulls(4),
        "numbers": [[1, 2], None, [], [3]],
        "messages": [dialogue, None, [], dialogue[:1]],
        "struct": [{"text": "q", "value": 1}, None, {"text": None, "value": None}, {"text": "q", "value": 2}],
        "bytes": [b"1", b"2", None, b"1"],
        "category": pa.array(["p", "q", "p", None]).dictionary_encode(),
        "coded": pa.array([5, 6, 5, None]).dictionary_encode(),
        "flag": [True, None, False, True],
    }
    path = _write(tmp_path / "data.parquet", table)
    rows = _rows(path)
    expected = [
        row | {"price": None if row["price"] is None else float(row["price"])} for row in pa.table(table).to_pylist()
    ]
    assert rows == expected


def test_decimals_are_numbers(tmp_path):
    """As features and as a target."""
    prices = [Decimal("1.50"), Decimal("2.25"), Decimal("0.10")]
    path = _write(tmp_path / "data.parquet", {"a": [1, 2, 3], "price": prices})
    examples = list(read(path, format="parquet", task="tabular-regression"))
    assert examples == [{"x": [n], "y": [float(price)]} for n, price in zip((1, 2, 3), prices, strict=True)]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1] * 20_000_000),
        pa.array([[1] * 20_000_000]),
        pa.nulls(20_000_000, pa.float64()),
        pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), pa.array(["x" * (1 << 20)])),
    ],
    ids=["numbers", "one row", "nulls", "a long text"],
)
def test_values_that_are_repeated_for_nothing_are_refused(tmp_path, column):
    """Kilobytes of run lengths and dictionaries that decode to hundreds of megabytes, in a few of them."""
    path = _write(tmp_path / "data.parquet", {"text": column})
    assert path.stat().st_size < 200_000
    tracemalloc.start()
    try:
        assert _codes(path) == ["decompression_bomb"]
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_a_repeated_text_is_one_object(tmp_path):
    """So that rows of equal texts cost references, not copies."""
    path = _write(tmp_path / "data.parquet", {"text": ["a long text" * 10, "another"] * 100})
    rows = _rows(path)
    assert len({id(row["text"]) for row in rows}) == 2


def test_thousands_of_columns_are_read(tmp_path):
    """Each value in its column, in few batches."""
    table = {f"c{number}": [number, number + 0.5] for number in range(3_000)}
    path = _write(tmp_path / "data.parquet", table)
    first, second = read(path, format="parquet", task="tabular-regression")
    assert first["x"] == list(range(2_999)) and second["y"] == [2_999.5]


def test_rows_of_many_repetitions_are_fine(tmp_path):
    """Pictures of digits are mostly zeros; ordinary repetition is no bomb."""
    table = {f"pixel{number}": [0] * 2_000 for number in range(200)} | {"label": ["a", "b"] * 1_000}
    path = _write(tmp_path / "data.parquet", table)
    assert formats.validate(path, format="parquet", task="tabular-classification").examples == 2_000


def test_a_column_of_nulls_is_absent(tmp_path):
    """Tables of many sources have columns that this one leaves empty."""
    path = _write(tmp_path / "data.parquet", {"text": ["a", "b"], "messages": pa.nulls(2), "note": pa.nulls(2)})
    assert formats.validate(path, format="parquet", task="causal-lm").examples == 2


def test_an_index_of_pandas_is_no_column(tmp_path):
    """As `to_parquet` writes a filtered table: nothing trains on it, and a warning says so."""
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": [1.0, 2.0], "y": [1.0, 2.0], "__index_level_0__": [3, 7]}), path)
    summary = validate(path, format="parquet", task="tabular-regression")
    assert summary.columns == Columns(("a",), ("y",))
    assert summary.warnings == ("the column '__index_level_0__' is pandas' index, and is not read",)


def test_many_numbers_at_once_are_what_they_are_one_by_one(tmp_path):
    """A block of finite numbers is not read row by row; a block with any other value is."""
    kinds = {"half": "float16", "single": "float32", "double": "float64", "byte": "uint8", "y": "int64"}
    values = {name: np.arange(20_000).astype(kind) for name, kind in kinds.items()}
    values["half"] = (np.arange(20_000) % 7 / 3).astype("float16")
    values["y"][5] = 2**53 + 1
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table(values), path)
    task = "tabular-regression"
    names = [name for name in kinds if name != "y"]
    rows = list(formats.read(path, format="parquet", task=task))
    assert formats.validate(path, format="parquet", task=task).examples == len(rows) == 20_000
    expected = [([float(values[name][at]) for name in names], [float(values["y"][at])]) for at in range(20_000)]
    assert [(line, example["x"], example["y"]) for line, example in rows] == [
        (at + 1, x, y) for at, (x, y) in enumerate(expected)
    ]

    values["double"][15_000], values["double"][3] = math.nan, -1e39
    pq.write_table(pa.table(values), path)
    assert found(path, format="parquet", task=task) == [(4, "double", "too_large"), (15_001, "double", "not_finite")]


@pytest.mark.parametrize("kind", ["text", "repeated", "whole"])
def test_many_labelled_rows_at_once_are_what_they_are_one_by_one(tmp_path: Path, kind: str) -> None:
    """Labels are counted by block; where one is wrong, its line is named, and the counts are those of the others."""
    names: list[Any] = ["b", "a", "\u00e9", " a"] if kind != "whole" else [7, -1, 2**53 + 1, 0]
    labels = [names[at % 4] for at in range(20_000)]
    table: dict[str, Any] = {"x": np.arange(20_000) / 7, "z": np.arange(20_000), "label": labels}
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table(table), path, use_dictionary=["label"] if kind == "repeated" else False)
    options: dict[str, Any] = {"format": "parquet", "task": "tabular-classification"}
    summary = formats.validate(path, **options)
    assert summary.labels is not None
    assert (summary.examples, set(summary.labels)) == (20_000, set(map(str, names)))
    rows = list(formats.read(path, labels=summary.labels, **options))
    expected = [{"x": [at / 7, float(at)], "y": summary.labels.index(str(labels[at]))} for at in range(20_000)]
    assert rows == list(enumerate(expected, start=1))
    assert [row["y"] for _, row in formats.read(path, **options)] == list(map(str, labels))

    table["label"] = [None if at == 9_000 else label for at, label in enumerate(labels)]
    table["label"][3] = "once" if kind != "whole" else 99
    pq.write_table(pa.table(table), path)
    assert found(path, **options) == [(9_001, "label", "wrong_type")]
    table["label"][9_000] = names[0]
    pq.write_table(pa.table(table), path)
    assert found(path, **options) == [(4, "label", "label_seen_once")]
    pq.write_table(pa.table(table | {"x": [math.nan if at == 9_000 else 0.5 for at in range(20_000)]}), path)
    assert found(path, **options) == [(9_001, "x", "not_finite")]
    assert found(path, labels=tuple(map(str, names)), **options)[0][:2] == (4, "label")


def test_labels_of_other_types_are_refused_line_by_line(tmp_path):
    path = tmp_path / "rows.parquet"
    for values in ([True, False] * 50, [0.5, 1.5] * 50):
        pq.write_table(pa.table({"x": np.arange(100) / 7, "label": values}), path)
        assert found(path, format="parquet", task="tabular-classification")[0] == (1, "label", "wrong_type")
