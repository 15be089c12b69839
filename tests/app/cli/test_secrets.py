"""`permafrost secrets`: values come by standard input, and are printed nowhere."""

import json
from typing import Any

from typer.testing import CliRunner

from app.cli.commands import make_app


def run(url: str, *arguments: str, value: str | None = None) -> Any:
    return CliRunner().invoke(make_app(), ["secrets", *arguments, "--server", url], input=value)


def test_set_list_rm(socket_url: str):
    """A token as text, keys as a JSON object."""
    done = run(socket_url, "set", "hub", "--scope", "acme", value="hf_canary\n")
    assert done.exit_code == 0 and "canary" not in done.output, done.output
    keys = json.dumps({"access_key_id": "AKIA", "secret_access_key": "canary"})
    done = run(socket_url, "set", "bucket", "--kind", "s3", "--json", value=keys)
    assert done.exit_code == 0 and json.loads(done.stdout)["kind"] == "s3" and "canary" not in done.output
    listed = run(socket_url, "list")
    assert [line.split()[:3] for line in listed.stdout.splitlines()[1:]] == [
        ["bucket", "s3", "all"],
        ["hub", "hub", "acme"],
    ]
    assert [each["name"] for each in json.loads(run(socket_url, "list", "--json").stdout)] == ["bucket", "hub"]
    assert run(socket_url, "rm", "hub", "bucket").stdout == "hub deleted\nbucket deleted\n"
    assert "permafrost secrets set" in run(socket_url, "list").stderr


def test_unusable_values_are_explained(socket_url: str):
    """Nothing, and what begins as JSON and is not."""
    assert "standard input is empty" in run(socket_url, "set", "hub", value="").output
    broken = run(socket_url, "set", "hub", value='{"token": "canary')
    assert broken.exit_code != 0 and "is not one" in broken.output and "canary" not in broken.output
    twice = run(socket_url, "set", "bucket", "--kind", "s3", value='{"access_key_id": "canary", "access_key_id": "b"}')
    assert twice.exit_code != 0 and "'access_key_id' twice" in twice.output and "canary" not in twice.output
