"""Files of one split as one file."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from worker.supervisor.sources.arriving import Arriving, SourceRefused
from worker.supervisor.sources.joining import join


def written(folder: Path, *contents: bytes, suffix: str) -> list[Path]:
    paths = [folder / f"train-{at}{suffix}" for at in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


def joined(paths: list[Path], folder: Path) -> bytes:
    with Arriving(folder / "file", 10**6) as arriving:
        suffix = join(paths, arriving)
    assert suffix == paths[0].suffix
    return (folder / "file").read_bytes()


def test_lines_and_headers(tmp_path: Path) -> None:
    """A last line without its end stays a line; a table has one header."""
    assert joined(written(tmp_path, b'{"a": 1}', b'{"a": 2}\n', suffix=".jsonl"), tmp_path) == b'{"a": 1}\n{"a": 2}\n'
    assert joined(written(tmp_path, b"a,b\n1,2\n", b"a,b\r\n3,4", suffix=".csv"), tmp_path) == b"a,b\n1,2\n3,4\n"
    assert joined(written(tmp_path, b"[1]", suffix=".json"), tmp_path) == b"[1]"
    with pytest.raises(SourceRefused, match="another header"):
        joined(written(tmp_path, b"a,b\n1,2\n", b"b,a\n3,4", suffix=".csv"), tmp_path)
    with pytest.raises(SourceRefused, match=r"several \.json files"):
        joined(written(tmp_path, b"[1]", b"[2]", suffix=".json"), tmp_path)


def test_tables_of_one_schema(tmp_path: Path) -> None:
    """Row groups follow each other; another schema, and what is no table, are refused by name."""
    paths = [tmp_path / f"train-{at}.parquet" for at in range(3)]
    for at, path in enumerate(paths):
        pq.write_table(pa.table({"text": [f"{at}-{n}" for n in range(3)], "label": [at] * 3}), path)
    joined(paths, tmp_path)
    assert pq.read_table(tmp_path / "file")["text"].to_pylist() == [f"{at}-{n}" for at in range(3) for n in range(3)]
    pq.write_table(pa.table({"other": [1]}), paths[1])
    with pytest.raises(SourceRefused, match="do not fit together"):
        joined(paths, tmp_path)
    paths[1].write_bytes(b"PAR1 is all that this has of a table")
    with pytest.raises(SourceRefused, match=r"train-1\.parquet"):
        joined(paths, tmp_path)
