"""`permafrost bom` and `pack`: a job's bill of materials, and all that an auditor files about it in one folder."""

import shutil
import tempfile
from enum import Enum
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import quote

import httpx2
import typer

from app.cli.files import download
from app.cli.jobs import JobArgument
from app.cli.output import AsJson, OutputFile, print_json
from app.cli.service import Server, ask, connect
from app.jsontypes import JsonDict


class Format(Enum):
    """The formats of a bill of materials."""

    CYCLONEDX = "cyclonedx"
    SPDX = "spdx"


def bom(
    job: JobArgument,
    format: Annotated[Format, typer.Option(help="CycloneDX 1.7 (ML-BOM), or SPDX 3.0.1 (AI profile).")] = (
        Format.CYCLONEDX
    ),
    output: OutputFile = None,
    server: Server = "",
) -> None:
    """Write the bill of materials of a job's result: base, data, settings, compute, licences."""
    with connect(server) as client:
        download(client, _bom_url(job, format.value), output)


def pack(
    job: JobArgument,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", file_okay=False, help="A new folder; default: JOB."),
    ] = None,
    as_json: AsJson = False,
    server: Server = "",
) -> None:
    """Put all that an auditor files into one folder, which `permafrost verify` takes as it is.

    Attestation (with recipe and timestamp in it), public keys, bills of materials, report, result. Prints the folder.
    """
    folder = output or Path(job)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SystemExit(f"{folder} exists already; to use another folder: permafrost pack {job} --output DIR")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with connect(server) as client:
            _fill(client, ask(client, "GET", f"fine_tuning/jobs/{job}"), scratch)
        scratch.chmod(0o755)  # mkdtemp makes folders for their owner alone
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if as_json:
        print_json({"job": job, "folder": str(folder), "files": sorted(_listed(folder))})
        return
    print(folder)
    typer.echo(f"to check it: permafrost verify {folder} --key KEY --base DIR", err=True)


def _fill(client: httpx2.Client, job: JsonDict, folder: Path) -> None:
    from app.evidence.verifier import packed  # here, so that the other commands start without the verifier

    model = job["fine_tuned_model"]
    if model is None:
        raise SystemExit(f"job {job['id']} left no model to pack: it is {job['status']}")
    url = f"fine_tuning/jobs/{job['id']}"
    download(client, f"{url}/attestation", folder / packed.ATTESTATION)
    download(client, "signing_keys", folder / packed.KEYS)
    for format, name in packed.BOMS.items():
        download(client, _bom_url(job["id"], format), folder / name)
    download(client, f"{url}/report", folder / packed.REPORT)
    _result(client, model, folder / packed.RESULT)
    (folder / packed.README).write_text(README.format(job=job["id"], model=model), "utf-8")


def _result(client: httpx2.Client, model: str, folder: Path) -> None:
    url = f"models/{quote(model, safe=':')}"
    for file in ask(client, "GET", url)["files"]:
        target = folder / file["name"]
        target.parent.mkdir(parents=True, exist_ok=True)
        download(client, f"{url}/files/{quote(file['name'])}", target)


def _bom_url(job: str, format: str) -> str:
    return f"fine_tuning/jobs/{job}/bom?format={format}"


def _listed(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


README: Final = """# {job}

What was trained, on what and by what, and the proof that its frozen weights are the base model's. The result is
`{model}`.

- `attestation.json`: the signed statement about every tensor. Inside it are the recipe (what the result was made of,
  and how) and, where an authority gave one, a timestamp.
- `keys.json`: the public keys of the service that signed. Get the key by another way as well, and compare.
- `result/`: the model, exactly the files that were signed.
- `bom.cdx.json` and `bom.spdx.json`: bills of materials (CycloneDX 1.7, SPDX 3.0.1), for inventories. Not signed.
- `report.html`: verdict, freeze map and digests, for people. Not signed.

To check it, without a network, with Permafrost or with its verifier in one file, in this folder:

    permafrost verify . --key KEY --base BASE_FOLDER

KEY is the public key as you have it from elsewhere. Without `--key` that of `keys.json` is used, and the report says
so. BASE_FOLDER is the base model as you have it from elsewhere: the answer is then level 3 for any signer. Without it,
`--base-root` or `--base-registry` gives level 2. Exit status 0: verified, 1: rejected, 2: could not check.

A folder to which something was added is rejected, so keep notes beside it. With the base and the training data at hand,

    permafrost reproduce . --key KEY --base BASE_FOLDER --data FILE

trains it again and compares every bit.
"""
