"""What a trainer left, judged as the supervisor judges it: files read again, the policy resolved again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from safetensors.torch import save_file

from app.evidence.attest.observations import read_observations, rows_needed
from app.evidence.attest.verdict import JobVerdict
from app.evidence.attest.verdict import judge as judged_by
from app.evidence.format.digest import TensorReading, read_file, sha256_file
from app.evidence.format.envelope import seal
from app.evidence.format.keys import TrustedKey, generate
from app.evidence.format.modules import files_in, within
from app.evidence.format.statement import FileRef, Predicate, build
from app.evidence.verifier.context import Inputs
from app.evidence.verifier.report import VerificationReport
from app.evidence.verifier.verify import objections, verify
from app.freeze.policy import Policy
from tests.worker.trainer.attempts import Attempt


def judge(done: Attempt, *, made: Mapping[str, str] | None = None) -> JobVerdict:
    """As worker.supervisor.results does, from the workspace alone; `made` as a process without data gives it."""
    observed = done.observations
    policy = Policy.from_json(observed["plan"]["policy"])
    seen = read_observations(observed)
    base_rows, result_rows = rows_needed(seen)
    base = {each.name: each for each in read(done.place.base / "model.safetensors", base_rows)}
    for name in (name for name in files_in(done.place.base) if name.endswith(".safetensors")):
        base |= {each.name: each for each in within(read_file(done.place.base / name), name).tensors}
    changed = {each.name: each for each in read(done.place.changed, result_rows)}
    result = {}
    for name, each in done.result.items():
        found = changed[name] if each["from"] == "changed" else base[each["base_name"]]
        result[name] = TensorReading(
            name, found.dtype, found.shape, found.nbytes, found.offset, found.sha256, found.slices
        )
    kind = "adapter" if (done.place.files / "adapter_config.json").exists() else "full"
    return judged_by(
        policy, seen, base=base, result=result, reported=observed["violations"], kind=kind, made=made or {}
    )


def read(path: Path, rows: dict[str, set[tuple[int, int]]]) -> tuple[TensorReading, ...]:
    held = {each.name for each in read_file(path).tensors}
    return read_file(path, rows={name: rows[name] for name in rows if name in held}).tensors


def objections_to(done: Attempt, judged: JobVerdict) -> list[str]:
    """What a verifier would say of the statement, from the statement alone."""
    return [str(problem) for problem in objections(build(predicate_of(done, judged)))]


def verified(done: Attempt, judged: JobVerdict, folder: Path) -> VerificationReport:
    """A signed statement about the result in `folder`, verified with the files of result and base."""
    place, key = done.place.base, generate()
    base = [place / "config.json", *sorted(place.glob("*.safetensors"))]
    statement = predicate_of(done, judged, base=base, result=sorted(folder.iterdir()))
    sealed = json.dumps(seal(build(statement), [key])).encode()
    trusted = (TrustedKey(key.public_pem),)
    return verify(sealed, Inputs(trusted, datetime.now(UTC), result=folder, base=place))


def proved(done: Attempt, folder: Path) -> Path:
    """The result as a folder that an outsider verified with the base at hand."""
    assert done.code == 0, done.failure
    judged = judge(done)
    assert (judged.verdict, judged.reason, objections_to(done, judged)) == ("verified", None, [])
    shutil.copytree(done.place.files, folder)
    adapter = (folder / "adapter_config.json").exists()
    tensors = done.changed if adapter else done.composed()
    save_file(tensors, folder / ("adapter_model.safetensors" if adapter else "model.safetensors"), {"format": "pt"})
    report = verified(done, judged, folder)
    assert report.problems == ()
    assert report.level == 3
    return folder


def predicate_of(
    done: Attempt, judged: JobVerdict, *, base: Sequence[Path] = (), result: Sequence[Path] = ()
) -> Predicate:
    """What the supervisor would sign; without files, about ones that nobody looks at."""
    observed = done.observations
    policy = Policy.from_json(observed["plan"]["policy"])
    kind = "adapter" if (done.place.files / "adapter_config.json").exists() else "full"
    checks = observed["checks"]
    return Predicate(
        job_id="ftjob-test",
        attempt=1,
        nonce=None,
        issued_at=datetime.now(UTC),
        policy=policy.to_json(),
        policy_digest=policy.digest(),
        base_files=_files(base) or (FileRef("model.safetensors", 1, "0" * 64),),
        result_files=_files(result)
        or (FileRef(f"{'adapter_' if kind == 'adapter' else ''}model.safetensors", 1, "0" * 64),),
        rows=judged.rows,
        observed={
            "checks": checks.get("count", 0),
            "first_step": checks.get("first_step", 0),
            "last_step": checks.get("last_step", 0),
            "fingerprint": checks.get("scheme"),
        },
        violations=(),
        result_kind=kind,
        metadata={"format": "pt"},
        previous=None,
        origin={"model": "tiny", "kind": "base"},
    )


def _files(paths: Sequence[Path]) -> tuple[FileRef, ...]:
    return tuple(FileRef(path.name, path.stat().st_size, sha256_file(path)) for path in paths)
