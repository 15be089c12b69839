"""One thing that is not as it should be, and what became of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(slots=True)
class Finding:
    """`remedy` says what `repair` would do; without one it takes a person. A note is worth knowing, and no fault."""

    kind: str
    object: str
    message: str
    remedy: str | None = None
    repair: Callable[[], str] | None = None  # does it, and says what was done
    level: Literal["problem", "note"] = "problem"
    done: str | None = None

    @property
    def open(self) -> bool:
        return self.level == "problem" and self.done is None

    def mend(self) -> None:
        if self.repair is not None:
            self.done = self.repair()

    def to_json(self) -> dict[str, Any]:
        names = ("kind", "level", "object", "message", "remedy", "done")
        return {name: getattr(self, name) for name in names}

    def to_text(self) -> str:
        if self.done is not None:
            word, then = "done", self.done
        else:
            word = "FAIL" if self.open else "note"
            then = f"--repair: {self.remedy}" if self.remedy else "needs a person" if self.open else "nothing to do"
        return f"{word:4}  {self.kind} {self.object}: {self.message} ({then})"
