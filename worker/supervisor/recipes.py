"""Makes a job's recipe: what the supervisor saw of the run, and beside it, apart, the trainer's word."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from app import __version__
from app.evidence.format.fields import StatementError
from app.evidence.format.recipe import Observed, Recipe, Reported, Request, SavedState, build
from app.evidence.format.recipe_reading import read, reported
from app.evidence.format.statement import FileRef
from app.evidence.format.strict import read_json
from app.freeze.policy import Policy
from app.jobs.queue.tables import Job
from app.models.tables import Model
from worker.protocol import Report
from worker.supervisor.installation import code_digest, lock_digest, packages

#: Bytes of the trainer's word at most, as JSON: it is signed, though not believed.
WORD_BYTES: Final = 256 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Handed:
    """The files that an attempt's trainer was given, as they were when they were put into its folder."""

    training: FileRef
    validation: FileRef | None = None
    adapter: FileRef | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the supervisor saw of an attempt beside its result. `device` is the one that the trainer was given."""

    handed: Handed
    checkpoints: tuple[SavedState, ...] = ()
    device: str = "cpu"
    devices: int = 1
    #: Digests of what loading makes of stored tensors, by base name: computed from the base, in a process without data.
    made: Mapping[str, str] = field(default_factory=dict)


def recipe(
    job: Job,
    base: Model,
    policy: Policy,
    seen: Seen,
    done: Report | None,
    *,
    subjects: list[FileRef],
    origin: Mapping[str, str],
) -> bytes:
    """The payload to sign. `policy` is that of the statement, `origin` what it says of the base."""
    finished = datetime.now(UTC)
    observed = Observed(
        training=seen.handed.training,
        validation=seen.handed.validation,
        adapter=seen.handed.adapter,
        base_root=str(base.root),
        base_origin=origin,
        policy_digest=policy.digest(),
        code=code_digest(),
        lock=lock_digest(),
        packages=packages(),
        started_at=min(_utc(job.started_at) or finished, finished),
        finished_at=finished,
        crashes=job.crashes,
        losses=job.losses,
        checkpoints=seen.checkpoints,
    )
    made = Recipe(
        job_id=job.id,
        attempt=job.attempt,
        nonce=job.evidence_spec.nonce,
        version=__version__,
        subjects=tuple((file.name, file.sha256) for file in subjects),
        request=_request(job, seen),
        observed=observed,
        reported=word_of(done),
    )
    return _readable(made)


def _readable(made: Recipe) -> bytes:
    """The payload; without the trainer's word where a verifier could not read it, such as lists nested too deeply."""
    try:
        payload = build(made)
        read(read_json(payload))
        return payload
    except ValueError:  # of JSON, or of a statement
        return build(made._replace(reported=Reported()))


def word_of(done: Report | None) -> Reported:
    """What the trainer says of its run; empty where it says nothing that can be read, or too much."""
    said: Any = (done or {}).get("recipe")
    if not isinstance(said, dict) or len(json.dumps(said)) > WORD_BYTES:
        return Reported()
    try:
        return reported(said)
    except StatementError:
        return Reported()


def _request(job: Job, seen: Seen) -> Request:
    data = replace(job.data_spec, training=None, validation=None)
    return Request(
        task=job.task,
        model=job.spec.to_json(),
        data=data.to_json(),
        seed=job.seed,
        hyperparameters=job.hyperparameter_spec.to_json(),
        policy=job.policy.to_json(),
        device=seen.device,
        devices=seen.devices,
        strategy=job.strategy,
    )


def _utc(moment: datetime | None) -> datetime | None:
    """The time with its zone: SQLite gives it back without one."""
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment
