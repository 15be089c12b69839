"""The recipe of a result: a second signed statement, of what it was made of and how (SLSA Provenance v1).

What the supervisor saw itself (`Observed`, `Material`) is kept apart from what the trainer said (`Reported`).
`recipe_reading.read` is the way back from the payload that `build` makes.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

from app.evidence.format.base_registry import ROOT
from app.evidence.format.examples import ExamplesRoot
from app.evidence.format.keys import iso
from app.evidence.format.statement import STATEMENT_TYPE, FileRef
from app.jsontypes import JsonDict

PROVENANCE: Final = "https://slsa.dev/provenance/v1"
#: The version of what is below `buildDefinition` and of our own fields. A reader names one that it does not know.
BUILD_TYPE: Final = "urn:permafrost:fine-tuning:v1"
BUILDER: Final = "urn:permafrost:supervisor:v1"
#: The member of an attestation's envelope that holds the recipe's own envelope. DSSE ignores fields that it does not
#: know, so that verifiers from before there were recipes accept an attestation with one.
MEMBER: Final = "recipe"


class SavedState(NamedTuple):
    """A checkpoint as the supervisor read it: the root over its weights, and every file of the trainer's state."""

    step: int
    root: str
    files: tuple[FileRef, ...]


class Request(NamedTuple):
    """What was requested, and what decides the result beside the files: all that a trainer's work order needs."""

    task: str
    model: Mapping[str, Any]
    data: Mapping[str, Any]  # columns and formats
    seed: int
    hyperparameters: Mapping[str, Any]  # with "auto" where it was requested
    policy: Mapping[str, Any]  # as requested; the statement has the rules that an adapter adds
    device: str
    devices: int = 1
    strategy: str = "ddp"


class Observed(NamedTuple):
    """What the supervisor saw: files that it handed over, the code that ran, the times, how often it was tried."""

    training: FileRef
    base_root: str
    policy_digest: str  # of the policy in the statement
    code: str  # SHA-256 over our own modules
    packages: Mapping[str, str]  # versions of the packages that train, as installed
    started_at: datetime
    finished_at: datetime
    validation: FileRef | None = None
    adapter: FileRef | None = None  # the weights of an adapter that was trained on
    base_origin: Mapping[str, str] | None = None
    lock: str | None = None  # SHA-256 of requirements.lock, where the installation has it
    crashes: int = 0
    losses: int = 0
    checkpoints: tuple[SavedState, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """The trainer's word. `environment` is what a run's bits depend on, in the trainer's own process.

    `flops` is an estimate: for each token (example, where there are no tokens) 2 operations per weight forward, and 4
    more per weight that trains.
    """

    steps: int | None = None
    total_steps: int | None = None
    result_step: int | None = None  # the step whose state the result is, where early stopping went back to it
    tokens: int | None = None
    flops: int | None = None
    loss: float | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)  # every "auto" decided
    environment: Mapping[str, Any] = field(default_factory=dict)
    padding: str | None = None
    prefix: bool | None = None  # whether kept results of frozen layers were served
    micro_batch_size: int | None = None  # at the end: it is halved when memory runs out
    exact: bool | None = None
    not_deterministic: tuple[str, ...] = ()
    resumed: tuple[int, ...] = ()  # steps after which a later attempt went on
    examples: ExamplesRoot | None = None


class Recipe(NamedTuple):
    """A recipe's content. `subjects` are the result's files, name and SHA-256, as in the statement beside it."""

    job_id: str
    attempt: int
    nonce: str | None
    version: str  # of this software
    subjects: tuple[tuple[str, str], ...]
    request: Request
    observed: Observed
    reported: Reported = Reported()


def build(recipe: Recipe) -> bytes:
    """The payload to sign, in UTF-8 JSON."""
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in sorted(recipe.subjects)],
        "predicateType": PROVENANCE,
        "predicate": {"buildDefinition": _definition(recipe), "runDetails": _run(recipe)},
    }
    return json.dumps(statement, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _definition(recipe: Recipe) -> JsonDict:
    request = recipe.request
    return {
        "buildType": BUILD_TYPE,
        "externalParameters": {
            "job": {"id": recipe.job_id, "nonce": recipe.nonce},
            "task": request.task,
            "model": dict(request.model),
            "data": dict(request.data),
            "seed": request.seed,
            "hyperparameters": dict(request.hyperparameters),
            "freezePolicy": dict(request.policy),
        },
        "internalParameters": {"device": request.device, "devices": request.devices, "strategy": request.strategy},
        "resolvedDependencies": list(_dependencies(recipe.observed)),
    }


def _dependencies(observed: Observed) -> Iterator[JsonDict]:
    """Everything that the run read, as in-toto resource descriptors."""
    base: JsonDict = {"name": "base", "digest": {ROOT: observed.base_root}}
    yield base | ({"annotations": dict(observed.base_origin)} if observed.base_origin else {})
    for role in ("training", "validation", "adapter"):
        file: FileRef | None = getattr(observed, role)
        if file is not None:
            yield {"name": role, "digest": {"sha256": file.sha256}, "annotations": {"size": file.size}}
    yield {"name": "code", "digest": {"sha256": observed.code}}
    if observed.lock is not None:
        yield {"name": "lock", "digest": {"sha256": observed.lock}}


def _run(recipe: Recipe) -> JsonDict:
    observed = recipe.observed
    return {
        "builder": {"id": BUILDER, "version": {"permafrost": recipe.version, **observed.packages}},
        "metadata": {
            "invocationId": f"{recipe.job_id}/{recipe.attempt}",
            "startedOn": iso(observed.started_at),
            "finishedOn": iso(observed.finished_at),
        },
        "permafrost_observed": {
            "policy": {"sha256": observed.policy_digest},
            "crashes": observed.crashes,
            "losses": observed.losses,
            "checkpoints": [state_json(state) for state in observed.checkpoints],
        },
        "permafrost_reported": _reported_json(recipe.reported),
    }


def state_json(state: SavedState) -> JsonDict:
    """A checkpoint's digests in JSON."""
    files = [{"name": file.name, "digest": {"sha256": file.sha256}, "size": file.size} for file in state.files]
    return {"step": state.step, "root": state.root, "files": files}


def _reported_json(reported: Reported) -> JsonDict:
    """The trainer's word, without what it did not say."""
    out: JsonDict = {
        "steps": reported.steps,
        "totalSteps": reported.total_steps,
        "resultStep": reported.result_step,
        "tokens": reported.tokens,
        "flops": reported.flops,
        "loss": reported.loss,
        "hyperparameters": dict(reported.hyperparameters) or None,
        "environment": dict(reported.environment) or None,
        "padding": reported.padding,
        "prefix": reported.prefix,
        "microBatchSize": reported.micro_batch_size,
        "exact": reported.exact,
        "notDeterministic": list(reported.not_deterministic) or None,
        "resumed": list(reported.resumed) or None,
        "examples": {"count": reported.examples.count, "root": reported.examples.root} if reported.examples else None,
    }
    return {name: value for name, value in out.items() if value is not None}
