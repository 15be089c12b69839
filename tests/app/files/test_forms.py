"""Multipart bodies are parsed with bounds: their headers and fields have an end."""

import tracemalloc

import pytest

from app.errors import InvalidRequest
from app.files.forms import MultipartForm
from app.storage.blobs import Storage


def test_the_headers_of_a_part_are_bounded(tmp_path) -> None:
    """A form may be gigabytes long, since its file may; what is kept of its headers may not."""
    storage = Storage(f"file://{tmp_path}/blobs")
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest, match="Maximum header size"), storage.writer() as writer:
            form = MultipartForm(b"b", writer, limit=1 << 40)
            form.feed(b"--b\r\nContent-Disposition: ")
            for _ in range(100):
                form.feed(b"a" * 100_000)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert list(storage.blobs()) == list(storage.unfinished()) == []


def test_a_part_without_end_of_fields_is_bounded(tmp_path) -> None:
    """Many fields, or a long one: refused before they add up."""
    storage = Storage(f"file://{tmp_path}/blobs")
    with pytest.raises(InvalidRequest, match="too many fields"), storage.writer() as writer:
        form = MultipartForm(b"b", writer, limit=1 << 40)
        for number in range(1000):
            form.feed(b'--b\r\nContent-Disposition: form-data; name="f%d"\r\n\r\nx\r\n' % number)
    with pytest.raises(InvalidRequest, match="is longer than"), storage.writer() as writer:
        form = MultipartForm(b"b", writer, limit=1 << 40)
        form.feed(b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n')
        for _ in range(100):
            form.feed(b"x" * 10_000)
