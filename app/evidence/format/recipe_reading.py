"""Reads a recipe from parsed JSON. Only the form is checked here; the verifier checks the values."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from app.evidence.format import fields
from app.evidence.format.base_registry import ROOT
from app.evidence.format.examples import ExamplesRoot
from app.evidence.format.fields import StatementError
from app.evidence.format.keys import KeyFileError, read_time
from app.evidence.format.parse import strangers
from app.evidence.format.recipe import BUILD_TYPE, Observed, Recipe, Reported, Request, SavedState
from app.evidence.format.statement import FileRef
from app.jsontypes import JsonDict

_REPORTED: Final = dict.fromkeys(
    (
        *("steps", "totalSteps", "resultStep", "tokens", "flops", "loss", "hyperparameters", "environment", "padding"),
        *("prefix", "microBatchSize", "exact", "notDeterministic", "resumed", "examples"),
    )
)
_FILE: Final[JsonDict] = {"name": None, "digest": {"sha256": None}, "size": None}
# As in format/parse.py: every field that a recipe may have.
_FORM: Final[JsonDict] = {
    "_type": None,
    "subject": [{"name": None, "digest": {"sha256": None}}],
    "predicateType": None,
    "predicate": {
        "buildDefinition": {
            "buildType": None,
            "externalParameters": {
                "job": dict.fromkeys(("id", "nonce")),
                **dict.fromkeys(("task", "model", "data", "seed", "hyperparameters", "freezePolicy")),
            },
            "internalParameters": dict.fromkeys(("device", "devices", "strategy")),
            "resolvedDependencies": [dict.fromkeys(("name", "digest", "annotations"))],
        },
        "runDetails": {
            "builder": {"id": None, "version": None},
            "metadata": dict.fromkeys(("invocationId", "startedOn", "finishedOn")),
            "permafrost_observed": {
                "policy": {"sha256": None},
                "crashes": None,
                "losses": None,
                "checkpoints": [{"step": None, "root": None, "files": [_FILE]}],
            },
            "permafrost_reported": _REPORTED,
        },
    },
}


def unknown_fields(document: Any) -> Iterator[str]:
    """Paths of the fields that this version of the recipe does not have."""
    yield from strangers(document, _FORM)


def version_of(document: Any) -> str:
    """The `buildType`, which names the version of all other fields. StatementError where there is none."""
    return fields.text(_inside(document, "predicate", "buildDefinition"), "buildType", "recipe.buildDefinition")


def read(document: Any) -> Recipe:
    """The recipe in a JSON document of the version BUILD_TYPE. StatementError for missing and mistyped fields."""
    if version_of(document) != BUILD_TYPE:
        raise StatementError(f"recipe of another version: {version_of(document)!r}")
    definition = _inside(document, "predicate", "buildDefinition")
    run = _inside(document, "predicate", "runDetails")
    external = _inside(definition, "externalParameters")
    job = _inside(external, "job")
    job_id, attempt = _invocation(run)
    if fields.text(job, "id", "job") != job_id:
        raise StatementError("recipe: invocationId is about another job than externalParameters")
    versions = _texts(_inside(run, "builder"), "version", "builder")
    return Recipe(
        job_id=job_id,
        attempt=attempt,
        nonce=fields.optional_text(job, "nonce", "job"),
        version=versions.get("permafrost", ""),
        subjects=_subjects(document),
        request=_request(external, _inside(definition, "internalParameters")),
        observed=_observed(definition, run, packages={n: v for n, v in versions.items() if n != "permafrost"}),
        reported=reported(_inside(run, "permafrost_reported")),
    )


def reported(value: Mapping[str, Any]) -> Reported:
    """The trainer's word in a JSON object with the recipe's names. StatementError for a field of another type."""
    at, counts = "reported", ("steps", "totalSteps", "resultStep", "tokens", "flops", "microBatchSize")
    steps, total, result, tokens, flops, micro = (_optional_count(value, name, at) for name in counts)
    loss = value.get("loss")
    if loss is not None and type(loss) not in (int, float):
        raise StatementError(f"{at}.loss: not a number")
    resumed = fields.optional_list(value, "resumed", at)
    if any(type(step) is not int or step < 0 for step in resumed):
        raise StatementError(f"{at}.resumed: not a list of steps")
    examples = None if value.get("examples") is None else _inside(value, "examples")
    return Reported(
        steps=steps,
        total_steps=total,
        result_step=result,
        tokens=tokens,
        flops=flops,
        loss=loss,
        hyperparameters=_optional_object(value, "hyperparameters", at),
        environment=_optional_object(value, "environment", at),
        padding=fields.optional_text(value, "padding", at),
        prefix=None if value.get("prefix") is None else fields.flag(value, "prefix", at),
        micro_batch_size=micro,
        exact=None if value.get("exact") is None else fields.flag(value, "exact", at),
        not_deterministic=fields.texts(value, "notDeterministic", at) if value.get("notDeterministic") else (),
        resumed=tuple(resumed),
        examples=None if examples is None else _examples(examples),
    )


def _examples(value: Mapping[str, Any]) -> ExamplesRoot:
    return ExamplesRoot(count=fields.count(value, "count", "examples"), root=fields.hex(value, "root", "examples"))


def _request(external: Mapping[str, Any], internal: Mapping[str, Any]) -> Request:
    at = "externalParameters"
    return Request(
        task=fields.text(external, "task", at),
        model=_inside(external, "model"),
        data=_inside(external, "data"),
        seed=fields.count(external, "seed", at),
        hyperparameters=_inside(external, "hyperparameters"),
        policy=_inside(external, "freezePolicy"),
        device=fields.text(internal, "device", "internalParameters"),
        devices=fields.count(internal, "devices", "internalParameters"),
        strategy=fields.text(internal, "strategy", "internalParameters"),
    )


def _observed(definition: Mapping[str, Any], run: Mapping[str, Any], *, packages: Mapping[str, str]) -> Observed:
    found = _dependencies(definition)
    own, metadata = _inside(run, "permafrost_observed"), _inside(run, "metadata")
    for name in ("base", "training", "code"):
        if name not in found:
            raise StatementError(f"resolvedDependencies: no {name!r}")
    return Observed(
        training=_material(found["training"], "training"),
        validation=_material(found["validation"], "validation") if "validation" in found else None,
        adapter=_material(found["adapter"], "adapter") if "adapter" in found else None,
        base_root=fields.hex(_inside(found["base"], "digest"), ROOT, "base.digest"),
        base_origin=_texts(found["base"], "annotations", "base") if "annotations" in found["base"] else None,
        policy_digest=fields.digest(own, "policy", "observed"),
        code=fields.digest(found["code"], "digest", "code"),
        lock=fields.digest(found["lock"], "digest", "lock") if "lock" in found else None,
        packages=packages,
        started_at=_time(metadata, "startedOn"),
        finished_at=_time(metadata, "finishedOn"),
        crashes=fields.count(own, "crashes", "observed"),
        losses=fields.count(own, "losses", "observed"),
        checkpoints=tuple(
            read_state(fields.as_object(one, f"checkpoints[{at}]"), f"checkpoints[{at}]")
            for at, one in enumerate(fields.as_list(own, "checkpoints", "observed"))
        ),
    )


def _dependencies(definition: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The resource descriptors by name, each of which has to be there once."""
    found: dict[str, Mapping[str, Any]] = {}
    for at, entry in enumerate(fields.as_list(definition, "resolvedDependencies", "buildDefinition")):
        one = fields.as_object(entry, f"resolvedDependencies[{at}]")
        name = fields.text(one, "name", f"resolvedDependencies[{at}]")
        if name in found:
            raise StatementError(f"resolvedDependencies: {name!r} is there twice")
        found[name] = one
    return found


