"""docs/api.md says what is so: its programs run, its parameters and settings are the service's own."""

import re
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from openai import OpenAI

from app.settings import Settings
from tests.app.jobs.test_sdk import create, run_to_the_end

PAGE = (Path(__file__).parents[3] / "docs" / "api.md").read_text("utf-8")


def test_its_programs_run(socket_url: str, embedded: FastAPI, capsys: pytest.CaptureFixture[str]) -> None:
    """Polling and streaming as written, on a job that has ended."""
    _, *programs = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    with OpenAI(base_url=f"{socket_url}/v1", api_key="none") as client:
        job = create(client)
        run_to_the_end(embedded.state.backends.database)
        for program in programs:
            exec(compile(program, "docs/api.md", "exec"), {"client": client, "job": job})
    assert len(programs) == 2
    assert "Job succeeded" in capsys.readouterr().out


def test_what_it_names_is_there(embedded: FastAPI) -> None:
    """Fields of a job, query parameters, settings."""
    document: Any = embedded.openapi()
    fields = re.findall(r"^\| (`.+?`[^|]*) \|", PAGE.partition("**States.**")[0], re.MULTILINE)
    named = {name for cell in fields for name in re.findall(r"`(\w+)`", cell)}
    assert named <= set(document["components"]["schemas"]["JobCreate"]["properties"])
    assert len(named) > 12
    settings = {f"PERMAFROST_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"PERMAFROST_\w+", PAGE)) <= settings
    for path, parameters in {
        "": {"status", "model", "tag", "created_after", "created_before", "after", "limit", "order"},
        "/{fine_tuning_job_id}/logs": {"after", "limit", "tail", "attempt", "format", "stream"},
        "/{fine_tuning_job_id}/metrics": {"split", "from_step", "to_step", "limit", "after", "stream"},
    }.items():
        operation = document["paths"][f"/v1/fine_tuning/jobs{path}"]["get"]
        assert parameters <= {each["name"] for each in operation["parameters"]}
        assert all(f"`{name}`" in PAGE or f"{name}=" in PAGE for name in parameters)
