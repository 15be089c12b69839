"""Train one job with a frozen weight through the official `openai` package, and fetch its signed attestation.

    python examples/openai_sdk.py FOLDER

FOLDER receives attestation.json, keys.json and result/, which `permafrost verify` takes as they are.
"""

import json
import os
import sys
import time
from pathlib import Path

from openai import OpenAI

URL = os.environ.get("PERMAFROST_URL", "http://127.0.0.1:8000")
ROWS = [{"x": [a / 10, b / 10, 0.5, 1.0], "y": a / 10 - b / 5 + 0.25} for a in range(8) for b in range(8)]


def main(folder: Path) -> None:
    client = OpenAI(base_url=f"{URL}/v1", api_key=os.environ.get("PERMAFROST_API_KEY", "none-needed-on-loopback"))

    lines = "\n".join(json.dumps(row) for row in ROWS)
    file = client.files.create(file=("rows.jsonl", lines.encode()), purpose="fine-tune")

    # What OpenAI's API does not have travels in extra_body.
    job = client.fine_tuning.jobs.create(
        model="affine",
        training_file=file.id,
        seed=7,
        extra_body={
            "model": {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 4, "out_features": 1}},
            "freeze_policy": {"freeze": ["weight"], "mechanism": "detach"},
        },
    )
    print(f"{job.id}: {URL}/jobs/{job.id}")

    while (job := client.fine_tuning.jobs.retrieve(job.id)).status not in ("succeeded", "failed", "cancelled"):
        time.sleep(0.2)
    if job.status != "succeeded" or job.fine_tuned_model is None:
        raise SystemExit(f"{job.status}: {job.error.message if job.error else ''}")
    print(f"{job.status}, evidence {(job.model_extra or {})['evidence']['verdict']}")

    fetch(client, job.id, job.fine_tuned_model, folder)
    print(f"permafrost verify {folder}/attestation.json --key {folder}/keys.json --result {folder}/result")


def fetch(client: OpenAI, job_id: str, model: str, folder: Path) -> None:
    """Write the attestation, the signer's public keys and the result's files. `cast_to=bytes` is the answer's body."""
    (folder / "result").mkdir(parents=True, exist_ok=True)
    (folder / "attestation.json").write_bytes(client.get(f"/fine_tuning/jobs/{job_id}/attestation", cast_to=bytes))
    (folder / "keys.json").write_bytes(client.get("/signing_keys", cast_to=bytes))

    for file in (client.models.retrieve(model).model_extra or {})["files"]:
        content = client.get(f"/models/{model}/files/{file['name']}", cast_to=bytes)
        (folder / "result" / file["name"]).write_bytes(content)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "permafrost-example"))
