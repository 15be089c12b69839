#!/usr/bin/env bash
# SQLite 3.40.1 (Debian 12's; here in apsw 3.40.1.0): RETURNING x IS NOT NULL is true for a null.
#
# Most would expect: an expression means in RETURNING what it means in SELECT.
# Behaviour: SQLite knows that a column declared NOT NULL is never null, and replaces `x IS NOT NULL` by 1. In RETURNING
# it looks at the wrong column's declaration: where the table's first column is NOT NULL, as a primary key mostly is,
# the test of any other column is 1, and `x IS NULL` is 0. The column itself is returned right. SQLite 3.41 has it right.
#
# Output seen (apsw 3.40.1.0, SQLite 3.40.1):
#   SELECT x, x IS NOT NULL:                 (None, 0)
#   UPDATE … RETURNING x, x IS NOT NULL:     (None, 1)
#   INSERT … RETURNING x, x IS NULL:         (None, 0)
#   a first column that may be null, UPDATE: (None, 0)
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check apsw==3.40.1.0
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import apsw

db = apsw.Connection(":memory:")
db.execute("CREATE TABLE jobs (id TEXT NOT NULL PRIMARY KEY, x TEXT)")
db.execute("CREATE TABLE loose (id TEXT, x TEXT)")
db.execute("INSERT INTO loose VALUES ('a', NULL)")

def row(statement):
    return db.execute(statement).fetchall()[0]

inserted = row("INSERT INTO jobs VALUES ('a', NULL) RETURNING x, x IS NULL")
selected = row("SELECT x, x IS NOT NULL FROM jobs")
updated = row("UPDATE jobs SET x = NULL RETURNING x, x IS NOT NULL")
loose = row("UPDATE loose SET x = NULL RETURNING x, x IS NOT NULL")

print("SQLite", apsw.sqlitelibversion())
print("SELECT x, x IS NOT NULL:                ", selected)
print("UPDATE … RETURNING x, x IS NOT NULL:    ", updated)
print("INSERT … RETURNING x, x IS NULL:        ", inserted)
print("a first column that may be null, UPDATE:", loose)
assert (selected, updated, inserted, loose) == ((None, 0), (None, 1), (None, 0), (None, 0))
PY
