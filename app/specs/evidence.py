"""What a job wants of its evidence."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from app.specs.reading import Range, Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceSpec(Spec):
    """Absent: a budget of 0.01 and no nonce."""

    PARAM: ClassVar[str] = "evidence"

    overhead_budget: Annotated[float, Range(0, 1)] | None = None  # share of training time for checks
    nonce: str | None = None  # comes back inside the signature

    @property
    def budget(self) -> float:
        return 0.01 if self.overhead_budget is None else float(self.overhead_budget)
