"""The facts of a job's bills of materials, taken from its attestation, its curves and the base's own papers.

Nothing here depends on when or where it is asked: a job has the same facts each time.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.evidence.format.envelope import envelope_inside, read_envelope
from app.evidence.format.parse import read as read_statement
from app.evidence.format.recipe import MEMBER, Recipe
from app.evidence.format.recipe_reading import read as read_recipe
from app.evidence.format.statement import FileRef, Statement
from app.evidence.format.strict import read_json
from app.evidence.tables import Evidence
from app.jobs.queue.tables import Job, Metric
from app.models.papers import is_paper
from app.models.tables import Model
from app.papers.licences import MAX_README, PublishersWord, publishers_word
from app.storage.blobs import Storage

#: How the facts that a standard has no field of its own for are named.
PREFIX: Final = "permafrost"
UNKNOWN: Final = "unknown"
#: Models between a result and its first base that are looked through at most.
_CHAIN: Final = 100


@dataclass(frozen=True, slots=True)
class Part:
    """A file that a run read: its role in it, and the id under which the service keeps or kept it."""

    role: str  # "training" | "validation" | "adapter"
    id: str | None
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The model that was modified. `word` is what its publisher says."""

    name: str
    root: str
    origin: Mapping[str, str]
    files: tuple[FileRef, ...]
    word: PublishersWord


@dataclass(frozen=True, slots=True)
class Compute:
    """What the modification took. None: not known, as of a job from before there were recipes."""

    flops: int | None = None
    seconds: int | None = None
    device: str | None = None
    processor: str | None = None
    tokens: int | None = None
    steps: int | None = None

    def share_of(self, base: int | None) -> str:
        """The modification's part of the compute that trained the base, as text; `unknown` where either is."""
        return UNKNOWN if self.flops is None or base is None else f"{self.flops / base:.3g}"


@dataclass(frozen=True, slots=True)
class BillFacts:
    """All that a bill of materials says. `hyperparameters` and `metrics` are flat: text by name."""

    job: str
    attempt: int
    project: str
    model: str
    task: str
    kind: str  # "full" | "adapter"
    issued_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    root: str
    files: tuple[FileRef, ...]
    frozen: tuple[int, int]  # tensors, bytes
    base: BaseModel
    data: tuple[Part, ...]
    statement: str  # SHA-256 of the payload that was signed
    keyid: str | None
    verdict: str
    compute: Compute
    hyperparameters: Mapping[str, str]
    metrics: Mapping[str, str]
    versions: Mapping[str, str]  # of the software that trained
    code: str | None
    lock: str | None

    @property
    def attestation(self) -> str:
        """Where the service has the attestation, relative to the service."""
        return f"/v1/fine_tuning/jobs/{self.job}/attestation"

    def named(self) -> Iterator[tuple[str, str]]:
        """The facts about result and run that no standard has a field for: name and value."""
        base, compute = self.base.word.flops, self.compute
        yield "verdict", self.verdict
        yield "root", self.root
        yield "frozen:tensors", str(self.frozen[0])
        yield "frozen:bytes", str(self.frozen[1])
        yield "statement:sha256", self.statement
        yield "statement:keyid", self.keyid or UNKNOWN
        for name in ("flops", "seconds", "device", "processor", "tokens", "steps"):
            value = getattr(compute, name)
            yield f"compute:{name}", UNKNOWN if value is None else str(value)
        yield "compute:base-flops", UNKNOWN if base is None else str(base)
        yield "compute:share-of-base", compute.share_of(base)
        if self.code is not None:
            yield "code:sha256", self.code
        if self.lock is not None:
            yield "lock:sha256", self.lock


