"""A folder of rows that jobs share: what is intact is found, and nothing else ever is."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.trainer.prefix import row_store
from worker.trainer.prefix.row_store import RECORD, RowStore

ROOM = 1 << 20


def address(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def rows(*numbers: int) -> list[tuple[bytes, bytes]]:
    return [(address(number), bytes([number]) * (8 + number)) for number in numbers]


class Jobs:
    """Opens the folder as one job after the other would, and keeps what they say."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.problems: list[str] = []

    def open(self, *, key: str = "k", room: int = ROOM) -> RowStore:
        return RowStore(self.root, key=key, room=room, on_problem=self.problems.append)

    def write(self, *numbers: int, key: str = "k") -> None:
        store = self.open(key=key)
        store.put(rows(*numbers))
        store.close()

    def intact(self, *numbers: int, key: str = "k") -> list[int]:
        """Those of the rows that another job finds, which are always the right ones."""
        store = self.open(key=key)
        intact = []
        for (where, payload), number in zip(rows(*numbers), numbers, strict=True):
            answer = store.get(where, len(payload))
            assert answer in (None, payload)
            intact += [number] if answer is not None else []
        store.close()
        return intact

    def file(self, suffix: str) -> Path:
        (path,) = self.root.glob(f"k/*.{suffix}")
        return path


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    yield Jobs(tmp_path)


def test_rows_of_one_job_are_found_by_the_next(jobs: Jobs) -> None:
    """By address, whatever the order; what was not put is not there."""
    assert jobs.intact(1, 2) == []
    jobs.write(1, 2, 3)
    assert jobs.intact(3, 1, 4) == [3, 1]
    assert jobs.problems == []


def test_two_jobs_write_at_once(jobs: Jobs) -> None:
    """Each into files of its own; rows that both wrote are there twice, which does not matter."""
    one, other = jobs.open(), jobs.open()
    for store, numbers in ((one, (1, 2)), (other, (2, 3)), (one, (4,))):
        store.put(rows(*numbers))
    assert jobs.intact(1, 2, 3, 4) == [1, 2, 3, 4]
    one.close()
    other.close()
    assert len(list(jobs.root.glob("k/*.rows"))) == 2


def test_a_damaged_row_is_not_used(jobs: Jobs) -> None:
    """It is said once, at the end, and the next job's row takes its place."""
    jobs.write(1, 2, 3)
    path = jobs.file("rows")
    content = bytearray(path.read_bytes())
    content[10] ^= 1  # in row 2
    path.write_bytes(content)
    assert jobs.intact(1, 2, 3) == [1, 3] or jobs.intact(1, 2, 3) == [2, 3]
    assert jobs.problems and all("1 kept results were damaged" in problem for problem in jobs.problems)
    jobs.write(1, 2)
    assert jobs.intact(1, 2, 3) == [1, 2, 3]


@pytest.mark.parametrize("left", range(0, 30, 3))
def test_rows_cut_short(jobs: Jobs, left: int) -> None:
    """A crash while writing, at any byte: whole rows are found, and no other."""
    jobs.write(1, 2, 3)
    path = jobs.file("rows")
    with path.open("r+b") as file:
        file.truncate(left)
    ends = {1: 9, 2: 19, 3: 30}
    assert jobs.intact(1, 2, 3) == [number for number, end in ends.items() if end <= left]


