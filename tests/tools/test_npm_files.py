"""Files of npm packages: one exact archive each, and what cannot be had is named."""

import tarfile
import tomllib
from pathlib import Path

import pytest

from tools import npm_files
from tools.npm_files import NpmFileError, archive, file, main, member


def test_every_archive_is_exact() -> None:
    """A version, a digest, a file inside."""
    for pin in tomllib.loads(npm_files.PINS.read_text()).values():
        name, _, version = pin["package"].rpartition("@")
        assert name and version.replace(".", "").isdecimal()
        assert pin["integrity"].startswith("sha512-") and pin["file"].startswith("package/")


def test_an_unknown_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """With those that there are."""
    assert main(["spdx-scheme"]) == 1
    assert "no file 'spdx-scheme'; there are: spdx-schema" in capsys.readouterr().err


def test_another_archive_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its digest, before anything of it is read; npm's own words where it has none; a file that is not in it."""
    (tmp_path / "npm").write_text('#!/bin/sh\n[ "$2" = gone ] && { echo "404 gone" >&2; exit 1; }\ntouch a.tgz\n')
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setattr(npm_files, "BIN", tmp_path)
    with pytest.raises(NpmFileError, match="instead of sha512-AAAA"):
        archive("some@1.0.0", "sha512-AAAA", tmp_path)
    with pytest.raises(NpmFileError, match=r"(?s)gone could not be fetched.*404 gone"):
        archive("gone", "sha512-AAAA", tmp_path)
    with tarfile.open(tmp_path / "b.tgz", "w:gz"):
        pass
    with pytest.raises(NpmFileError, match=r"b\.tgz has no file package/x"):
        member(tmp_path / "b.tgz", "package/x")
    monkeypatch.setattr(npm_files, "BIN", tmp_path / "nowhere")
    with pytest.raises(NpmFileError, match="npm does not run"):
        archive("some@1.0.0", "sha512-AAAA", tmp_path)


@pytest.mark.slow
def test_it_is_fetched_once() -> None:
    """The second time from the folder."""
    try:
        found = file("spdx-schema")
    except NpmFileError as error:
        pytest.skip(f"no npm registry: {error}")
    assert file("spdx-schema") == found and b"spdx" in found.read_bytes()[:400]
