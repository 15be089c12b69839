import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.evidence.format import digest
from app.evidence.format.digest import read_file, row_bytes, sha256_bytes, sha256_file
from app.evidence.format.tensorfile import TensorEntry, TensorFileError, header_bytes
from tests.app.evidence import strategies


def write(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> Path:
    entries, at = [], 0
    for name, (dtype, shape, data) in tensors.items():
        entries.append(TensorEntry(name, dtype, shape, at, at + len(data)))
        at += len(data)
    path.write_bytes(header_bytes(entries) + b"".join(data for _, _, data in tensors.values()))
    return path


@settings(max_examples=40)
@given(st.dictionaries(strategies.names, strategies.tensors(), max_size=5), st.sampled_from([16, 24, 64]))
def test_one_pass_gives_every_digest(tensors: dict[str, tuple[str, tuple[int, ...], bytes]], chunk: int) -> None:
    """File and tensors have the digests that hashlib gives them one by one, wherever chunks end."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(digest, "CHUNK", chunk)  # so small that the threads and their ring are used
        path = write(Path(folder) / "m.safetensors", tensors)
        read = read_file(path)
        assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert {tensor.name: tensor.sha256 for tensor in read.tensors} == {
        name: sha256_bytes(data) for name, (_, _, data) in tensors.items()
    }
    assert {(t.name, t.dtype, t.shape, t.nbytes) for t in read.tensors} == {
        (name, dtype, shape, len(data)) for name, (dtype, shape, data) in tensors.items()
    }


def test_a_file_of_many_chunks(tmp_path: Path) -> None:
    """Tensors larger and smaller than a chunk; offsets point at their bytes."""
    sizes = [3 * digest.CHUNK + 5, 1, 7, 2 * digest.CHUNK, 0, digest.CHUNK - 1]
    tensors = {f"t{n}": ("U8", (size,), os.urandom(size)) for n, size in enumerate(sizes)}
    path = write(tmp_path / "m.safetensors", tensors)  # type: ignore[arg-type]
    read, raw = read_file(path), path.read_bytes()
    assert (read.name, read.size, read.sha256) == ("m.safetensors", len(raw), hashlib.sha256(raw).hexdigest())
    assert read.sha256 == sha256_file(path)
    for tensor in read.tensors:
        data = raw[tensor.offset : tensor.offset + tensor.nbytes]
        assert data == tensors[tensor.name][2]
        assert tensor.sha256 == sha256_bytes(data)


def test_tensors_alone(tmp_path: Path) -> None:
    """Without the file's own digest the tensors have the same ones, and the header's is there."""
    sizes = [2 * digest.CHUNK + 5, 1, 0, digest.CHUNK]
    tensors = {f"t{n}": ("U8", (size,), os.urandom(size)) for n, size in enumerate(sizes)}
    path = write(tmp_path / "m.safetensors", tensors)  # type: ignore[arg-type]
    whole, parts = read_file(path, rows={"t0": [(1, 9)]}), read_file(path, rows={"t0": [(1, 9)]}, whole=False)
    assert parts.tensors == whole.tensors
    assert parts.sha256 == ""
    assert parts.header == whole.header == sha256_bytes(path.read_bytes()[: whole.tensors[0].offset])


def test_rows_have_digests_of_their_own(tmp_path: Path) -> None:
    """Row ranges may touch, overlap and cover everything."""
    data = os.urandom(6 * 8)
    path = write(tmp_path / "m.safetensors", {"w": ("F32", (6, 2), data), "v": ("U8", (3,), b"abc")})
    read = read_file(path, rows={"w": [(0, 6), (1, 3), (2, 4), (5, 6)], "other": [(0, 1)]})
    slices = {tensor.name: tensor.slices for tensor in read.tensors}
    assert {(s.start, s.stop): s.sha256 for s in slices["w"]} == {
        (a, b): sha256_bytes(data[8 * a : 8 * b]) for a, b in [(0, 6), (1, 3), (2, 4), (5, 6)]
    }
    assert slices["v"] == ()


@pytest.mark.parametrize("rows", [(0, 7), (3, 3), (4, 2), (-1, 2)])
def test_rows_that_are_not_there(rows: tuple[int, int], tmp_path: Path) -> None:
    """The error names the tensor and its shape."""
    path = write(tmp_path / "m.safetensors", {"w": ("F32", (6, 2), bytes(48))})
    with pytest.raises(TensorFileError, match=r"'w' of shape \[6, 2\]"):
        read_file(path, rows={"w": [rows]})


def test_rows_of_whole_bytes() -> None:
    """Scalars and packed rows have none."""
    assert row_bytes((4, 3), 24) == 6
    for shape, nbytes in (((), 4), ((0, 4), 0), ((2,), 1)):
        with pytest.raises(TensorFileError):
            row_bytes(shape, nbytes)


def test_a_row_digest_is_what_sha256sum_gives(tmp_path: Path) -> None:
    """Somebody with a shell and no Python finds the same digest with tail and head."""
    if not shutil.which("sha256sum"):
        pytest.skip("this machine has no sha256sum")
    path = write(tmp_path / "m.safetensors", {"a": ("U8", (5,), b"12345"), "b": ("U8", (4,), b"6789")})
    for tensor in read_file(path).tensors:
        command = f"tail -c +{tensor.offset + 1} {path} | head -c {tensor.nbytes} | sha256sum"
        printed = subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout
        assert printed.split()[0] == tensor.sha256


def test_links_only_where_they_are_wanted(tmp_path: Path) -> None:
    """A base in a model cache is a link; a trainer's output must not be one."""
    path = write(tmp_path / "m.safetensors", {"a": ("U8", (1,), b"1")})
    link = tmp_path / "link.safetensors"
    link.symlink_to(path)
    assert read_file(link).sha256 == read_file(path).sha256
    for read in (read_file, sha256_file):
        with pytest.raises(TensorFileError, match="symbolic link"):
            read(link, follow_symlinks=False)


def test_only_regular_files(tmp_path: Path) -> None:
    """A pipe does not block the reader, and a folder is no file."""
    os.mkfifo(tmp_path / "pipe.safetensors")
    for path in (tmp_path / "pipe.safetensors", tmp_path):
        with pytest.raises(TensorFileError, match="not a regular file"):
            read_file(path)


@pytest.mark.parametrize("harm", ["shorten", "overwrite"])
def test_a_file_that_changes_while_it_is_read(harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read again as it then is, and never half of each; an mmap would have died of SIGBUS."""
    path = write(tmp_path / "m.safetensors", {"a": ("U8", (4 * digest.CHUNK,), bytes(4 * digest.CHUNK))})
    real, once = os.preadv, threading.Event()

    def preadv(file: int, buffers: list[memoryview], at: int) -> int:
        if not once.is_set() and len(buffers[0]) == digest.CHUNK:
            once.set()
            if harm == "shorten":
                os.truncate(path, digest.CHUNK)
            else:
                with path.open("r+b") as other:
                    other.seek(-1, os.SEEK_END)
                    other.write(b"\1")
                os.utime(path, ns=(1, 1))
        return real(file, buffers, at)

    monkeypatch.setattr(os, "preadv", preadv)
    if harm == "shorten":
        with pytest.raises(TensorFileError):
            read_file(path)
    else:
        assert read_file(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert once.is_set()


@pytest.mark.parametrize("slow", [(0.002, 0.0), (0.0, 0.002), (0.001, 0.001)])
def test_each_hash_sees_every_chunk_in_order(
    slow: tuple[float, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the two is slower, and wherever the data begins; a buffer is not filled again before both had it."""
    monkeypatch.setattr(digest, "CHUNK", 64)
    content = os.urandom(64 * 40 + 17)
    (tmp_path / "file").write_bytes(content)
    seen: tuple[list[bytes], list[bytes]] = ([], [])

    def take(who: int, at: int, chunk: memoryview) -> None:
        time.sleep(slow[who])
        assert at == 23 + sum(map(len, seen[who]))
        seen[who].append(bytes(chunk))

    with (tmp_path / "file").open("rb") as file, ThreadPoolExecutor(2) as pool:
        ring = digest._Buffers(file.fileno(), start=23, size=len(content))
        for done in [pool.submit(ring.pass_to, who, partial(take, who)) for who in (0, 1)]:
            done.result()
    assert [b"".join(each) for each in seen] == [content[23:]] * 2


@pytest.mark.parametrize("changes", [1, 2, 3])
def test_a_file_that_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: int) -> None:
    """The digest is that of the last bytes; a file that changes during every reading is refused by name."""
    path, left, real = tmp_path / "data", [b"b", b"c", b"d"][:changes], os.readv
    path.write_bytes(b"a" * 10)

    def write_meanwhile(*arguments: object) -> int:
        count = real(*arguments)  # type: ignore[arg-type]
        if left:
            path.write_bytes(left.pop(0) * 11)
        return count

    monkeypatch.setattr(os, "readv", write_meanwhile)
    if changes < 3:
        assert digest.sha256_file(path) == digest.sha256_bytes(path.read_bytes())
    else:
        with pytest.raises(digest.FileChanged, match="data changed while it was read"):
            digest.sha256_file(path)
