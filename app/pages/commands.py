"""The commands with which anyone checks a job's result: fetch everything, then verify it offline."""

import shlex
from collections.abc import Iterable

from app.evidence.tables import Evidence
from app.jobs.queue.tables import Job
from app.models.tables import Model


def verify(evidence: Evidence, *, rows: bool) -> str:
    """Frozen rows of a tensor need the base's files: a root binds whole tensors."""
    base = "--base BASE_FOLDER" if rows or not evidence.base_root else f"--base-root {evidence.base_root}"
    return f"permafrost verify attestation.json --key keys.json --result result {base}"


def fetch(url: str, job: Job, model: Model | None, *, with_key: bool) -> str:
    """A script for a shell with curl; the key of the API comes from its environment."""
    curl = "curl -fsS" + (""" -H "Authorization: Bearer $PERMAFROST_API_KEY\"""" if with_key else "")
    lines = [
        f"{curl} -o attestation.json {url}/v1/fine_tuning/jobs/{job.id}/attestation",
        f"{curl} -o keys.json {url}/v1/signing_keys",
    ]
    if model is not None:
        lines += _result(curl, f"{url}/v1/models/{model.id}/files", [str(file["name"]) for file in model.files])
    return "\n".join(lines)


def _result(curl: str, url: str, names: Iterable[str]) -> list[str]:
    return [
        "mkdir -p result",
        f"for file in {shlex.join(names)}; do",
        f"""  {curl} -o "result/$file" "{url}/$file\"""",
        "done",
    ]
