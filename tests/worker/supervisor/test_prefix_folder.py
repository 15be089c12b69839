"""The folders of kept results: a project each, a limit for all, the least recently used removed first."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from app.settings import Settings
from worker.supervisor.prefix_folder import PrefixFolders

KIB = 1024


def folders(root: Path, *, limit: int = 64 * KIB, slots: int = 1) -> PrefixFolders:
    return PrefixFolders(Settings(data_dir=root, prefix_cache_bytes=limit), slots=slots)


def kept(folder: Path, name: str, *, used_at: float, nbytes: int = 16 * KIB) -> Path:
    path = folder / name
    path.mkdir()
    (path / "x.rows").write_bytes(os.urandom(nbytes))
    os.utime(path, (used_at, used_at))
    return path


def test_a_project_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """Always the same, and no other project's; its name says nothing and leads nowhere else."""
    all_of_them = folders(tmp_path)
    given = [all_of_them.of_project(name) for name in ("a", "b", "a", "../../x")]
    paths = [shared.folder for shared in given if shared is not None]
    assert paths[0] == paths[2] and len(set(paths)) == 3
    assert {path.parent for path in paths} == {tmp_path / "prefix-cache"}
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in paths)


def test_what_was_used_least_recently_goes_first(tmp_path: Path) -> None:
    """Of all projects together, until the limit holds the rest; with room for a job when one begins."""
    all_of_them = folders(tmp_path)
    one, other = (all_of_them.of_project(name) for name in ("a", "b"))
    assert one is not None and other is not None
    paths = [kept(where.folder, str(at), used_at=1000 + at) for at, where in enumerate([one, other, one, other, other])]
    assert all_of_them.shrink() <= 64 * KIB
    assert [path.exists() for path in paths] == [False, False, True, True, True]
    shared = folders(tmp_path, slots=2).of_project("a")
    assert shared is not None and 8 * KIB <= shared.room <= 32 * KIB
    assert [path.exists() for path in paths[-2:]] == [True, True]


def test_no_limit_no_folder(tmp_path: Path) -> None:
    """0 keeps nothing."""
    assert folders(tmp_path, limit=0).of_project("a") is None
    assert not (tmp_path / "prefix-cache").exists()


def test_a_time_to_come_does_not_keep_a_folder(tmp_path: Path) -> None:
    """Only a trainer that lies writes one."""
    all_of_them = folders(tmp_path, limit=24 * KIB)
    shared = all_of_them.of_project("a")
    assert shared is not None
    lying, honest = kept(shared.folder, "x", used_at=9e9), kept(shared.folder, "y", used_at=1000)
    all_of_them.shrink()
    assert (lying.exists(), honest.exists()) == (False, True)


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    """Neither counted nor emptied: a trainer may have left any."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(bytes(100 * KIB))
    all_of_them = folders(tmp_path, limit=2 * KIB)
    shared = all_of_them.of_project("a")
    assert shared is not None
    (shared.folder / "link").symlink_to(outside)
    inner = kept(shared.folder, "x", used_at=1000)
    (inner / "link").symlink_to(outside)
    (shared.folder.parent / "project").symlink_to(outside)
    all_of_them.shrink()
    assert not inner.exists()
    assert (outside / "file").exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """It is given all the same, so that the trainer says so in the job."""
    (tmp_path / "prefix-cache").write_text("in the way")
    shared = folders(tmp_path).of_project("a")
    assert shared is not None and not shared.folder.exists()


def test_a_folder_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the environment, as an absolute path."""
    monkeypatch.setenv("PERMAFROST_PREFIX_CACHE_DIR", str(tmp_path / "fast"))
    monkeypatch.setenv("PERMAFROST_PREFIX_CACHE_BYTES", "1000")
    settings = Settings(data_dir=tmp_path)
    assert (settings.prefix_cache, settings.prefix_cache_bytes) == (tmp_path / "fast", 1000)


def test_what_no_job_used_for_long_is_removed(tmp_path: Path) -> None:
    """Of every project, and whatever its size; a time to come counts as none."""
    all_of_them = folders(tmp_path)
    now = time.time()
    paths = []
    for project in ("a", "b"):
        shared = all_of_them.of_project(project)
        assert shared is not None
        ages = (("old", 3.1), ("new", 2.9), ("to come", -1.0))
        paths += [kept(shared.folder, name, used_at=now - days * 86_400, nbytes=1) for name, days in ages]
    all_of_them.forget(days=3.0)
    assert [path.name for path in paths if path.exists()] == ["new", "new"]
