"""Every request leaves one log line and is counted."""

import json

import pytest
from starlette.testclient import TestClient


def test_made_up_methods_share_a_counter(client: TestClient) -> None:
    """Any word can stand for a method: fifty of them add no more than one to what is counted."""
    for number in range(50):
        assert client.request(f"WORD{number}", "files").status_code == 405
    counted = client.get("http://testserver/metrics").text
    assert 'method="other"' in counted
    assert "WORD" not in counted


def test_a_line_says_what_was_asked_and_how_it_ended(client: TestClient, capsys: pytest.CaptureFixture[str]) -> None:
    """Method as sent, path, status, and the id that the response carries."""
    responses = [client.head("files"), client.get("files/file-none"), client.put("files")]
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert [(line["method"], line["path"], line["status"]) for line in requests] == [
        ("HEAD", "/v1/files", 200),
        ("GET", "/v1/files/file-none", 404),
        ("PUT", "/v1/files", 405),
    ]
    assert [line["request_id"] for line in requests] == [each.headers["x-request-id"] for each in responses]
