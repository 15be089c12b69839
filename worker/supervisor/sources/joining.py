"""Files of one split as one file: lines one after the other, tables under one header, row groups of one schema."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from app.files.parquet import ParquetFile
from worker.supervisor.sources.arriving import Arriving, SourceRefused

SUFFIXES: Final = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_CHUNK: Final = 1 << 20


def join(paths: Sequence[Path], arriving: Arriving) -> str:
    """Writes the files into one. Returns its suffix. Raises SourceRefused where they do not fit together."""
    suffix = paths[0].suffix
    if len(paths) == 1:
        arriving.forget()
        paths[0].replace(arriving.path)
        arriving.size = arriving.path.stat().st_size
        return suffix
    if suffix == ".parquet":
        _join_tables(paths, arriving)
        return suffix
    if suffix == ".json":
        message = "a split of several .json files cannot be joined; name one file by its path"
        raise SourceRefused(message, code="source_ambiguous")
    _join_lines(paths, arriving, headed=suffix in (".csv", ".tsv"))
    return suffix


def _join_lines(paths: Sequence[Path], arriving: Arriving, *, headed: bool) -> None:
    arriving.forget()
    arriving.begin(None)
    first = b""
    for path in paths:
        with path.open("rb") as file:
            if headed:
                header = file.readline().rstrip(b"\r\n")
                if first and header != first:
                    raise SourceRefused(f"{path.name} has another header than {paths[0].name}", code="source_ambiguous")
                if not first:
                    arriving.write(header + b"\n")
                first = header
            last = b"\n"
            while data := file.read(_CHUNK):
                arriving.write(data)
                last = data[-1:]
            if last != b"\n":
                arriving.write(b"\n")


def _join_tables(paths: Sequence[Path], arriving: Arriving) -> None:
    """Row group by row group, of files whose footers were looked at by our own reader first."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in paths:
        if problems := ParquetFile(path).header_problems:
            raise SourceRefused(f"{path.name}: {problems[0].message}", code="invalid_training_data")
    partial = arriving.path.with_name("joined.parquet")
    try:
        schema = pq.read_schema(paths[0]).remove_metadata()
        with pq.ParquetWriter(partial, schema) as writer:
            for path in paths:
                file = pq.ParquetFile(path)
                for number in range(file.num_row_groups):
                    writer.write_table(file.read_row_group(number).replace_schema_metadata(None).cast(schema))
    except (pa.ArrowException, OSError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise SourceRefused(f"the files of the split do not fit together: {first}", code="source_ambiguous") from None
    shutil.move(partial, arriving.path)
    arriving.size = arriving.path.stat().st_size
    arriving.refuse_large(arriving.size)
