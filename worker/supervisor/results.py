"""What an attempt left on disk becomes evidence and a model: read again, judged, signed, published.

The trainer is dead by now, and its folder is material: links out of it are refused, and every digest is computed anew.
"""

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import select

from app.db import Database, new_id
from app.errors import PermafrostError
from app.evidence import judgement, records
from app.evidence.digest import FileReading, TensorReading, read_file
from app.evidence.envelope import seal
from app.evidence.judgement import Judged
from app.evidence.keys import SigningKey
from app.evidence.modelsig import offer
from app.evidence.observed import RecordsError, Seen, read_observations, rows_needed
from app.evidence.statement import Claim, FileRef, build
from app.evidence.tables import Evidence
from app.evidence.tensorfile import TensorFileError
from app.evidence.tree import root
from app.evidence.verify import objections
from app.files.tables import File
from app.files.usage import blob_in_use
from app.freeze.implied import implied_policy, is_of_adapter, merged_policy
from app.freeze.policy import Policy
from app.jobs.attempt import Outcome
from app.jobs.checkpoints import Saved
from app.jobs.notes import Note
from app.jobs.tables import Checkpoint, Job
from app.models.catalog import is_hub_spec
from app.models.compose import ComposeError, Layout, Slice, compose
from app.models.tables import Model
from app.storage import Blob, Storage
from worker.supervisor.news import Tail
from worker.supervisor.statistics import change_statistics, checkpoint_statistics
from worker.trainer.protocol import Workspace

#: The trainer's JSON files, at most.
JSON_BYTES: Final = 256 << 20
#: What of a result's other files is published.
SUFFIXES: Final = (".json", ".jsonl", ".csv", ".txt", ".model", ".jinja", ".tiktoken", ".md")
METRICS: Final = "metrics.csv"
EVENTS: Final = "events.out.tfevents.permafrost"
WEIGHTS: Final = {"full": "model.safetensors", "adapter": "adapter_model.safetensors"}


class ResultError(PermafrostError):
    """The trainer said that it was done, and what it left cannot be a result."""

    code = "invalid_result"


@dataclass(frozen=True, slots=True)
class Signer:
    """What it takes to turn a result into evidence. `keys`: the current one first, then those that sign along."""

    db: Database
    storage: Storage
    keys: list[SigningKey]


@dataclass(frozen=True, slots=True)
class Result:
    """`result.json`: the tensors of the full result and where each one's bytes are."""

    tensors: list[tuple[str, str, str | None]]  # name, "changed" or "base", name in the base
    metadata: dict[str, str]
    kind: str


def conclude(signer: Signer, job: Job, base: Model, workspace: Workspace, tail: Tail) -> Outcome:
    """The outcome of an attempt whose trainer ended well, with evidence for or against it."""
    try:
        return _conclude(signer, job, base, workspace, tail)
    except (RecordsError, ComposeError, TensorFileError) as error:
        # What a trainer left is the same at every attempt: trying again would not help.
        raise ResultError(str(error)) from error


def _conclude(signer: Signer, job: Job, base: Model, workspace: Workspace, tail: Tail) -> Outcome:
    observed = read_json(workspace.observations)
    seen = read_observations(observed)
    policy = _policy(job, seen, merged=observed.get("merged") or ())
    result = _read_result(workspace.result)
    base_rows, result_rows = rows_needed(seen)
    base_tensors = _read_base(workspace, base, base_rows)
    changed = _read_weights(workspace.changed, result_rows)
    blob = signer.storage.put(workspace.changed)
    if blob.sha256 != changed.sha256:
        raise ResultError(f"{workspace.changed.name} changed while it was read")
    slices = _slices(result, base, changed, blob)
    layout = compose(slices, result.metadata)
    weights = FileRef(WEIGHTS[result.kind], layout.size, layout.sha256(signer.storage.open))
    judged = judgement.judge(
        policy,
        seen,
        base=base_tensors,
        result=_result_readings(result, base_tensors, changed),
        reported=[*observed.get("violations", ()), *tail.violations],
        kind=result.kind,
    )
    others = publish_files(workspace.files, signer.storage)
    files = [weights, *map(_ref, others)]
    payload = _statement(signer, job, policy, base, judged, observed, files, result)
    judged = judgement.challenged(judged, map(str, objections(payload)))
    evidence = records.evidence_row(
        judged,
        job_id=job.id,
        attempt=job.attempt,
        checks=dict(observed.get("checks") or {}),
        envelope=json.dumps(seal(payload, signer.keys)).encode(),
        keyid=signer.keys[0].keyid,
    )
    evidence.model_sig = offer(files, signer.keys, name=model_id(job, base), payload=payload)
    stats = change_statistics(judged.rows, workspace, base=base, readings=base_tensors, changed=changed)
    last = int((tail.done or {}).get("steps") or 0)
    history = checkpoint_statistics(judged.rows, workspace, base=base, readings=base_tensors, last=last)
    parameters = records.parameter_rows(judged, job_id=job.id, stats=stats, history=history)
    model = composed_model(job, base, layout, weights, others, [tensor.info.to_json() for tensor in seen])
    model.root = evidence.result_root
    model.stored_bytes = blob.size + sum(each["size"] for each in others)
    outcome = _outcome(policy, evidence, parameters, model, tail)
    outcome.last = _last(job, tail)
    outcome.files = [_curves_file(job, each) for each in others if each["name"] in (METRICS, EVENTS)]
    if outcome.model is None:
        stored = {blob.key, *(each["blob"] for each in others)}
        _discard(signer, stored - {file.blob for file in outcome.files})
    return outcome


