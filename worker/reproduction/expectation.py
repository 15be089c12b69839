"""Says, before anything is trained, why the bits may come out otherwise here: another machine, another build."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from app.evidence.format.recipe import Recipe

#: What of the trainer's environment bits depend on, and what a difference is called. Threads are set as they were.
COMPARED: Final[Mapping[str, str]] = {
    "torch": "torch build",
    "transformers": "version of transformers",
    "quantiser": "version of the quantiser",
    "machine": "architecture",
    "cpu": "kind of CPU",
    "processor": "processor",
    "device": "device",
    "cuda": "CUDA version",
}


def reasons(recipe: Recipe, *, environment: Mapping[str, Any], code: str) -> Iterator[str]:
    """Why equality cannot be expected; nothing where it can. `environment` and `code` are those of this machine."""
    before = recipe.reported.environment
    if not before:
        yield "the recipe does not say in which environment the run was made"
    for name, what in COMPARED.items():
        if name in before and before[name] != environment.get(name):
            yield f"another {what}: {before[name]} then, {environment.get(name)} here"
    if code != recipe.observed.code:
        yield f"other code: {recipe.observed.code} (version {recipe.version}) then, {code} here"
    yield from map(_no_kernel, recipe.reported.not_deterministic)
    went_on = recipe.attempt > 1  # by the supervisor's count: a first attempt does not go on from another
    if recipe.reported.exact is False and not recipe.reported.not_deterministic and went_on:
        yield "the run went on in another environment than the one that it had begun in"
    wanted, reached = recipe.reported.hyperparameters.get("micro_batch_size"), recipe.reported.micro_batch_size
    if wanted is not None and reached is not None and wanted != reached:
        yield f"memory ran out in the run: micro-batches of {wanted} became {reached}, at a step that is not known"


def refuted(recipe: Recipe, word: Mapping[str, Any]) -> Iterator[str]:
    """Those reasons that a run of all steps here has disproved, by its own `word`: operations that it did not have.

    Which operations a run has follows from its code, and from the environment that it runs in.
    """
    again = word.get("notDeterministic") or ()
    yield from (_no_kernel(one) for one in recipe.reported.not_deterministic if one not in again)


def _no_kernel(operation: str) -> str:
    return f"an operation without a deterministic kernel: {operation}"
