"""One finding of the doctor, and what was done about it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from app.errors import PermafrostError
from app.jsontypes import JsonDict


@dataclass(slots=True)
class Finding:
    """A disagreement that the doctor found. `remedy` describes `repair`; without one, an operator has to act.

    A finding of level "note" is information and does not make the doctor fail.
    """

    kind: str
    object: str
    message: str
    remedy: str | None = None
    repair: Callable[[], str] | None = None  # returns what was done
    level: Literal["problem", "note"] = "problem"
    done: str | None = None

    @property
    def open(self) -> bool:
        return self.level == "problem" and self.done is None

    def apply_repair(self) -> None:
        if self.repair is not None:
            try:
                self.done = self.repair()
            except PermafrostError as error:
                self.message += f"; it could not be repaired: {error}"

    def to_json(self) -> JsonDict:
        names = ("kind", "level", "object", "message", "remedy", "done")
        return {name: getattr(self, name) for name in names}

    def to_text(self) -> str:
        if self.done is not None:
            word, then = "done", self.done
        else:
            word = "FAIL" if self.open else "note"
            then = f"--repair: {self.remedy}" if self.remedy else "needs an operator" if self.open else "nothing to do"
        return f"{word:4}  {self.kind} {self.object}: {self.message} ({then})"