def _material(value: Mapping[str, Any], role: str) -> FileRef:
    size = fields.count(_inside(value, "annotations"), "size", f"{role}.annotations")
    return FileRef(role, size, fields.digest(value, "digest", role))


def read_state(value: Mapping[str, Any], at: str) -> SavedState:
    """A checkpoint's digests. StatementError for missing and mistyped fields."""
    files = []
    for number, entry in enumerate(fields.as_list(value, "files", at)):
        file, where = fields.as_object(entry, f"{at}.files[{number}]"), f"{at}.files[{number}]"
        name, size = fields.text(file, "name", where), fields.count(file, "size", where)
        files.append(FileRef(name, size, fields.digest(file, "digest", where)))
    return SavedState(step=fields.count(value, "step", at), root=fields.hex(value, "root", at), files=tuple(files))


def _subjects(document: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    subjects = []
    for at, entry in enumerate(fields.as_list(document, "subject", "recipe")):
        subject = fields.as_object(entry, f"subject[{at}]")
        name = fields.text(subject, "name", f"subject[{at}]")
        subjects.append((name, fields.digest(subject, "digest", f"subject[{at}]")))
    return tuple(subjects)


def _invocation(run: Mapping[str, Any]) -> tuple[str, int]:
    """Job and attempt."""
    text = fields.text(_inside(run, "metadata"), "invocationId", "metadata")
    job, _, attempt = text.rpartition("/")
    if not job or not attempt.isascii() or not attempt.isdecimal() or len(attempt) > 9:
        raise StatementError(f"metadata.invocationId: {text!r} is not JOB/ATTEMPT")
    return job, int(attempt)


def _inside(value: Any, *names: str) -> Mapping[str, Any]:
    """The object at this path."""
    found, at = fields.as_object(value, "recipe"), "recipe"
    for name in names:
        found, at = fields.as_object(fields.field_of(found, name, at), f"{at}.{name}"), f"{at}.{name}"
    return found


def _texts(value: Mapping[str, Any], name: str, at: str) -> dict[str, str]:
    found = fields.as_object(fields.field_of(value, name, at), f"{at}.{name}")
    return {key: fields.text(found, key, f"{at}.{name}") for key in found}


def _optional_object(value: Mapping[str, Any], name: str, at: str) -> Mapping[str, Any]:
    return {} if value.get(name) is None else fields.as_object(value[name], f"{at}.{name}")


def _optional_count(value: Mapping[str, Any], name: str, at: str) -> int | None:
    return None if value.get(name) is None else fields.count(value, name, at)


def _time(value: Mapping[str, Any], name: str) -> datetime:
    try:
        moment = read_time(fields.text(value, name, "metadata"))
    except KeyFileError as error:
        raise StatementError(f"metadata.{name}: {error}") from None
    assert moment is not None  # only None reads as None
    return moment
