"""`permafrost files` against a running service."""

import json
from pathlib import Path

from tests.app.cli.commands import Command
from tests.app.conftest import rows


def test_files_go_up_and_down(permafrost: Command, socket_url: str, tmp_path: Path) -> None:
    """Put prints ids, list shows them, get gives the same bytes, rm deletes."""
    content = "\n".join(map(json.dumps, rows())).encode()
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_bytes(content)
    assert "permafrost files put" in permafrost("files", "list", PERMAFROST_SERVER=socket_url).stderr
    paths = [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl")]
    first, second = permafrost("files", "put", *paths, PERMAFROST_SERVER=socket_url).stdout.split()

    lines = permafrost("files", "list", PERMAFROST_SERVER=socket_url).stdout.splitlines()
    assert lines[0].split() == ["FILE", "NAME", "SIZE", "PURPOSE", "AGE"]
    assert [line.split()[:2] for line in lines[1:]] == [[second, "b.jsonl"], [first, "a.jsonl"]]
    out = tmp_path / "out.jsonl"
    assert permafrost("files", "get", first, "-o", str(out), PERMAFROST_SERVER=socket_url).returncode == 0
    assert out.read_bytes() == content
    assert permafrost("files", "get", first, PERMAFROST_SERVER=socket_url).stdout.encode() == content
    gone = permafrost("files", "rm", first, second, PERMAFROST_SERVER=socket_url).stdout
    assert gone.splitlines() == [f"{first} deleted", f"{second} deleted"]


def test_a_file_that_is_not_there_leaves_nothing(permafrost: Command, socket_url: str, tmp_path: Path) -> None:
    """Neither a file nor a half of one; the command that lists files is named."""
    out = tmp_path / "out"
    done = permafrost("files", "get", "file-none", "-o", str(out), PERMAFROST_SERVER=socket_url)
    assert done.returncode == 1
    assert "permafrost files list" in done.stderr
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "data"])
