"""The columns of a training file that is a table: which a task needs, and which are features and targets."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from app.files.examples import SHAPES
from app.files.problems import LineProblem, nearest
from app.specs.data import DataSpec

SEPARATED = "; the values do not seem to be separated by commas, semicolons or tabs"


@dataclass(frozen=True, slots=True)
class Columns:
    """Feature and target columns of a table, from the job's `data`. Empty: all but the last, and the last."""

    features: tuple[str, ...] = ()
    target: tuple[str, ...] = ()

    @classmethod
    def of(cls, data: DataSpec) -> "Columns":
        return cls(data.features or (), data.targets)


#: Of a job that names none.
LAST_IS_TARGET = Columns()


def unused(format: str, task: str, columns: Columns) -> list[LineProblem]:
    """A problem where the job's `data` names columns, and examples of the task or format have fields of their own."""
    if not columns.features and not columns.target:
        return []
    reason = "JSONL examples have 'x' and 'y'" if format == "jsonl" else f"{task} has fixed fields"
    return [LineProblem(None, None, "unused_columns", f"'data' names columns, but {reason}; leave 'data' out")]


def missing(available: Sequence[str], empty: Collection[str], task: str) -> list[LineProblem]:
    """Missing and unknown columns of a table, once for the header instead of once per row.

    Those that are `empty` in every row count as absent.
    """
    columns = [name for name in available if name not in empty]
    for required, optional in SHAPES[task]:
        if set(required) <= set(columns):
            extra = [name for name in columns if name not in (*required, *optional)]
            return [_unknown_column(name, task, (*required, *optional)) for name in extra]
    required = max((shape[0] for shape in SHAPES[task]), key=lambda names: len(set(names) & set(columns)))
    return [_no_column(name, columns) for name in required if name not in columns]


def chosen(available: Sequence[str], columns: Columns, task: str) -> tuple[Columns, list[LineProblem]]:
    """The columns of a table: the named ones, else the last as target and the others as features; and problems."""
    target = columns.target or tuple(available[-1:])
    features = columns.features or tuple(name for name in available if name not in target)
    known = set(available)
    problems = [_no_column(name, available) for name in (*features, *target) if name not in known]

    twice = [name for name, count in Counter([*features, *target]).items() if count > 1]
    problems += [
        LineProblem(None, name, "duplicate_column", f"'data' names the column '{name}' twice") for name in twice
    ]
    if not features:
        problems.append(LineProblem(1, None, "missing_column", "a table needs a feature column beside its target"))
    if task == "tabular-classification" and len(target) != 1:
        problems.append(LineProblem(None, None, "too_many_targets", f"{task} has one target column, not {len(target)}"))
    return Columns(features, target), problems


def _unknown_column(name: str, task: str, known: tuple[str, ...]) -> LineProblem:
    return LineProblem(1, name, "unknown_field", f"'{name}' is not a column of {task}, which has {', '.join(known)}")


def _no_column(name: str, columns: Sequence[str]) -> LineProblem:
    listed = ", ".join(f"'{column}'" for column in columns[:20]) + (" and more" if len(columns) > 20 else "")
    hint = SEPARATED if len(columns) == 1 and "|" in columns[0] else ""
    return LineProblem(
        1, name, "missing_column", f"no column '{name}'{nearest(name, columns)}; columns are {listed}{hint}"
    )
