"""The labels of a whole file: their order, what looks like one label written twice, and the map of a base."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

#: Python reads no longer numbers.
_MAX_DIGITS: Final = 4_000
_MAX_WARNINGS: Final = 10


def in_order(labels: Mapping[str, int]) -> tuple[str, ...]:
    """Labels in the order of their indices: whole numbers by value, others by name, whatever the order of lines."""
    if all(label.removeprefix("-").isdecimal() and label.isascii() and len(label) < _MAX_DIGITS for label in labels):
        return tuple(sorted(labels, key=int))
    return tuple(sorted(labels))


def kept_map(labels: Sequence[str], own: Sequence[str] | None) -> tuple[str, ...]:
    """The label map of a job: the base's `own` where the file's labels are among its names, or are all its indices."""
    if own and (set(labels) <= set(own) or list(labels) == [str(index) for index in range(len(own))]):
        return tuple(own)
    return tuple(labels)


def lookalikes(counts: Mapping[str, int]) -> Iterator[str]:
    """Warnings of labels that differ from another only by the spaces around them, with the examples of each."""
    groups: dict[str, list[str]] = defaultdict(list)
    for label in counts:
        groups[label.strip()].append(label)
    alike = [sorted(group) for group in groups.values() if len(group) > 1]
    for group in alike[:_MAX_WARNINGS]:
        listed = " and ".join(f"{label[:60]!r} ({counts[label]:,} times)" for label in group)
        yield f"the labels {listed} differ only by spaces around them, and are {len(group)} classes"
