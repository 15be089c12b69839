#!/usr/bin/env bash
# pyarrow 26.0.1: a Parquet column's total_uncompressed_size can be ten thousand times smaller than the column.
#
# Most would expect: total_uncompressed_size says about how much memory reading takes, so a limit on it keeps a reader safe.
# Behaviour: it is the size of the pages before compression and after encoding. A dictionary stores a text that repeats once, and
# run lengths store the rest in some bytes, also with compression="none". Nothing else in the footer counts the decoded bytes by default.
#
# Output seen (pyarrow 26.0.1; 100,000 rows with the same text of 1,000 characters):
#   file 13610 bytes, total_uncompressed_size 11240, in memory 100400000
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check pyarrow==26.0.1
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import pathlib
import pyarrow as pa
import pyarrow.parquet as pq

pq.write_table(pa.table({"text": ["x" * 1000] * 100_000}), "t.parquet", compression="none")
told = pq.read_metadata("t.parquet").row_group(0).column(0).total_uncompressed_size
memory = pq.read_table("t.parquet").nbytes
size = pathlib.Path("t.parquet").stat().st_size
print(f"file {size} bytes, total_uncompressed_size {told}, in memory {memory}")
assert told < 20_000 and memory > 100_000_000
PY
