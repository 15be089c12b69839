"""Tensors to compare that are in memory, as app.evidence.diff.changes asks for their bytes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor in memory."""

    data: bytes | memoryview

    def read(self, start: int, stop: int) -> bytes | memoryview:
        return memoryview(self.data)[start:stop]
