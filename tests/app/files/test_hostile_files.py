"""Training files as attacks: lines, rows and row groups that would fill memory, in bytes that cost nothing to send."""

import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.errors import DataError
from app.files.formats import validate
from app.files.lines import MAX_LINE
from app.files.parquet import FREE_BYTES

GIGABYTE = 1 << 30


def refused(path: Path, format: str, task: str = "causal-lm") -> tuple[DataError, int]:
    """The refusal, and the most memory that it took."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as raised:
            validate(path, format=format, task=task)
        return raised.value, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_a_line_of_a_gigabyte_is_read_in_constant_memory(tmp_path: Path, format: str) -> None:
    """Refused by its length, and the lines after it are still looked at."""
    path = tmp_path / "train"
    with path.open("wb") as file:
        file.write(b'{"text": "' if format == "jsonl" else b"text\n")
        file.seek(GIGABYTE)  # a hole: the disk holds none of it
        file.write(b'"}\n{"text"\n' if format == "jsonl" else b"\n")
    error, peak = refused(path, format)
    codes = [each["code"] for each in error.errors]
    assert codes[0] == "line_too_long" and error.errors[0]["line"] == (1 if format == "jsonl" else 2)
    assert format == "csv" or codes[1] == "not_json"
    assert peak < 8 * MAX_LINE, f"{peak:,} bytes"


def test_nul_bytes_are_named_by_place(tmp_path: Path) -> None:
    """A file full of them is a list of lines that are wrong, and not a crash of a parser."""
    (tmp_path / "train").write_bytes(b'{"text": "a"}\n{"text": "b\0"}\n')
    error, _ = refused(tmp_path / "train", "jsonl")
    assert (error.errors[0]["line"], error.errors[0]["code"]) == (2, "nul_byte")


def test_a_csv_of_a_million_columns_is_refused(tmp_path: Path) -> None:
    """A header can be wide without a long line; no row of it is an example."""
    (tmp_path / "train").write_bytes(b"text" + b",a" * 400_000 + b"\n" + b"x" + b",1" * 400_000 + b"\n")
    error, peak = refused(tmp_path / "train", "csv")
    assert "named" in error.message or "names the column" in error.message or "columns" in error.message
    assert peak < 400 << 20


def test_a_quote_that_never_closes_does_not_swallow_the_file(tmp_path: Path) -> None:
    """CSV's own bomb: everything that follows would be one value."""
    (tmp_path / "train").write_bytes(b'text\n"open\n' + b"a line\n" * 200_000)
    error, peak = refused(tmp_path / "train", "csv")
    assert error.errors[0]["code"] == "not_csv" and peak < 16 << 20


def test_a_parquet_file_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    """By what its own footer says, before a page is unpacked."""
    path = tmp_path / "train.parquet"
    text = pa.array(["x" * (64 << 20)] * 8)
    pq.write_table(pa.table({"text": text}), path, compression="zstd", use_dictionary=False)
    del text
    assert path.stat().st_size < 1 << 20
    error, peak = refused(path, "parquet")
    (problem,) = error.errors
    assert problem["code"] == "decompression_bomb" and "would unpack to" in problem["message"]
    assert peak < FREE_BYTES


def test_ordinary_compression_is_no_bomb(tmp_path: Path) -> None:
    """A table of equal short rows packs well, and is small either way."""
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table({"text": ["the same words again and again"] * 100_000}), path, compression="zstd")
    assert validate(path, format="parquet", task="causal-lm").examples == 100_000


@pytest.mark.parametrize("depth", [1_000, 500_000])
def test_deep_json_is_a_problem_of_its_line(tmp_path: Path, depth: int) -> None:
    """Arrays in arrays: refused where they stand."""
    deep = b'{"text": ' + b"[" * depth + b"]" * depth + b"}"
    assert len(deep) <= MAX_LINE + 100 or depth == 500_000
    (tmp_path / "train").write_bytes(b'{"text": "a"}\n' + deep[:MAX_LINE] + b"\n")
    error, _ = refused(tmp_path / "train", "jsonl")
    assert error.errors[0]["line"] == 2
