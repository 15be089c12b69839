"""Makes evidence and a model of what an attempt left on disk: files are read again, compared, signed and published.

The trainer has ended by now; what it reported about its own work is compared with the files.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from app.db import Database, new_id
from app.evidence import database_rows
from app.evidence.attest import verdict
from app.evidence.attest.observations import ObservationsError, ObservedTensor
from app.evidence.attest.verdict import JobVerdict
from app.evidence.format.compose import ComposeError
from app.evidence.format.envelope import seal
from app.evidence.format.keys import SigningKey
from app.evidence.format.log_proof import statement_entry
from app.evidence.format.modelsig import offer
from app.evidence.format.recipe import MEMBER
from app.evidence.format.tensorfile import TensorFileError
from app.evidence.tables import Evidence, Parameter
from app.evidence.transparency.journal import Journal
from app.evidence.verifier.verify import objections
from app.files.tables import File
from app.freeze import parts
from app.freeze.implied import implied_policy, is_of_adapter, merged_policy
from app.freeze.policy import Policy
from app.jobs.queue.attempt import Outcome
from app.jobs.queue.checkpoints import NewCheckpoint
from app.jobs.queue.event_log import NewEvent
from app.jobs.queue.tables import Job
from app.models.tables import Model
from app.storage.blobs import Storage
from worker.protocol import Workspace
from worker.supervisor import holdings, log_entries
from worker.supervisor.artifacts import EVENTS, Artifacts, ResultError, discard, read_artifacts
from worker.supervisor.recipes import Seen, recipe
from worker.supervisor.reports import ReportReader
from worker.supervisor.result_models import composed_model, model_id
from worker.supervisor.statements import origin_of, statement
from worker.supervisor.statistics import change_statistics, checkpoint_statistics
from worker.supervisor.timestamps import (
    JOB_SECONDS,
    SOONEST,
    Authority,
    AuthorityFailed,
    late,
    stamped,
)

METRICS: Final = "metrics.csv"


@dataclass(frozen=True, slots=True)
class Signer:
    """Database, storage and keys for making evidence. `keys`: the current one first, then those that sign too."""

    db: Database
    storage: Storage
    keys: list[SigningKey]
    authority: Authority | None = None
    journal: Journal | None = None


@dataclass(frozen=True, slots=True)
class Payloads:
    """What is signed: the statement about every tensor, and the recipe."""

    statement: bytes
    recipe: bytes


def conclude(signer: Signer, job: Job, base: Model, workspace: Workspace, reports: ReportReader, seen: Seen) -> Outcome:
    """The outcome of an attempt whose trainer reported success: evidence, verified or violated, and the model."""
    try:
        return _conclude(signer, job, base, workspace, reports, seen)
    except (ObservationsError, ComposeError, TensorFileError) as error:
        # The same files would be refused at every attempt: a retry would not help.
        raise ResultError(str(error)) from error


def _conclude(
    signer: Signer, job: Job, base: Model, workspace: Workspace, reports: ReportReader, seen: Seen
) -> Outcome:
    artifacts = read_artifacts(workspace, base, signer.storage)
    policy = _policy(job, artifacts.seen, merged=artifacts.observed.get("merged") or ())
    policy = parts.bound(policy, [tensor.info for tensor in artifacts.seen])
    judged = verdict.judge(
        policy,
        artifacts.seen,
        base=artifacts.base,
        result=artifacts.result_readings(),
        reported=[*artifacts.observed.get("violations", ()), *reports.violations],
        kind=artifacts.result.kind,
        made=seen.made,
    )
    origin = origin_of(signer.db, job, base)
    payload = statement(signer.db, job, policy, base, judged, artifacts, origin=origin)
    base_files = holdings.of_base(base, workspace, artifacts.base.values())
    problems = objections(payload, base=base_files, result=holdings.of_result(artifacts, signer.storage))
    refused = judged.verdict == "verified" and bool(problems)
    judged = verdict.challenged(judged, map(str, problems))
    made = recipe(job, base, policy, seen, reports.done, subjects=artifacts.files, origin=origin)
    evidence = _evidence(signer, job, judged, artifacts, None if refused else Payloads(payload, made))
    parameters = _parameters(job, base, judged, artifacts, workspace, reports)
    model = _model(job, base, evidence, artifacts)
    outcome = _outcome(policy, evidence, parameters, model, reports)
    outcome.events = [*outcome.events, *_stamp(signer, evidence), *_enter(signer, evidence, payload, made, outcome)]
    outcome.freeze_policy = policy.to_json()
    outcome.last_checkpoint = _last(job, reports)
    outcome.files = [_curves_file(job, each) for each in artifacts.others if each["name"] in (METRICS, EVENTS)]
    if outcome.model is None:
        stored = {artifacts.blob.key, *(each["blob"] for each in artifacts.others)}
        discard(signer.db, signer.storage, stored - {file.blob for file in outcome.files})
    return outcome


def _evidence(
    signer: Signer, job: Job, judged: JobVerdict, artifacts: Artifacts, payloads: Payloads | None
) -> Evidence:
    """The evidence; signed, unless a verifier would refuse the statement that it is verified."""
    evidence = database_rows.evidence_row(
        judged,
        job_id=job.id,
        attempt=job.attempt,
        checks=dict(artifacts.observed.get("checks") or {}),
    )
    if payloads is not None:
        envelope = seal(payloads.statement, signer.keys) | {MEMBER: seal(payloads.recipe, signer.keys)}
        evidence.envelope = json.dumps(envelope).encode()
        evidence.keyid = signer.keys[0].keyid
        evidence.model_sig = offer(artifacts.files, signer.keys, name=model_id(job), payload=payloads.statement)
    return evidence


def _stamp(signer: Signer, evidence: Evidence) -> list[NewEvent]:
    """Put timestamps beside the envelope, or note when maintenance is to ask for one."""
    if signer.authority is None or evidence.envelope is None:
        return []
    try:
        evidence.timestamp = signer.authority.stamp_all(evidence.envelope, seconds=JOB_SECONDS)
    except AuthorityFailed as error:
        evidence.timestamp_due = datetime.now(UTC) + SOONEST
        return [late(error)]
    return [stamped(evidence.timestamp)]


def _enter(signer: Signer, evidence: Evidence, statement: bytes, recipe: bytes, outcome: Outcome) -> list[NewEvent]:
    """Enter what was signed into the transparency log, before anybody can get it."""
    if evidence.envelope is None:
        return []
    entry = statement_entry(statement, recipe, job=evidence.job_id, attempt=evidence.attempt)
    evidence.log_leaf, outcome.log_entry = entry.leaf.hex(), entry
    return log_entries.enter(signer.journal, entry)


def _parameters(
    job: Job, base: Model, judged: JobVerdict, artifacts: Artifacts, workspace: Workspace, reports: ReportReader
) -> list[Parameter]:
    stats = change_statistics(judged.rows, workspace, base=base, readings=artifacts.base, changed=artifacts.changed)
    last = int((reports.done or {}).get("steps") or 0)
    history = checkpoint_statistics(judged.rows, workspace, base=base, readings=artifacts.base, last=last)
    return database_rows.parameter_rows(judged, job_id=job.id, stats=stats, history=history)


def _model(job: Job, base: Model, evidence: Evidence, artifacts: Artifacts) -> Model:
    manifest = [tensor.info.to_json() for tensor in artifacts.seen]
    model = composed_model(job, base, artifacts.weights, artifacts.others, manifest)
    model.root = evidence.result_root
    model.stored_bytes = artifacts.blob.size + sum(each["size"] for each in artifacts.others)
    return model


def _curves_file(job: Job, published: Mapping[str, Any]) -> File:
    """The job's curves as a file of the project, where clients of OpenAI's API look for them."""
    name = f"{job.id}-{published['name']}"
    file = File(id=new_id("file"), project=job.project, filename=name, purpose="fine-tune-results")
    file.bytes, file.sha256, file.blob = published["size"], published["sha256"], published["blob"]
    file.status = "processed"
    return file


def _policy(job: Job, observed: Sequence[ObservedTensor], *, merged: Sequence[str]) -> Policy:
    """The job's policy; for adapters with the rules that follow from the adapter, and from merging it."""
    policy, adapter = job.policy, job.spec.adapter
    if not adapter:
        return policy
    parameters = [tensor for tensor in observed if tensor.info.kind == "parameter" and not tensor.base]
    new = [tensor.info.name for tensor in parameters if not is_of_adapter(tensor.info.name)]
    return merged_policy(policy, merged, new) if adapter.merge else implied_policy(policy, new)


