"""The guides' commands do what the guides say, copied as they stand."""

import os
import re
import subprocess
from pathlib import Path

from tests.end_to_end.conftest import ROOT, Service

#: A command, with the lines of a file that follows it.
COMMAND = re.compile(r"^\$ (.*<<'END'\n(?:.*\n)*?END|.*)$", re.MULTILINE)


def commands(page: Path) -> list[str]:
    """Every command of a page's `console` blocks."""
    blocks = re.findall(r"```console\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL)
    return [command for block in blocks for command in COMMAND.findall(block)]


def run(service: Service, script: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs the commands in one shell, against this service, to the first that fails."""
    url = str(service.client.base_url).removesuffix("/v1/")
    text = "\n".join(script).replace("http://127.0.0.1:8000", url)
    environment = {**os.environ, **service.environment, "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", text]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_first_job(service: Service, tmp_path: Path) -> None:
    """From a file to a result that is verified at level 2."""
    script = commands(ROOT / "docs" / "first-job.md")
    assert len(script) > 10
    done = run(service, script, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded, evidence verified" in done.stderr
    assert "VERIFIED, level 2" in done.stdout
    assert re.search(r"weight .*freeze", done.stdout)


def test_a_command_that_fails_is_noticed(service: Service, tmp_path: Path) -> None:
    """So that the test above means something; and a file in a block is one command."""
    page = tmp_path / "page.md"
    page.write_text("```console\n$ cat > a <<'END'\n1\n2\nEND\n$ false\n$ touch b\n```\n")
    assert commands(page) == ["cat > a <<'END'\n1\n2\nEND", "false", "touch b"]
    assert run(service, commands(page), tmp_path).returncode == 1
    assert (tmp_path / "a").read_text() == "1\n2\n"
    assert not (tmp_path / "b").exists()
