"""A file while it arrives."""

from pathlib import Path

import pytest

from worker.supervisor.sources.arriving import Arriving, Later, SourceRefused


def test_it_goes_on_with_the_same_version_alone(tmp_path: Path) -> None:
    """Bytes of another version, or of one that cannot be told apart, are not joined."""
    for version, kept in (("a", 0), ("a", 3), ("b", 0), (None, 0), (None, 0)):
        with Arriving(tmp_path / "file", 100) as file:
            assert file.begin(version) == kept, version
            file.write(b"abc")
    assert (tmp_path / "file").read_bytes() == b"abc"
    with Arriving(tmp_path / "file", 100) as file:
        file.begin("a")
        file.forget()
        assert file.known_version() is None


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many bytes are refused, also those that are only announced; too few in a minute are tried again later."""
    with Arriving(tmp_path / "file", 4) as file:
        file.begin(None)
        with pytest.raises(SourceRefused, match="PERMAFROST_MAX_UPLOAD_BYTES") as refused:
            file.refuse_large(5)
        assert refused.value.code == "file_too_large"
        with pytest.raises(SourceRefused):
            file.write(b"12345")
    clock = [0.0]
    monkeypatch.setattr("worker.supervisor.sources.arriving.time.monotonic", lambda: clock[0])
    with Arriving(tmp_path / "slow", 100) as file:
        file.begin(None)
        clock[0] = 61.0
        with pytest.raises(Later, match="within a minute"):
            file.write(b"12345")