def violated(job: Job, reports: ReportReader) -> Evidence | None:
    """Evidence of an attempt that the witness stopped: the violations, without a statement about a result."""
    if not reports.violations:
        return None
    names = ", ".join(str(violation.get("name")) for violation in reports.violations)
    return Evidence(
        job_id=job.id,
        attempt=job.attempt,
        verdict="violated",
        reason=f"training was stopped: frozen tensors changed ({names})",
        frozen_tensors=0,
        frozen_bytes=0,
        violations=[dict(violation) for violation in reports.violations],
        checks={},
    )


def _outcome(
    policy: Policy, evidence: Evidence, parameters: Sequence[Parameter], model: Model, reports: ReportReader
) -> Outcome:
    tokens = (reports.done or {}).get("trained_tokens")
    outcome = Outcome("succeeded", evidence=evidence, parameters=parameters, trained_tokens=tokens)
    if evidence.verdict == "violated" and policy.on_violation == "abort":
        # Frozen tensors changed: the evidence is kept, and no model is published.
        outcome.status = "failed"
        outcome.error = {"code": "frozen_parameters_changed", "message": evidence.reason, "param": "freeze_policy"}
        return outcome
    if evidence.envelope is None:
        # A loader would take other weights from the result than those that were proved.
        outcome.status = "failed"
        outcome.error = {"code": "unverifiable_result", "message": evidence.reason, "param": None}
        return outcome
    outcome.model = model
    outcome.events = [_evidence_event(evidence)]
    return outcome


