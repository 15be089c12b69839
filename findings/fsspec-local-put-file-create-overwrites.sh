#!/usr/bin/env bash
# fsspec 2026.9.0: put_file(mode="create") of the local file system overwrites a file that exists, without an error.
#
# Most would expect: `mode="create"` raises FileExistsError where the target exists, in every file system, as `pipe_file` does.
# Behaviour: AbstractFileSystem.put_file has the parameter (and looks for the target before it writes, so that the memory
# store refuses). LocalFileSystem has its own put_file, which passes `mode` on to cp_file among the options that it does not
# read: the file is overwritten. `put` with the same mode does the same. pipe_file of the same file system refuses.
#
# Output seen (fsspec 2026.9.0):
#   memory put_file: FileExistsError, the file has: old
#   memory pipe_file: FileExistsError, the file has: old
#   local put_file: no error, the file has: new
#   local put: no error, the file has: new
#   local pipe_file: FileExistsError, the file has: old
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check fsspec==2026.9.0
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import os
from pathlib import Path

import fsspec

Path("source").write_text("new")
found = {}

def tried(name, files, target, write):
    files.pipe_file(target, b"old")
    try:
        write(target)
        said = "no error"
    except FileExistsError:
        said = "FileExistsError"
    found[name] = said, files.cat_file(target).decode()
    print(f"{name}: {said}, the file has: {found[name][1]}")

memory, local = fsspec.filesystem("memory"), fsspec.filesystem("file")
tried("memory put_file", memory, "/target", lambda path: memory.put_file("source", path, mode="create"))
tried("memory pipe_file", memory, "/target", lambda path: memory.pipe_file(path, b"new", mode="create"))
tried("local put_file", local, os.path.abspath("a"), lambda path: local.put_file("source", path, mode="create"))
tried("local put", local, os.path.abspath("b"), lambda path: local.put("source", path, mode="create"))
tried("local pipe_file", local, os.path.abspath("c"), lambda path: local.pipe_file(path, b"new", mode="create"))

refused, overwritten = ("FileExistsError", "old"), ("no error", "new")
assert [*found.values()] == [refused, refused, overwritten, overwritten, refused]
PY
