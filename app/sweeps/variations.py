"""Turns a grid or a list of variations into requests of single jobs, and errors of these into errors of the sweep."""

import contextlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from app.errors import InvalidRequest, PermafrostError
from app.http.validation import explain_fields
from app.jobs.requests.schemas import JobCreate
from app.jsontypes import JsonDict
from app.sweeps.schemas import MOST_JOBS, Grid, SweepCreate, VariationRequest


@dataclass(frozen=True, slots=True)
class Variation:
    """What one job has of its own, as fields of a job, and where in the sweep's request each of them is."""

    values: JsonDict
    paths: dict[str, str]  # path in a job's request -> path in the sweep's

    def path(self, param: str) -> str:
        """Where in the sweep's request a field is that a job's request calls `param`."""
        param = re.sub(r"^method\.\w+\.(?=hyperparameters)", "", param)
        for inner, outer in self.paths.items():
            rest = param.removeprefix(inner)
            if param.startswith(inner) and rest[:1] in ("", ".", "["):
                return outer + rest
        return f"job.{param}" if param else "job"


@dataclass(frozen=True, slots=True)
class _Choice:
    """One value of one axis of a grid."""

    name: str  # of the job's field; with a hyperparameter's after a dot
    value: Any
    path: str


def expand(request: SweepCreate) -> list[Variation]:
    """The sweep's jobs in their order. Raises InvalidRequest for two that are the same, and for too many."""
    variations = _of_grid(request.grid) if request.grid else _of_list(request.variations or [])
    seen: dict[str, int] = {}
    for number, variation in enumerate(variations):
        content = json.dumps(variation.values, sort_keys=True)
        if content in seen:
            message = f"jobs {seen[content] + 1} and {number + 1} of the sweep are the same; leave one of them out"
            param = "grid" if request.grid else f"variations[{number}]"
            raise InvalidRequest(message, param=param, code="duplicate_job")
        seen[content] = number
    return variations


def request_of(job: JobCreate, variation: Variation, *, seed: int) -> JobCreate:
    """The request of one job; `seed` is for a job that has none of its own. Raises what a job's request raises."""
    fields: JsonDict = {name: getattr(job, name) for name in job.model_fields_set} | {"seed": seed}
    fields |= {name: value for name, value in variation.values.items() if name != "hyperparameters"}
    if chosen := variation.values.get("hyperparameters"):
        fields |= _with_hyperparameters(job, chosen)
    with located(variation, body=fields):
        return JobCreate.model_validate(fields)


@contextlib.contextmanager
def located(variation: Variation, *, body: JsonDict | None = None) -> Iterator[None]:
    """Raises errors of a job's request as errors of the sweep's: `param` is a path in the sweep's request."""
    try:
        yield
    except ValidationError as error:
        problems = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors(include_url=False)]
        raise explain_fields(RequestValidationError(problems, body=body), locate=variation.path) from None
    except PermafrostError as error:
        if error.param is not None:
            error.param = variation.path(error.param)
        raise


def _with_hyperparameters(job: JobCreate, chosen: JsonDict) -> JsonDict:
    """The job's hyperparameters with the chosen ones in their places, wherever in the request they are."""
    method = job.method
    if method is not None and (given := method.hyperparameters()):
        merged = given.model_dump(exclude_unset=True) | chosen
        return {"method": {"type": method.type, method.type: {"hyperparameters": merged}}}
    return {
        "hyperparameters": (job.hyperparameters.model_dump(exclude_unset=True) if job.hyperparameters else {}) | chosen
    }


def _of_grid(grid: Grid) -> list[Variation]:
    axes = [axis for axis in _axes(grid) if axis]
    if not axes:
        raise InvalidRequest("grid: give values of hyperparameters, freeze_policy or seed", param="grid")

    total = 1
    for axis in axes:
        total *= len(axis)
    if total > MOST_JOBS:
        message = f"grid: makes {total:,} jobs, and a sweep has {MOST_JOBS} at most; leave values out"
        raise InvalidRequest(message, param="grid", code="too_many_jobs")
    return [_joined(choices) for choices in itertools.product(*axes)]


def _axes(grid: Grid) -> Iterator[list[_Choice]]:
    """Policies change slowest, so that jobs with the same frozen layers follow each other."""
    yield [
        _Choice("freeze_policy", policy, f"grid.freeze_policy[{at}]")
        for at, policy in enumerate(grid.freeze_policy or [])
    ]
    for name, values in (grid.hyperparameters or {}).items():
        path = f"grid.hyperparameters.{name}"
        yield [_Choice(f"hyperparameters.{name}", value, f"{path}[{at}]") for at, value in enumerate(values)]
    yield [_Choice("seed", seed, f"grid.seed[{at}]") for at, seed in enumerate(grid.seed or [])]


def _joined(choices: Sequence[_Choice]) -> Variation:
    values: JsonDict = {}
    for choice in choices:
        name, _, hyperparameter = choice.name.partition(".")
        if hyperparameter:
            values.setdefault(name, {})[hyperparameter] = choice.value
        else:
            values[name] = choice.value
    return Variation(values, {choice.name: choice.path for choice in choices})


def _of_list(variations: Sequence[VariationRequest]) -> list[Variation]:
    return [_of_entry(entry, f"variations[{number}]") for number, entry in enumerate(variations)]


def _of_entry(entry: VariationRequest, path: str) -> Variation:
    values: JsonDict = entry.model_dump(exclude_unset=True, exclude_none=True)
    names = [f"hyperparameters.{name}" for name in values.get("hyperparameters", {})]
    names += [name for name in values if name != "hyperparameters"]
    return Variation(values, {name: f"{path}.{name}" for name in names})
