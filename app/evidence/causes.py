"""Groups a job's violations by what caused them: one write to a whole encoder is one cause, not a hundred."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Cause:
    """Tensors that changed at the same step and, as far as is known, for the same reason."""

    names: tuple[str, ...]
    first_bad_step: int | None
    operation: str | None  # what wrote them
    explanation: str | None  # why no operation is known


def by_cause(violations: Iterable[Mapping[str, Any]]) -> list[Cause]:
    """The causes of violations as a job's evidence has them, the one with the most tensors first."""
    groups: dict[tuple[int | None, str | None, str | None], list[str]] = {}
    for violation in violations:
        operation, explanation = violation.get("operation"), violation.get("explanation")
        if not operation and not explanation and violation.get("first_bad_step") is None:
            explanation = (violation.get("reason") or "").partition(":")[0] or None  # what follows is of one tensor
        key = (violation.get("first_bad_step"), operation, explanation)
        groups.setdefault(key, []).append(str(violation["name"]))
    causes = [Cause(tuple(names), *key) for key, names in groups.items()]
    return sorted(causes, key=lambda cause: (-len(cause.names), cause.names))
