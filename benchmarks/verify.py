"""`permafrost verify` of a 1 GB model against `model_signing verify` of the same files, as processes; and its memory.

`make setup` installs the peer, in an environment of its own.
"""

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from app.evidence.format.digest import FileReading, TensorReading, read_file, sha256_file
from app.evidence.format.envelope import seal
from app.evidence.format.keys import generate
from app.evidence.format.modelsig import model_sig
from app.evidence.format.statement import FileRef, Reading, Row, build
from benchmarks.claims import claim_of
from benchmarks.figure import Figure
from benchmarks.stand_in import folder, write_model
from tools import peers

MEGABYTES, SMALL = 1_000, 100
RUNS = 5
WEIGHTS = "model.safetensors"
MEASURE = """
import json, resource, subprocess, sys, time
began = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
seconds = time.perf_counter() - began
print(json.dumps([done.returncode, seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, done.stdout]))
"""
PEER = "model_signing verify, SHA-256"


@dataclass(frozen=True)
class Cost:
    seconds: float
    peak_megabytes: float


def figures() -> Iterable[Figure]:
    with folder() as place:
        large, small = signed(place / "large", MEGABYTES), signed(place / "small", SMALL)
        theirs, default, whole = costs(peer_of(large), ours(large), ours(large, "--whole"))
        yield Figure("permafrost verify", default.seconds, "s", f"{theirs.seconds:.2f} s: {PEER}, {MEGABYTES} MB")
        yield Figure("as fast as the peer", theirs.seconds / default.seconds, "x", "at least 2 of model_signing")
        yield Figure("permafrost verify --whole", whole.seconds, "s", f"{theirs.seconds:.2f} s: {PEER}")
        yield Figure("--whole, as fast as the peer", theirs.seconds / whole.seconds, "x", "1: SHA-256 is serial")
        less = costs(ours(small))[0].peak_megabytes
        bound = f"{less:.0f} MB at {SMALL} MB; the peer {theirs.peak_megabytes:.0f} MB at {MEGABYTES} MB"
        yield Figure(f"memory at its peak, {MEGABYTES} MB", default.peak_megabytes, "MB", bound)


def signed(place: Path, megabytes: int) -> Path:
    """A result whose tensors all are the base's but one, its attestation, the peer's signature, and the key of both."""
    result, key = place / "result", generate("ecdsa-p256")
    result.mkdir(parents=True)
    write_model(result / WEIGHTS, megabytes=megabytes)
    (result / "config.json").write_text("{}")
    weights = read_file(result / WEIGHTS)
    config = FileRef("config.json", 2, sha256_file(result / "config.json"))
    files = (config, FileRef(WEIGHTS, weights.size, weights.sha256))
    claim = claim_of(rows(weights), {"train": ["layers.0.**"]}, base_files=files, result_files=files)
    (place / "attestation.json").write_text(json.dumps(seal(build(claim), [key])))
    (place / "key.pub").write_text(key.public_pem)
    (place / "model.sig").write_text(json.dumps(model_sig(files, key, name="stand-in")))
    return place


def rows(weights: FileReading) -> Iterable[Row]:
    for each in weights.tensors:
        reading, trains = form(each), each.name.startswith("layers.0.")
        rule, mechanism = ("rule-1", None) if trains else ("default", "requires_grad")
        role = "trainable" if trains else "frozen"
        yield Row(
            name=each.name, role=role, rule=rule, mechanism=mechanism, base=reading, result=reading, changed=False
        )


def form(each: TensorReading) -> Reading:
    return Reading(each.name, each.dtype, each.shape, each.nbytes, each.sha256)


def ours(place: Path, *options: str) -> list[str]:
    command = [sys.executable, "-m", "app.cli.main", "verify", str(place / "attestation.json")]
    return [*command, "--key", str(place / "key.pub"), "--result", str(place / "result"), *options]


def peer_of(place: Path) -> list[str]:
    command = [str(peers.command("model-signing")), "verify", "key", "--signature", str(place / "model.sig")]
    return [*command, "--public_key", str(place / "key.pub"), str(place / "result")]


def costs(*commands: list[str]) -> list[Cost]:
    """Of the fastest run of each, one after the other in every round; the files are in the page cache by then."""
    rounds = [[run(command) for command in commands] for _ in range(RUNS)]
    return [min(each, key=lambda cost: cost.seconds) for each in zip(*rounds, strict=True)]


def run(command: list[str]) -> Cost:
    """Measured by a small process in between: a child's peak begins with that of the process that forked it."""
    done = subprocess.run([sys.executable, "-c", MEASURE, *command], capture_output=True, text=True, check=True)
    status, seconds, kilobytes, said = json.loads(done.stdout)
    if status != 0:
        raise RuntimeError(f"{command[:4]} failed: {said}")
    return Cost(seconds, kilobytes / 1e3)
