"""Which tensors of two models belong together, by their names."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from app.evidence.format.wrappers import WRAPPERS, unwrapped, wrappers_in


def pair(base: Iterable[str], result: Iterable[str]) -> dict[str, str | None]:
    """The base's name for each name of the result: the same, or the same up to the most frequent prefix.

    Parts of wrappers do not count, unless two tensors of one model would have the same name without them.
    """
    of_base, of_result = _without_wrappers(base), _without_wrappers(result)
    made = _paired(set(of_base), list(of_result))
    return {of_result[name]: of_base[partner] if partner is not None else None for name, partner in made.items()}


def notes(base: Collection[str], result: Collection[str]) -> Iterator[str]:
    """One sentence about each wrapper whose part of the names was left out of the comparison."""
    for which, names in (("A", base), ("B", result)):
        if set(_without_wrappers(names)) == set(names):
            continue
        for wrapper, count in wrappers_in(names).items():
            yield (
                f"{count:,} names in {which} have {wrapper!r}, a part that {WRAPPERS[wrapper]} puts into them; they "
                "are compared without it"
            )


def _without_wrappers(names: Iterable[str]) -> dict[str, str]:
    """Names without the parts of wrappers, and the names as stored; all as stored where they would collide."""
    names = list(names)
    plain = {unwrapped(name): name for name in names}
    return plain if len(plain) == len(names) else {name: name for name in names}


def _paired(base: set[str], result: list[str]) -> dict[str, str | None]:
    prefixes: Counter[tuple[str, str]] = Counter()
    wanted = set(result)
    by_tail = {tail: name for name in base for tail in _tails(name) if tail in wanted}
    for name in result:
        if name in base:
            continue
        prefixes.update((name[: -len(tail)], "") for tail in _tails(name) if tail in base)
        if name in by_tail:
            prefixes[("", by_tail[name][: -len(name)])] += 1
    off, on = prefixes.most_common(1)[0][0] if prefixes else ("", "")
    made: dict[str, str | None] = {}
    for name in result:
        moved = on + name.removeprefix(off) if name.startswith(off) else name
        made[name] = name if name in base else moved if moved in base else None
    return made


def _tails(name: str) -> Iterator[str]:
    """The name without its first, first two, ... segments."""
    while "." in name:
        name = name.partition(".")[2]
        yield name
