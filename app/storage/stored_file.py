"""A file as every kind of blob store lists it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a store, by its key relative to the store's root."""

    key: str
    size: int
    modified: float  # seconds since 1970, by the store's clock
