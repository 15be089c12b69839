"""Which files a job learns from, and how they are to be read."""

from dataclasses import dataclass
from typing import ClassVar

from app.errors import DataError, InvalidRequest
from app.specs.reading import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec(Spec):
    """`training` and `validation` are paths in a workspace; a job's row has neither, since its files have ids."""

    PARAM: ClassVar[str] = "data"
    ERROR: ClassVar[type[InvalidRequest]] = DataError

    features: tuple[str, ...] | None = None  # columns of a table; absent: all but the target
    target: str | tuple[str, ...] | None = None  # absent: the last one
    format: str | None = None  # absent: seen from the file
    validation_format: str | None = None
    training: str | None = None
    validation: str | None = None

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.target,) if isinstance(self.target, str) else self.target or ()