@pytest.mark.parametrize("left", [0, 1, 79, 80, 200])
def test_an_index_cut_short(jobs: Jobs, left: int) -> None:
    """A record that is not whole does not count."""
    jobs.write(1, 2, 3)
    with jobs.file("index").open("r+b") as file:
        file.truncate(left)
    assert jobs.intact(1, 2, 3) == [1, 2, 3][: left // RECORD.itemsize]


@pytest.mark.parametrize("at", range(0, 80, 7))
def test_a_damaged_record(jobs: Jobs, at: int) -> None:
    """Whichever field it is in: the row is as good as not there."""
    jobs.write(1, 2)
    path = jobs.file("index")
    content = bytearray(path.read_bytes())
    content[at] ^= 0x81
    path.write_bytes(content)
    assert jobs.intact(1, 2) == [2]


def test_rows_of_another_prefix_under_this_key(jobs: Jobs) -> None:
    """Files that were put into the wrong folder: their checksums hold the key that they were written for."""
    jobs.write(1, key="other")
    shutil.copytree(jobs.root / "other", jobs.root / "k")
    assert jobs.intact(1) == []
    assert jobs.intact(1, key="other") == [1]


def test_a_row_of_another_example(jobs: Jobs) -> None:
    """A record that was given another address does not match its checksum."""
    jobs.write(1, 2)
    path = jobs.file("index")
    content = bytearray(path.read_bytes())
    content[:32] = address(7)
    path.write_bytes(content)
    store = jobs.open()
    assert store.get(address(7), 9) is None
    assert store.damaged == 1
    store.close()


def test_another_size_than_the_row_has(jobs: Jobs) -> None:
    """Of the same example, as a model of another width would have it."""
    jobs.write(1)
    store = jobs.open()
    assert [store.get(address(1), size) for size in (0, 8, 10)] == [None, None, None]
    store.close()


def test_a_full_disk(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows until then are found; nothing more is written, which is said once."""
    store = jobs.open()
    store.put(rows(1))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        store.put(rows(2))
    store.put(rows(3))
    store.close()
    assert jobs.problems == ["results are not kept for other jobs: No space left on device"]
    assert jobs.intact(1, 2, 3) == [1]


def test_a_disk_that_is_nearly_full(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints need what is left."""
    monkeypatch.setattr(row_store, "SPARE_BYTES", 1 << 60)
    jobs.write(1)
    assert jobs.problems == ["results are not kept for other jobs: the disk is nearly full"]


def test_the_room_of_a_job(jobs: Jobs) -> None:
    """What would go beyond it is not written."""
    store = jobs.open(room=200)
    for numbers in ((1,), (2,), (3,)):
        store.put(rows(*numbers))
    store.close()
    assert jobs.intact(1, 2, 3) == [1, 2]
    assert jobs.problems == ["results are not kept for other jobs: the folder's limit is reached"]


def test_a_folder_that_is_gone(jobs: Jobs) -> None:
    """Before a job, and while one uses it: what was open is read on."""
    jobs.write(1)
    store = jobs.open()
    shutil.rmtree(jobs.root)
    assert store.get(address(1), 9) == b"\1" * 9
    store.put(rows(2))
    store.close()
    assert jobs.problems == ["results are not kept for other jobs: No such file or directory"]
    assert jobs.intact(1, 2) == []


def test_a_folder_that_cannot_be_written(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in it is used; that nothing is added is said once. (Root may write anywhere, so the kernel stands in.)"""
    jobs.write(1)
    opened = os.open

    def read_only(path: object, flags: int, *rest: object, **others: object) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opened(path, flags, *rest, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", read_only)
    store = jobs.open()
    assert store.get(address(1), 9) == b"\1" * 9
    store.put(rows(2))
    store.put(rows(3))
    store.close()
    assert jobs.problems == ["results are not kept for other jobs: Read-only file system"]


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_is_no_file_is_not_opened(jobs: Jobs, kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A pipe would be waited for without end, and a link may lead anywhere."""
    jobs.write(1)
    path = jobs.root / "k" / "x.index"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(jobs.file("index"))
    else:
        path.mkdir()
    assert jobs.intact(1) == [1]
    assert len(jobs.problems) == 1


def test_its_use_is_marked(jobs: Jobs) -> None:
    """So that the worker removes what was used least recently."""
    jobs.write(1)
    os.utime(jobs.root / "k", (0, 0))
    jobs.open().close()
    assert (jobs.root / "k").stat().st_mtime > 1
