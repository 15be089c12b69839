"""A service that asks for keys, as it is started and used: commands, processes, the SDK, a receiver."""

import os
import subprocess
import sys
from pathlib import Path

import openai
import pytest
from openai import OpenAI

from tests.app.webhooks.receiver import receiver
from tests.end_to_end.conftest import ROOT, Running
from tests.patience import PATIENCE
from tests.servers import free_port

pytestmark = pytest.mark.slow

MODEL = {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 2, "out_features": 1}}
EXAMPLES = b"".join(b'{"x": [%d, 1], "y": %d}\n' % (n, 2 * n) for n in range(8))


def permafrost(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PERMAFROST_")}
    command = [sys.executable, "-m", "app.cli.main", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=inherited | environment, capture_output=True, text=True, check=False, timeout=PATIENCE
    )


def test_from_the_first_key_to_a_signed_event(tmp_path: Path) -> None:
    """No key, no service; with one, the SDK runs a job, and its end arrives signed at a receiver."""
    port = free_port()
    environment = {
        "PERMAFROST_DATA_DIR": str(tmp_path / "data"),
        "PERMAFROST_PORT": str(port),
        "PERMAFROST_AUTH": "required",
        "PERMAFROST_DEVICES": "cpu",
        "PERMAFROST_WEBHOOK_ALLOW": "127.0.0.1/32",
        "OMP_NUM_THREADS": "1",
    }
    refused = permafrost(environment, "serve")
    assert refused.returncode != 0 and "permafrost keys create" in refused.stderr
    assert "Traceback" not in refused.stderr and "worker" not in refused.stdout
    key = permafrost(environment, "keys", "create", "--role", "admin", "--name", "first").stdout.strip()
    service = Running(["app.cli.main", "serve"], environment)
    try:
        service.says("permafrost ready")
        with receiver() as there, OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key) as sdk:
            with pytest.raises(openai.AuthenticationError):
                sdk.with_options(api_key="pf_wrong").files.list()
            types = ["fine_tuning.job.succeeded", "fine_tuning.job.failed"]
            hook = sdk.webhooks.create(name="end to end", url=there.url, event_types=types)  # type: ignore[arg-type]
            file = sdk.files.create(file=("train.jsonl", EXAMPLES), purpose="fine-tune")
            extra = {"freeze_policy": {"freeze": ["weight"]}, "model": MODEL}
            job = sdk.fine_tuning.jobs.create(model="affine", training_file=file.id, extra_body=extra)
            assert there.arrived.acquire(timeout=PATIENCE), "\n".join(service.lines[-40:])
            got = there.received[0]
            event = sdk.webhooks.unwrap(got.body, got.headers, secret=hook.signing_secret)
            assert (event.type, event.data.id) == ("fine_tuning.job.succeeded", job.id)
            assert sdk.fine_tuning.jobs.retrieve(job.id).status == "succeeded"
    finally:
        code = service.stop()
    assert code == 0, "\n".join(service.lines[-40:])
    listed = permafrost(environment, "keys", "list").stdout
    assert key[:11] in listed and "never" not in listed, "its use was noted"
    assert not any(key[12:] in line for line in service.lines)
