"""`permafrost files put` with large files: in parts, and on from where it was cut off."""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner

from app.cli import uploads
from app.cli.commands import make_app

CONTENT = bytes(range(250)) * 40


@pytest.fixture
def in_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "PART", 1_000)
    monkeypatch.setattr(uploads, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr("app.cli.files.IN_PARTS_FROM", 1_000)


def put(url: str, *arguments: str) -> Any:
    return CliRunner().invoke(make_app(), ["files", "put", *arguments, "--server", url])


@pytest.mark.usefixtures("in_small_parts")
def test_a_large_file_goes_in_parts(socket_url: str, tmp_path: Path) -> None:
    """The result is a file as any other."""
    path = tmp_path / "data.bin"
    path.write_bytes(CONTENT)
    done = put(socket_url, str(path), "--purpose", "user_data", "--json")
    assert done.exit_code == 0, done.output
    (file,) = json.loads(done.stdout)
    assert (file["filename"], file["bytes"]) == ("data.bin", len(CONTENT))
    with httpx2.Client(base_url=socket_url) as client:
        assert client.get(f"/v1/files/{file['id']}/content").content == CONTENT


@pytest.mark.usefixtures("in_small_parts")
def test_after_a_cut_only_the_rest_is_sent(socket_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that fails for a moment is tried again; one that fails for good leaves the command that goes on."""
    path = tmp_path / "data.bin"
    path.write_bytes(b"".join(bytes([at]) * 1_000 for at in range(10)))
    sent: list[str] = []
    broken: set[int] = {3, 6, 7, 8}
    post = httpx2.Client.post

    def failing(client: httpx2.Client, url: str, **content: Any) -> httpx2.Response:
        if url.endswith("/parts"):
            sent.append(url)
            if len(sent) in broken:
                raise httpx2.ConnectError("cut")
        return post(client, url, **content)

    monkeypatch.setattr(httpx2.Client, "post", failing)
    monkeypatch.setattr("app.cli.uploads.AT_ONCE", 1)  # so that it is known which part is which request
    cut = put(socket_url, str(path))
    assert cut.exit_code != 0 and len(sent) == 8
    command = next(line for line in cut.stderr.splitlines() if line.startswith("to go on"))
    upload = command.rpartition(" ")[2]

    sent.clear()
    broken.clear()
    done = put(socket_url, str(path), "--upload", upload)
    assert done.exit_code == 0 and done.stdout.startswith("file-"), done.output
    assert len(sent) == 6  # four had arrived

    again = put(socket_url, str(path), "--upload", upload)
    assert again.stdout == done.stdout


@pytest.mark.usefixtures("in_small_parts")
def test_a_file_of_equal_parts_goes_on(socket_url: str, tmp_path: Path) -> None:
    """One part that has arrived stands for one place in the file, not for every place with its bytes."""
    path = tmp_path / "data.bin"
    path.write_bytes(bytes(3_000))
    wanted = {"filename": "data.bin", "purpose": "user_data", "bytes": 3_000, "mime_type": "text/plain"}
    with httpx2.Client(base_url=socket_url) as client:
        upload = client.post("/v1/uploads", json=wanted).json()["id"]
        client.post(f"/v1/uploads/{upload}/parts", files={"data": ("part", bytes(1_000))})
    done = put(socket_url, str(path), "--upload", upload)
    assert done.exit_code == 0 and done.stdout.startswith("file-"), done.output


@pytest.mark.usefixtures("in_small_parts")
def test_another_file_cannot_go_on_with_it(socket_url: str, tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(CONTENT)
    wanted = {"filename": "a", "purpose": "user_data", "bytes": 7, "mime_type": "text/plain"}
    with httpx2.Client(base_url=socket_url) as client:
        upload = client.post("/v1/uploads", json=wanted).json()["id"]
    refused = put(socket_url, str(path), "--upload", upload)
    assert refused.exit_code == 1 and "was begun for 7" in str(refused.exception) + refused.output
    both = put(socket_url, str(path), str(path), "--upload", upload)
    assert both.exit_code == 2 and "--upload" in both.output
