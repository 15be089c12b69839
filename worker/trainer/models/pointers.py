"""Recognises Git LFS pointers: what a checkout without `git lfs` has in place of large files."""

from __future__ import annotations

from pathlib import Path

from app.errors import ModelError

START = b"version https://git-lfs.github.com/spec/"


def refuse(path: Path) -> None:
    """Raises ModelError where the file is a Git LFS pointer."""
    with path.open("rb") as file:
        if file.read(len(START)) != START:
            return
    message = (
        f"{path.name} is a Git LFS pointer, a few lines of text in place of the file; run 'git lfs pull' in the "
        "model's folder, or download the file itself"
    )
    raise ModelError(message, param="model", code="lfs_pointer")
