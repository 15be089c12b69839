"""The recipe in a verification's report: as JSON, and as a few lines of text."""

from collections.abc import Iterator, Mapping
from typing import Any

from app.evidence.format.keys import iso
from app.evidence.format.recipe import Recipe
from app.jsontypes import JsonDict


def recipe_facts(recipe: Recipe | None) -> JsonDict:
    """The recipe under `recipe`, with the supervisor's observations and the trainer's word apart; {} without one."""
    if recipe is None:
        return {}
    request, observed, reported = recipe.request, recipe.observed, recipe.reported
    files = {"training": observed.training, "validation": observed.validation, "adapter": observed.adapter}
    seen: JsonDict = {
        "data": {role: file.sha256 for role, file in files.items() if file is not None},
        "started_at": iso(observed.started_at),
        "finished_at": iso(observed.finished_at),
        "attempts": recipe.attempt,
        "crashes": observed.crashes,
        "devices_lost": observed.losses,
        "version": recipe.version,
        "code": observed.code,
        "lock": observed.lock,
        "packages": dict(observed.packages),
        "checkpoints": [{"step": state.step, "root": state.root} for state in observed.checkpoints],
    }
    said: JsonDict = {
        "steps": reported.steps,
        "result_step": reported.steps if reported.result_step is None else reported.result_step,
        "tokens": reported.tokens,
        "flops": reported.flops,
        "loss": reported.loss,
        "hyperparameters": dict(reported.hyperparameters),
        "environment": dict(reported.environment),
        "exact": reported.exact,
        "not_deterministic": list(reported.not_deterministic),
        "resumed_after_steps": list(reported.resumed),
        "examples": None
        if reported.examples is None
        else {"count": reported.examples.count, "root": reported.examples.root},
    }
    asked: JsonDict = {"task": request.task, "model": dict(request.model), "seed": request.seed}
    asked |= {"device": request.device, "devices": request.devices, "hyperparameters": dict(request.hyperparameters)}
    return {"recipe": {"requested": asked, "observed": seen, "reported": said}}


def recipe_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """The recipe's main facts in a few lines: what was asked, what the supervisor saw, what the trainer said."""
    asked, seen, said = facts["requested"], facts["observed"], facts["reported"]
    yield f"recipe: {asked['task']}, seed {asked['seed']}, on {asked['device']}"
    data = ", ".join(f"{role} {digest}" for role, digest in seen["data"].items())
    yield f"  data: {data}"
    tries = f"attempt {seen['attempts']}, {len(seen['checkpoints'])} checkpoints read"
    yield f"  run: {seen['started_at']} to {seen['finished_at']}, {tries}"
    yield f"  by: version {seen['version']}, code {seen['code']}"
    named = {name: said[name] for name in ("steps", "tokens", "flops", "loss") if said[name] is not None}
    words = ", ".join(f"{name} {value}" for name, value in named.items()) or "nothing"
    back = f", result of step {said['result_step']}" if said["result_step"] != said["steps"] else ""
    yield f"  the trainer's word: {words}{back}"