def _last(job: Job, reports: ReportReader) -> NewCheckpoint | None:
    """The result as the job's last checkpoint. None with early stopping, where the result is an earlier checkpoint."""
    done = reports.done or {}
    if job.hyperparameter_spec.early_stopping_patience or not done.get("steps"):
        return None
    metrics = {f"valid_{name}": value for name, value in (done.get("metrics") or {}).items()}
    return NewCheckpoint(int(done["steps"]), metrics)


def _evidence_event(evidence: Evidence) -> NewEvent:
    """The verdict in words: what is identical to the base, and what only did not change while it was frozen."""
    data = {"verdict": evidence.verdict, "frozen_tensors": evidence.frozen_tensors, "frozen_root": evidence.frozen_root}
    if evidence.verdict != "verified":
        return NewEvent(f"Evidence {evidence.verdict}: {evidence.reason}", level="warn", data=data)

    proofs = []
    if scheduled := evidence.checks.get("scheduled_tensors"):
        proofs.append(_are(scheduled, "scheduled tensor", "unchanged in every frozen step"))
    if split := evidence.checks.get("split_tensors"):
        proofs.append(_are(split, "partly frozen tensor", "bit-identical to the base in the frozen rows"))
    if evidence.frozen_tensors or not proofs:
        proofs.insert(0, _are(evidence.frozen_tensors, "frozen tensor", "bit-identical to the base"))
    return NewEvent(f"Evidence verified: {'; '.join(proofs)}", data=data)


def _are(count: int, noun: str, what: str) -> str:
    return f"1 {noun} is {what}" if count == 1 else f"{count} {noun}s are {what}"
