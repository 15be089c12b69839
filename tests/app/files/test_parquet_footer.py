"""Footers of Parquet files: as pyarrow reads them, and damaged in every byte."""

import contextlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.errors import DataError
from app.files import formats
from app.files.parquet_footer import MAX_BYTES, read_footer
from tests.app.files.training_files import found


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Three row groups of texts, numbers and messages, some with a dictionary."""
    messages = [[{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]] * 6
    columns = {"text": ["a", "b", None] * 2, "number": [1.5] * 6, "key": list("abcdef"), "messages": messages}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=2, use_dictionary=["text"])
    return tmp_path / "t.parquet"


def test_footers_are_read_as_pyarrow_reads_them(table: Path) -> None:
    """Sizes, counts, paths and dictionaries of every column of every row group."""
    known = pq.read_metadata(table)
    groups = read_footer(table)
    assert len(groups) == known.num_row_groups == 3
    for at, group in enumerate(groups):
        other = known.row_group(at)
        assert (group.rows, group.nbytes) == (other.num_rows, other.total_byte_size)
        for number, column in enumerate(group.columns):
            chunk = other.column(number)
            assert column.path == chunk.path_in_schema
            assert (column.packed, column.unpacked) == (chunk.total_compressed_size, chunk.total_uncompressed_size)
            assert column.values == chunk.num_values
            texts = chunk.physical_type == "BYTE_ARRAY"
            assert column.texts_in_dictionary == (texts and chunk.has_dictionary_page)


@pytest.mark.parametrize("value", [0, 0x15, 0xFF])
def test_any_damaged_byte_of_a_footer(table: Path, value: int) -> None:
    """Read, or refused: the process goes on. A column whose entries contradict each other ended it once."""
    whole = table.read_bytes()
    start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    damaged = table.with_name("damaged.parquet")
    for at in range(start, len(whole) - 4):
        damaged.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
        with contextlib.suppress(DataError):
            formats.validate(damaged, format="parquet", task="tabular-regression")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PAR1PAR1", "does not end with a footer"),
        (b"PAR1" + bytes(8) + (100).to_bytes(4, "little") + b"PAR1", "does not end with a footer"),
        (b"PAR1" + b"\x49" * 40 + (40).to_bytes(4, "little") + b"PAR1", "nested too deeply"),
        (b"PAR1" + b"\x1c" * 40 + (40).to_bytes(4, "little") + b"PAR1", "nested too deeply"),
        (b"PAR1" + b"\x19\x4c" + (2).to_bytes(4, "little") + b"PAR1", "damaged"),
    ],
)
def test_what_is_no_footer(tmp_path: Path, content: bytes, message: str) -> None:
    """One problem in our words."""
    path = tmp_path / "t.parquet"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_footer(path)
    assert found(path, format="parquet", task="causal-lm") == [(None, None, "not_parquet")]


def test_a_footer_that_is_too_large(tmp_path: Path) -> None:
    """It is not read: that would take minutes."""
    path = tmp_path / "t.parquet"
    with path.open("wb") as file:
        file.seek(MAX_BYTES + 100)
        file.write((MAX_BYTES + 1).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(ValueError, match="write larger row groups"):
        read_footer(path)


def test_values_that_python_has_no_form_for(tmp_path: Path) -> None:
    """A date beyond the year 9999 is Arrow's, and a problem of the row here."""
    table = pa.table({"text": pa.array([10**17] * 2, pa.timestamp("ms"))})
    pq.write_table(table, tmp_path / "t.parquet")
    assert found(tmp_path / "t.parquet", format="parquet", task="causal-lm") == [(1, None, "not_parquet")]