def _discard(signer: Signer, blobs: set[str]) -> None:
    """Takes back what was stored for a model that nobody gets."""
    with signer.db.read() as session:
        unused = [key for key in sorted(blobs) if not blob_in_use(session, key)]
    for key in unused:
        signer.storage.delete(key, named_since=datetime.now(UTC))


def _curves_file(job: Job, published: Mapping[str, Any]) -> File:
    """The job's curves as a file of the project, where clients of OpenAI's API look for them."""
    name = f"{job.id}-{published['name']}"
    file = File(id=new_id("file"), project=job.project, filename=name, purpose="fine-tune-results")
    file.bytes, file.sha256, file.blob = published["size"], published["sha256"], published["blob"]
    file.status = "processed"
    return file


def _policy(job: Job, seen: Sequence[Seen], *, merged: Sequence[str]) -> Policy:
    """The job's; an adapter's, where none was given, names what the base does not hold, and what merging changed."""
    policy, adapter = Policy.from_json(job.freeze_policy), job.model_spec.get("adapter")
    if not adapter:
        return policy
    parameters = [each for each in seen if each.info.kind == "parameter" and not each.base]
    new = [each.info.name for each in parameters if not is_of_adapter(each.info.name)]
    return merged_policy(policy, merged, new) if adapter.get("merge") else implied_policy(policy, new)


def violated(job: Job, tail: Tail) -> Evidence | None:
    """Evidence of an attempt that the witness stopped: what it saw, without a statement about any result."""
    if not tail.violations:
        return None
    names = ", ".join(str(each.get("name")) for each in tail.violations)
    return Evidence(
        job_id=job.id,
        attempt=job.attempt,
        verdict="violated",
        reason=f"training was stopped: frozen tensors changed ({names})",
        frozen_tensors=0,
        frozen_bytes=0,
        violations=[dict(each) for each in tail.violations],
        checks={},
    )


def _outcome(policy: Policy, evidence: Evidence, parameters: Any, model: Model, tail: Tail) -> Outcome:
    tokens = (tail.done or {}).get("trained_tokens")
    outcome = Outcome("succeeded", evidence=evidence, parameters=parameters, trained_tokens=tokens)
    if evidence.verdict == "violated" and policy.on_violation == "abort":
        # The promise was broken: the evidence is kept, and nobody gets a model that does not keep it.
        outcome.status = "failed"
        outcome.error = {"code": "frozen_parameters_changed", "message": evidence.reason, "param": "freeze_policy"}
        return outcome
    outcome.model = model
    outcome.notes = [_note(evidence)]
    return outcome


def _last(job: Job, tail: Tail) -> Saved | None:
    """The result as the job's last checkpoint; with early stopping it is one of an earlier step, which has its own."""
    done = tail.done or {}
    if job.hyperparameters.get("early_stopping_patience") or not done.get("steps"):
        return None
    metrics = {f"valid_{name}": value for name, value in (done.get("metrics") or {}).items()}
    return Saved(int(done["steps"]), metrics)


