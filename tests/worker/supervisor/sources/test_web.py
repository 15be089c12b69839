"""Files by http and https: redirects, cuts, refusals, bounds; against a real server on loopback."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from app.webhooks.addresses import Reach
from tests.listening import QuietHandler, listening
from worker.supervisor.sources import web
from worker.supervisor.sources.arriving import Arriving, Later, SourceRefused

LOCAL = Reach.parse("127.0.0.0/8")
DATA = bytes(range(256)) * 4_000


@dataclass
class Site:
    """What a server does with each of the next requests; then it serves DATA, with ranges."""

    answers: list[tuple[int, str]] = field(default_factory=list)  # status, and the target of a redirect
    cuts: list[int] = field(default_factory=list)
    data: bytes = DATA
    strong: bool = True
    ranges: list[str | None] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    class Handler(QuietHandler):
        def do_GET(self) -> None:
            if site.answers:
                status, target = site.answers.pop(0)
                self.send_response(status)
                self.send_header("location", target)
                self.send_header("content-length", "0")
                self.end_headers()
                return
            tag = f'"{hashlib.sha1(site.data).hexdigest()}"'
            wanted, same = self.headers.get("range"), self.headers.get("if-range") == tag
            site.ranges.append(wanted)
            since = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted and same else 0
            self.send_response(206 if since else 200)
            if since:
                self.send_header("content-range", f"bytes {since}-{len(site.data) - 1}/{len(site.data)}")
            self.send_header("etag", tag if site.strong else f"W/{tag}")
            self.send_header("content-length", str(len(site.data) - since))
            self.end_headers()
            end = since + site.cuts.pop(0) if site.cuts else len(site.data)
            self.wfile.write(site.data[since:end])
            self.close_connection = True

    with listening(Handler) as url:
        site.url = f"{url}/train.jsonl"
        yield site


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(web, "PAUSES", (0.0, 0.0))
    with serving(Site()) as served:
        yield served


def fetch(url: str, folder: Path, *, reach: Reach = LOCAL, most: int = 10**9) -> bytes:
    with Arriving(folder / "file", most) as arriving:
        web.fetch(url, arriving, reach=reach)
    return (folder / "file").read_bytes()


def test_whole_files_and_cut_ones(site: Site, tmp_path: Path) -> None:
    """After a cut only the rest is asked for, while the server still has the same bytes."""
    assert fetch(site.url, tmp_path) == DATA
    (tmp_path / "cut").mkdir()
    site.cuts, site.ranges[:] = [100_000, 300_000], []
    assert fetch(site.url, tmp_path / "cut") == DATA
    assert site.ranges == [None, "bytes=100000-", "bytes=400000-"]


def test_bytes_of_two_versions_are_never_joined(site: Site, tmp_path: Path) -> None:
    """A file that changed between two tries, and one whose versions cannot be told apart, begin anew."""
    site.cuts = [100_000, 100_000, 100_000]
    with pytest.raises(Later, match="cuts off"):
        fetch(site.url, tmp_path)
    site.data = DATA[::-1]
    assert fetch(site.url, tmp_path) == DATA[::-1]
    site.strong, site.cuts = False, [100_000]
    (tmp_path / "weak").mkdir()
    assert fetch(site.url, tmp_path / "weak") == DATA[::-1]


def test_redirects_to_inner_addresses_are_refused(site: Site, tmp_path: Path) -> None:
    """Each step is looked at; nothing is asked of the target."""
    with serving(Site()) as inner:
        for target in ("http://169.254.169.254/latest", "http://[::1]:1/x", "http://10.0.0.1/", "file:///etc/passwd"):
            site.answers = [(302, target)]
            with pytest.raises(SourceRefused) as refused:
                fetch(site.url, tmp_path)
            assert refused.value.code == "source_address_refused", target
        assert inner.ranges == []
        site.answers = [(307, inner.url)]
        assert fetch(site.url, tmp_path) == DATA
    site.answers = [(302, site.url)] * 10
    with pytest.raises(SourceRefused, match="redirects more than"):
        fetch(site.url, tmp_path)


@pytest.mark.parametrize("url", ["http://localhost:1/x", "http://127.0.0.1:1/x", "https://localhost:1/x"])
def test_names_of_inner_addresses_are_refused(tmp_path: Path, url: str) -> None:
    """By what the name resolves to."""
    with pytest.raises(SourceRefused) as refused:
        fetch(url, tmp_path, reach=Reach())
    assert refused.value.code == "source_address_refused"


def test_what_is_tried_later_and_what_is_not(site: Site, tmp_path: Path) -> None:
    """A server that is busy may answer later; one that refuses, or lacks the file, will not."""
    for status, kind, code in (
        (404, SourceRefused, "source_not_found"),
        (403, SourceRefused, "source_refused"),
        (503, Later, None),
    ):
        site.answers = [(status, "")]
        with pytest.raises(kind) as raised:
            fetch(site.url, tmp_path)
        assert getattr(raised.value, "code", None) == code
        assert site.ranges == []
    with pytest.raises(SourceRefused) as large:
        fetch(site.url, tmp_path, most=1_000)
    assert large.value.code == "file_too_large"
    with pytest.raises(Later, match="does not answer"):
        fetch("http://127.0.0.1:9/x", tmp_path)
