"""What a command says when the service refuses, and how it reads lists."""

import httpx2
import pytest

from app.cli.service import checked, connect, next_step


@pytest.mark.parametrize(
    ("code", "param", "command"),
    [
        ("model_not_found", "model", "permafrost models list"),
        ("invalid_freeze_policy", "freeze_policy.rules[0]", "permafrost preview"),
        ("invalid_api_key", None, "PERMAFROST_API_KEY"),
        ("not_found", "file_id", "permafrost files list"),
        ("not_found", "fine_tuning_job_id", "permafrost jobs"),
    ],
)
def test_a_refusal_names_the_next_command(code: str, param: str | None, command: str) -> None:
    """By the code, or else by what was wrong."""
    assert command in (next_step({"code": code, "param": param, "message": "x"}) or "")


def test_another_program_is_not_taken_for_the_service() -> None:
    """An answer without our envelope says so."""
    answer = httpx2.Response(404, text="<html>", request=httpx2.Request("GET", "http://h/v1/x"))
    with pytest.raises(SystemExit, match="not a Permafrost service"):
        checked(answer)
    assert next_step({"code": "x", "param": None, "message": ""}) is None


def test_the_address_is_the_services(monkeypatch: pytest.MonkeyPatch) -> None:
    """With or without /v1, and with the key of the environment."""
    monkeypatch.setenv("PERMAFROST_API_KEY", "pf_x")
    for server in ("http://h:1", "http://h:1/", "http://h:1/v1"):
        with connect(server) as client:
            assert (str(client.base_url), client.headers["authorization"]) == ("http://h:1/v1/", "Bearer pf_x")
