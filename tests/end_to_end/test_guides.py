"""The guides' commands do what the guides say, copied as they stand."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.main import create_app
from app.settings import Settings
from migrations.tables import tables
from tests.app.conftest import serve
from tests.end_to_end.conftest import ROOT, Service
from tools import peers

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
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=800, check=False
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


@pytest.mark.slow
@pytest.mark.parametrize("service", ["embedded"], indirect=True)
def test_llava_in_two_stages(service: Service, tmp_path: Path) -> None:
    """Both results are verified against their bases, the second over the first's statement."""
    from tests.worker.trainer.vision_language import chats, save

    save("llava", service.settings.models / "llava")
    for name in ("captions", "chats"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats(8)))
    script = commands(ROOT / "docs" / "vision-language.md")
    assert len(script) > 8
    where = {"SERVER": "http://127.0.0.1:8000", "MODELS_DIR": service.settings.models}
    done = run(service, [*(f"export PERMAFROST_{name}={value}" for name, value in where.items()), *script], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "projector: model.multi_modal_projector.** (4 tensors" in done.stdout
    assert done.stderr.count("succeeded, evidence verified") == 2
    assert done.stdout.count("VERIFIED, level 3") == 2


def test_a_command_that_fails_is_noticed(service: Service, tmp_path: Path) -> None:
    """So that the test above means something; and a file in a block is one command."""
    page = tmp_path / "page.md"
    page.write_text("```console\n$ cat > a <<'END'\n1\n2\nEND\n$ false\n$ touch b\n```\n")
    assert commands(page) == ["cat > a <<'END'\n1\n2\nEND", "false", "touch b"]
    assert run(service, commands(page), tmp_path).returncode == 1
    assert (tmp_path / "a").read_text() == "1\n2\n"
    assert not (tmp_path / "b").exists()


@pytest.fixture
def aliased(tmp_path: Path) -> Iterator[str]:
    """A service whose `gpt-4.1-mini*` is a local chat model."""
    settings = Settings(
        data_dir=tmp_path / "data", models_dir=tmp_path / "models", model_aliases="gpt-4.1-mini*=smollm"
    )
    application = create_app(settings)
    tables().create_all(application.state.backends.database.engine)
    folder = tmp_path / "models" / "smollm"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    with serve(application) as url:
        yield url


@pytest.mark.parametrize("sdk", ["locked", "newest"])
def test_moving_from_openai(aliased: str, sdk: str, tmp_path: Path) -> None:
    """The guide's programs run as they stand, with the locked SDK and the newest; what they export is taken along."""
    page = (ROOT / "docs" / "openai.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) == 2
    chat = {"messages": [{"role": "user", "content": "2 and 2"}, {"role": "assistant", "content": "4"}]}
    (tmp_path / "chats.jsonl").write_text("\n".join([json.dumps(chat)] * 4))
    program = "\n".join([*blocks, "import openai", "print(openai.__version__)"]).replace(
        "http://127.0.0.1:8000", aliased
    )
    environment = dict(os.environ) | ({"PYTHONPATH": str(peers.packages("openai"))} if sdk == "newest" else {})
    done = program_run(["-c", program], tmp_path, environment)
    assert done.returncode == 0, done.stderr
    job, version = done.stdout.splitlines()
    assert job == "queued gpt-4.1-mini-2025-04-14 smollm"
    newest = next(pin for pin in peers.wanted("openai").versions if pin.startswith("openai=="))
    assert (f"openai=={version}" == newest) == (sdk == "newest")

    arguments = ["-m", "app.cli.main", "import", "openai", str(tmp_path / "export")]
    looked = program_run([*arguments, "--dry-run"], ROOT, {**os.environ, "PERMAFROST_SERVER": "http://127.0.0.1:1"})
    assert looked.returncode == 0, looked.stderr
    assert json.loads(looked.stdout)["model"] == "gpt-4.1-mini-2025-04-14"
    taken = program_run([*arguments, "--submit"], ROOT, {**os.environ, "PERMAFROST_SERVER": aliased})
    assert taken.returncode == 0, taken.stderr
    assert taken.stdout.startswith("ftjob-")


def program_run(arguments: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("service", ["embedded"], indirect=True)
def test_the_tutorials_from_texts_to_an_audit(service: Service, tmp_path: Path) -> None:
    """Classify, prove and audit in one shell, as a reader would: verified, and a flipped bit is rejected."""
    pages = ("classify-texts", "prove-it", "audit")
    scripts = [commands(ROOT / "docs" / "tutorials" / f"{page}.md") for page in pages]
    assert all(scripts)
    done = run(service, [command for script in scripts for command in script], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded, evidence verified" in done.stderr
    assert "it is about: " in done.stdout
    assert done.stdout.count("VERIFIED, level 3") == 2
    assert "REJECTED" in done.stdout and "exit code 1" in done.stdout
    assert (tmp_path / "proof" / "report.html").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("service", ["embedded"], indirect=True)
def test_the_tutorial_of_adapters(service: Service, tmp_path: Path) -> None:
    """With a small model in the place of the one that the tutorial pulls."""
    from tests.worker.trainer import tiny

    tiny.llama(service.settings.models / "smollm")
    done = run(service, commands(ROOT / "docs" / "tutorials" / "lora-chat-model.md"), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "adapter_model.safetensors" in done.stdout
    assert "it says: " in done.stdout
    assert "VERIFIED, level 3" in done.stdout
