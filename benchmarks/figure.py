"""A figure: one measured number, with what it is to be held against."""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """`against` is the peer or the bound, in words or as a number in the same unit."""

    name: str
    value: float | str
    unit: str = ""
    against: float | str | None = None

    def as_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    def as_text(self) -> str:
        value = f"{self.value:,.4g}" if isinstance(self.value, float) else str(self.value)
        beside = "" if self.against is None else f"  (against: {self.against})"
        return f"{self.name:<44} {value:>12} {self.unit}{beside}"
