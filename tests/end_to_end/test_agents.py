"""`permafrost mcp` as an agent uses it: the official client, over standard input and output, against a real service."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import ROOT, Service
from tests.patience import PATIENCE

mcp = pytest.importorskip("mcp", reason="the extra mcp is not installed")

AFFINE = {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 2, "out_features": 1}}


@pytest.mark.parametrize("service", ["embedded"], indirect=True)
def test_an_agent_trains_and_verifies(service: Service, tmp_path: Path) -> None:
    """Every tool once; a refusal is an error of the tool, with words, and the server goes on."""
    lines = [json.dumps({"x": [float(n), float(n % 3)], "y": float(n)}) for n in range(8)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    url = str(service.client.base_url).removesuffix("/v1/")
    server = mcp.StdioServerParameters(
        command=sys.executable,
        args=["-P", "-m", "app.cli.main", "mcp"],
        cwd=str(ROOT),
        env={"PERMAFROST_SERVER": url, "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
    )
    asyncio.run(_session(server, service, tmp_path))


async def _session(server: Any, service: Service, folder: Path) -> None:
    async with mcp.Client(server, read_timeout_seconds=PATIENCE) as client:
        offered = (await client.list_tools()).tools
        assert [tool.name for tool in offered] == ["explain_policy", "submit", "watch", "jobs", "show", "verify"]
        assert all(tool.description for tool in offered)

        refused = await client.call_tool("explain_policy", {"model": AFFINE, "freeze_policy": {"freeze": ["wieght"]}})
        assert refused.is_error and "weight" in refused.content[0].text

        policy = {"freeze": ["weight"]}
        explained = await _answer(client, "explain_policy", model=AFFINE, freeze_policy=policy)
        assert {each["action"] for each in explained["data"]} == {"freeze", "train"}
        file = str(folder / "train.jsonl")
        before = (await _answer(client, "jobs"))["data"]
        misnamed = {"model": AFFINE, "training_file": file, "policy": policy}
        refused = await client.call_tool("submit", misnamed)
        assert refused.is_error and "policy" in refused.content[0].text
        assert all(tool.input_schema["additionalProperties"] is False for tool in offered)
        assert (await _answer(client, "jobs"))["data"] == before
        job = await _answer(client, "submit", model=AFFINE, training_file=file, freeze_policy=policy)
        while job["status"] not in ("succeeded", "failed", "cancelled"):
            job = await _answer(client, "watch", job=job["id"], seconds=20)
        assert (job["status"], job["evidence"]["verdict"]) == ("succeeded", "verified")
        assert job["id"] in [each["id"] for each in (await _answer(client, "jobs"))["data"]]
        shown = await _answer(client, "show", job=job["id"])

        _collect(service, shown, folder)
        report = await _answer(
            client,
            "verify",
            attestation=str(folder / "attestation.json"),
            key=str(folder / "keys.json"),
            result=str(folder / "result"),
            base_root=shown["evidence"]["base_root"],
        )
        assert (report["verdict"], report["level"]) == ("verified", 2)


async def _answer(client: Any, tool: str, **arguments: Any) -> Any:
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer
    return answer.structured_content


def _collect(service: Service, job: Any, folder: Path) -> None:
    attestation = service.client.get(f"fine_tuning/jobs/{job['id']}/attestation")
    (folder / "attestation.json").write_bytes(attestation.content)
    (folder / "keys.json").write_bytes(service.client.get("signing_keys").content)
    (folder / "result").mkdir()
    for file in service.get(f"models/{job['fine_tuned_model']}")["files"]:
        content = service.client.get(f"models/{job['fine_tuned_model']}/files/{file['name']}").content
        (folder / "result" / file["name"]).write_bytes(content)
