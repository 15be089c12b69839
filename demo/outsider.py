"""Part c: someone who trusts neither trainer nor service checks the files with a key and the base model."""

import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

from demo.screen import Check, console, part
from demo.service import PERMAFROST, Service

FROZEN_TENSOR = "bert.embeddings.word_embeddings.weight"


def run(service: Service, job: dict[str, Any], *, base: Path) -> list[Check]:
    part(
        "c",
        "An outsider checks it",
        "Needs the result's files, the signed attestation, a public key and the base model; not the service.",
    )
    folder = service.home / "outsider"
    collect(service, job, folder)
    honest = verify(folder / "result", folder=folder, base=base)
    console.print("\n  [dim]The same with one bit of one frozen weight flipped:[/]")
    flip_a_bit(folder / "result", folder / "tampered")
    tampered = verify(folder / "tampered", folder=folder, base=base)
    return [
        Check("permafrost verify accepts the result against the base model (exit code 0)", honest == 0),
        Check("permafrost verify rejects a single flipped bit (exit code 1)", tampered == 1),
    ]


def collect(service: Service, job: dict[str, Any], folder: Path) -> None:
    """Downloads what an outsider is given."""
    (folder / "result").mkdir(parents=True)
    model = service.get(f"/v1/models/{job['fine_tuned_model']}")
    for file in model["files"]:
        service.download(f"/v1/models/{model['id']}/files/{file['name']}", folder / "result" / file["name"])
        console.print(f"  [green]✓[/] {file['name']} [dim]{file['size']:,} bytes[/]")
    attestation = service.read(f"/v1/fine_tuning/jobs/{job['id']}/attestation")
    (folder / "attestation.json").write_bytes(attestation)
    (folder / "key.pub").write_text(public_key(service))
    console.print(f"  [green]✓[/] attestation.json [dim]{len(attestation):,} bytes[/], key.pub\n")


def public_key(service: Service) -> str:
    return str(service.get("/v1/signing_keys")["data"][0]["public_key"])


def verify(result: Path, *, folder: Path, base: Path) -> int:
    """Runs the command as an outsider would, shows it, and returns its exit code."""
    arguments: list[str | Path] = [
        "verify",
        folder / "attestation.json",
        "--key",
        folder / "key.pub",
        "--result",
        result,
        "--base",
        base,
    ]
    shown = [str(short(each)) for each in arguments]
    console.print(f"  [bold]$ {shlex.join(['permafrost', *shown])}[/]", soft_wrap=True)
    done = subprocess.run([PERMAFROST, *map(str, arguments)], capture_output=True, text=True, check=False)
    for line in (done.stdout + done.stderr).strip().splitlines():
        console.print(f"    {line}", markup=False, soft_wrap=True)
    console.print(f"    [dim]exit code {done.returncode}[/]")
    return done.returncode


def flip_a_bit(result: Path, copy: Path) -> None:
    """Copies the result and flips the lowest bit of the middle byte of a frozen tensor."""
    from safetensors import safe_open

    shutil.copytree(result, copy)
    file = copy / "model.safetensors"
    with safe_open(file, framework="numpy") as tensors:
        wanted = tensors.get_tensor(FROZEN_TENSOR).tobytes()
    data = bytearray(file.read_bytes())
    data[data.index(wanted) + len(wanted) // 2] ^= 1
    file.write_bytes(data)


def short(path: str | Path) -> str | Path:
    """Relative to the working folder where it lies below it."""
    if isinstance(path, Path) and path.is_relative_to(Path.cwd()):
        return path.relative_to(Path.cwd())
    return path