def facts_of(session: Session, storage: Storage, job: Job, evidence: Evidence) -> BillFacts:
    """The facts of a job whose evidence is signed."""
    envelope = read_envelope(evidence.envelope or b"")
    statement = read_statement(read_json(envelope.payload))
    recipe = _recipe(envelope_inside(envelope, MEMBER))
    predicate = statement.predicate
    return BillFacts(
        job=job.id,
        attempt=predicate.attempt,
        project=job.project,
        model=job.fine_tuned_model or f"{job.id} (not published)",
        task=job.task,
        kind=predicate.result_kind,
        issued_at=predicate.issued_at,
        started_at=recipe.observed.started_at if recipe else None,
        finished_at=recipe.observed.finished_at if recipe else None,
        root=statement.result.root,
        files=predicate.result_files,
        frozen=(statement.frozen.count, statement.frozen.nbytes),
        base=_base(session, storage, job, statement),
        data=tuple(_data(job, recipe)) if recipe else (),
        statement=hashlib.sha256(envelope.payload).hexdigest(),
        keyid=evidence.keyid,
        verdict=evidence.verdict,
        compute=_compute(recipe) if recipe else Compute(),
        hyperparameters=_flat(_hyperparameters(job, recipe)),
        metrics=_flat(_metrics(session, job, recipe)),
        versions={"permafrost": recipe.version, **recipe.observed.packages} if recipe else {},
        code=recipe.observed.code if recipe else None,
        lock=recipe.observed.lock if recipe else None,
    )


def _recipe(envelope: Any) -> Recipe | None:
    """The recipe beside a statement; None without one, or of a version that this one does not read."""
    try:
        return None if envelope is None else read_recipe(read_json(envelope.payload))
    except ValueError:  # of a statement, or of JSON
        return None


def _base(session: Session, storage: Storage, job: Job, statement: Statement) -> BaseModel:
    predicate = statement.predicate
    origin = dict(predicate.origin or {})
    first = _first(session, job.base_model)
    word = _publishers_word(storage, first) if first else PublishersWord()
    name = origin.get("repository") or origin.get("model") or job.model
    return BaseModel(name, statement.base.root, origin, predicate.base_files, word)


def _first(session: Session, model_id: str | None) -> Model | None:
    """The base that nobody here trained, behind a fine-tune of a fine-tune."""
    for _ in range(_CHAIN):
        row = session.get(Model, model_id) if model_id else None
        if row is None or row.base_id is None:
            return row
        model_id = row.base_id
    return None


def _publishers_word(storage: Storage, base: Model) -> PublishersWord:
    texts = {}
    for file in base.files:
        if file["blob"] and is_paper(file["name"]):
            with storage.open(file["blob"]) as source:
                texts[file["name"]] = (source.read(MAX_README).decode("utf-8", "replace"), file["sha256"])
    return publishers_word(texts)


def _data(job: Job, recipe: Recipe) -> Iterator[Part]:
    seen = recipe.observed
    adapter = (recipe.observed.base_origin or {}).get("adapter")
    for file, id in (
        (seen.training, job.training_file),
        (seen.validation, job.validation_file),
        (seen.adapter, adapter),
    ):
        if file is not None:
            yield Part(file.name, id, file.size, file.sha256)


def _compute(recipe: Recipe) -> Compute:
    seen, said, request = recipe.observed, recipe.reported, recipe.request
    device = request.device if request.devices == 1 else f"{request.devices} x {request.device}"
    processor = said.environment.get("processor")
    return Compute(
        flops=said.flops,
        seconds=round((seen.finished_at - seen.started_at).total_seconds()),
        device=device,
        processor=processor if isinstance(processor, str) else None,
        tokens=said.tokens,
        steps=said.steps,
    )


def _hyperparameters(job: Job, recipe: Recipe | None) -> Mapping[str, Any]:
    """Those that were decided, where the recipe has them; else those that were requested."""
    decided = dict(recipe.reported.hyperparameters) if recipe else {}
    return {**(decided or job.hyperparameters), "seed": job.seed}


def _metrics(session: Session, job: Job, recipe: Recipe | None) -> Mapping[str, Any]:
    """The last point of each curve. It does not change once the job has ended."""
    found: dict[str, Any] = {}
    for split in ("train", "valid"):
        points = select(Metric).where(Metric.job_id == job.id, Metric.split == split)
        last = session.scalar(points.order_by(Metric.step.desc()).limit(1))
        if last is not None:
            found |= {f"{split}_{name}": value for name, value in last.values.items()}
    if "train_loss" not in found and recipe is not None and recipe.reported.loss is not None:
        found["train_loss"] = recipe.reported.loss
    return found


def _flat(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as text, by name; what is unset is left out."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for name, value in sorted(values.items())
        if value is not None
    }
