"""What every store can say of a file."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    key: str
    size: int
    modified: float  # seconds since 1970, by the store's clock