def _note(evidence: Evidence) -> Note:
    data = {"verdict": evidence.verdict, "frozen_tensors": evidence.frozen_tensors, "frozen_root": evidence.frozen_root}
    if evidence.verdict == "verified":
        count = evidence.frozen_tensors
        tensors = "1 frozen tensor is" if count == 1 else f"{count} frozen tensors are"
        message = f"Evidence verified: {tensors} bit-identical to the base"
        return Note(message, data=data)
    return Note(f"Evidence {evidence.verdict}: {evidence.reason}", level="warn", data=data)


def read_json(path: Path) -> Any:
    with _regular(path) as file:
        raw = file.read(JSON_BYTES + 1)
    if len(raw) > JSON_BYTES:
        raise ResultError(f"{path.name} is larger than {JSON_BYTES} bytes")
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{path.name} is not JSON: {error}") from error


def _read_result(path: Path) -> Result:
    document = read_json(path)
    try:
        tensors = [(str(each["name"]), str(each["from"]), each["base_name"]) for each in document["tensors"]]
        result = Result(tensors, dict(document.get("metadata") or {}), document.get("kind", "full"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ResultError(f"{path.name} cannot be read: {type(error).__name__} {error}") from error
    if result.kind not in WEIGHTS:
        raise ResultError(f"{path.name}: kind {result.kind!r} is not one of {', '.join(WEIGHTS)}")
    return result


def _read_weights(path: Path, rows: Mapping[str, Any]) -> FileReading:
    try:
        known = read_file(path, follow_symlinks=False)
        wanted = {each.name: rows[each.name] for each in known.tensors if each.name in rows}
        return read_file(path, rows=wanted, follow_symlinks=False) if wanted else known
    except (OSError, TensorFileError) as error:
        raise ResultError(f"{path.name} cannot be read: {error}") from error


def _read_base(workspace: Workspace, base: Model, rows: Mapping[str, Any]) -> dict[str, TensorReading]:
    """Every base tensor, read from disk again; they have to be the ones that were registered."""
    tensors: dict[str, TensorReading] = {}
    for file in base.files:
        if not file["name"].endswith(".safetensors"):
            continue
        names = {each["name"] for each in base.tensors if each["file"] == file["name"]}
        wanted = {name: rows[name] for name in rows if name in names}
        reading = read_file(workspace.base / file["name"], rows=wanted)
        tensors |= {each.name: each for each in reading.tensors}
    if root(tensors.values()) != base.root:
        raise ResultError(f"the files of base model {base.id} are not the ones that were registered")
    return tensors


def _slices(result: Result, base: Model, changed: FileReading, blob: Blob) -> list[Slice]:
    """Where the bytes of each result tensor lie: in what the trainer wrote, or in the base's blobs."""
    written = {each.name: each for each in changed.tensors}
    stored = {each["name"]: each for each in base.tensors}
    slices = []
    for name, source, base_name in result.tensors:
        if source == "changed" and name in written:
            each = written[name]
            slices.append(Slice(name, each.dtype, each.shape, blob.key, each.offset, each.nbytes, each.sha256))
        elif source == "base" and base_name in stored:
            row = stored[base_name]
            shape = tuple(row["shape"])
            slices.append(Slice(name, row["dtype"], shape, row["blob"], row["offset"], row["nbytes"], row["sha256"]))
        else:
            raise ResultError(f"result.json takes {name!r} from {source!r} ({base_name!r}), where it is not")
    return slices


def _result_readings(
    result: Result, base: Mapping[str, TensorReading], changed: FileReading
) -> dict[str, TensorReading]:
    """The result's tensors under the result's names; `_slices` has made sure that each is there."""
    written = {each.name: each for each in changed.tensors}
    found = {name: written[name] if source == "changed" else base[str(old)] for name, source, old in result.tensors}
    return {name: replace(each, name=name) for name, each in found.items()}


def publish_files(folder: Path, storage: Storage) -> list[dict[str, Any]]:
    """Configuration and tokenizer files beside the weights."""
    if folder.parent.is_symlink() or folder.is_symlink():
        raise ResultError("the trainer's output folder is a link")
    published = []
    for path in sorted(folder.iterdir()):
        if path.suffix not in SUFFIXES and path.name != EVENTS:
            raise ResultError(f"{path.name} is no file that belongs to a model; known are {', '.join(SUFFIXES)}")
        with _regular(path):
            blob = storage.put(path)
        published.append({"name": path.name, "size": blob.size, "sha256": blob.sha256, "blob": blob.key})
    return published


@contextmanager
def _regular(path: Path) -> Iterator[Any]:
    """The file itself and never what a link points at: the supervisor can read more than the trainer can."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ResultError(f"{path.name} cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        if not path.is_file():
            raise ResultError(f"{path.name} is no regular file")
        yield file


def _ref(file: Mapping[str, Any]) -> FileRef:
    return FileRef(file["name"], file["size"], file["sha256"])


def _statement(
    signer: Signer,
    job: Job,
    policy: Policy,
    base: Model,
    judged: Judged,
    observed: Mapping[str, Any],
    files: list[FileRef],
    result: Result,
) -> bytes:
    checks = observed.get("checks") or {}
    claim = Claim(
        job_id=job.id,
        attempt=job.attempt,
        nonce=job.evidence_options.get("nonce"),
        issued_at=datetime.now(UTC),
        policy=policy.to_json(),
        policy_digest=policy.digest(),
        base_files=tuple(map(_ref, base.files)),
        result_files=tuple(files),
        rows=judged.rows,
        observed={
            "checks": checks.get("count", 0),
            "first_step": checks.get("first_step", 0),
            "last_step": checks.get("last_step", 0),
            "fingerprint": checks.get("scheme"),
        },
        violations=tuple(each["name"] for each in judged.violations),
        result_kind=result.kind,
        metadata=result.metadata,
        previous=_previous(signer.db, base),
        origin=_origin(signer.db, base) | _adapter_origin(job),
    )
    return build(claim)


def _previous(db: Database, base: Model) -> str | None:
    """The SHA-256 of the statement about the base, where a job of ours made it."""
    if base.kind != "fine_tuned" or base.job_id is None:
        return None
    with db.read() as session:
        envelope = session.scalar(select(Evidence.envelope).where(Evidence.job_id == base.job_id))
    return hashlib.sha256(base64.b64decode(json.loads(envelope)["payload"])).hexdigest() if envelope else None


def _origin(db: Database, base: Model) -> dict[str, str]:
    """Where the base came from."""
    origin = {"model": base.id, "kind": base.kind}
    if is_hub_spec(base.spec) and base.kind == "base":
        origin |= {"repository": base.spec["path"], "revision": base.spec["revision"]}
    if base.job_id:
        origin["job"] = base.job_id
    if base.kind == "checkpoint":
        with db.read() as session:
            step = session.scalar(select(Checkpoint.step).where(Checkpoint.model == base.id))
        origin |= {"step": str(step)} if step is not None else {}
    return origin


def _adapter_origin(job: Job) -> dict[str, str]:
    """The adapter that was trained on: where the first values of this one came from."""
    start = (job.model_spec.get("adapter") or {}).get("start")
    return {"adapter": start} if start else {}


def composed_model(
    job: Job, base: Model, layout: Layout, weights: FileRef, others: list[dict[str, Any]], manifest: list[Any]
) -> Model:
    """A model of the job's project whose file of weights is composed on download."""
    merged = ("adapter",) if weights.name == WEIGHTS["full"] else ()
    spec = {key: value for key, value in job.model_spec.items() if key not in ("weights", "new_tokens", *merged)}
    if "adapter" in spec:
        spec["adapter"] = {key: value for key, value in spec["adapter"].items() if key != "start"}
    return Model(
        id=model_id(job, base),
        project=job.project,
        owned_by=job.project,
        kind="fine_tuned",
        status="ready",
        spec=spec,
        base_id=base.id,
        job_id=job.id,
        files=[{"name": weights.name, "size": weights.size, "sha256": weights.sha256, "blob": None}, *others],
        tensors=[
            {
                "file": weights.name,
                "name": each.name,
                "dtype": each.dtype,
                "shape": list(each.shape),
                "nbytes": each.nbytes,
                "sha256": each.sha256,
                "blob": each.blob,
                "offset": each.offset,
            }
            for each in layout.slices
        ],
        manifest=manifest,
    )


def model_id(job: Job, base: Model) -> str:
    """`ft:<base>:<project>:<suffix>:<job>`, without a slash, since SDKs put it into a path.

    A fine-tune of a fine-tune is called after the first base.
    """
    name = job.model.split(":")[1] if job.model.startswith("ft:") else job.model
    short = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:80]
    return f"ft:{short}:{job.project}:{job.suffix or ''}:{job.id.rpartition('-')[2][:12]}"
