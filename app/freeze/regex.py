"""Regular expressions in linear time: an automaton instead of backtracking, so no pattern can hang.

Patterns come in over HTTP and run against every name of a model. Patterns that need backtracking (look-around,
back-references) are refused; for all others the result is that of `re.fullmatch`.
"""

import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

MAX_LENGTH = 200
MAX_STATES = 2_000  # after {m,n} is written out
MAX_REMEMBERED = 100_000  # transitions, before the memory is cleared

_CLASSES = "dDwWsS"
_LITERALS = "tnrfv"
_COUNTED = re.compile(r"\{([0-9]*)(,?)([0-9]*)\}")


@dataclass(frozen=True, slots=True)
class _Atom:
    """One character: a literal, `.`, an escape or a class, in regex syntax."""

    text: str


@dataclass(frozen=True, slots=True)
class _Sequence:
    parts: tuple["_Node", ...]


@dataclass(frozen=True, slots=True)
class _Alternation:
    parts: tuple["_Node", ...]


@dataclass(frozen=True, slots=True)
class _Repeat:
    part: "_Node"
    least: int
    most: int | None


_Node = _Atom | _Sequence | _Alternation | _Repeat


def compile_regex(pattern: str) -> Callable[[str], bool]:
    """A test of whole names. ValueError says what is wrong with the pattern."""
    if not pattern or len(pattern) > MAX_LENGTH:
        raise ValueError(f"a regex has 1 to {MAX_LENGTH} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # such as a possible nested set: meanings that will change
            re.compile(pattern)
    except (re.error, Warning, OverflowError, RecursionError) as error:
        raise ValueError(f"'{pattern}' is not a regex: {error}") from error
    automaton = _Automaton(_Parser(pattern).parse())
    return automaton.matches


class _Parser:
    """Recursive descent over a pattern that `re` has already found well-formed."""

    def __init__(self, pattern: str) -> None:
        # The whole name must match in any case, so anchors at the ends say nothing.
        self.text = pattern.removeprefix("^")
        if self.text.endswith("$") and (len(self.text) - len(self.text[:-1].rstrip("\\"))) % 2 == 1:
            self.text = self.text[:-1]
        self.at = 0

    def parse(self) -> _Node:
        return self._choice()

    def _choice(self) -> _Node:
        parts = [self._sequence()]
        while self._peek() == "|":
            self.at += 1
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else _Alternation(tuple(parts))

    def _sequence(self) -> _Node:
        parts = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._repeats(self._single()))
        return _Sequence(tuple(parts))

    def _single(self) -> _Node:
        character = self._take()
        if character == "(":
            return self._group()
        if character == "[":
            return _Atom(self._class())
        if character == "\\":
            return self._escape()
        if character in "^$":
            self._refuse(f"'{character}' inside it; the whole name must match anyway")
        return _Atom("." if character == "." else re.escape(character))

    def _group(self) -> _Node:
        if self._peek() == "?":
            if self.text[self.at : self.at + 2] != "?:":
                self._refuse("'(?' other than '(?:'; look-around, flags and named groups are not supported")
            self.at += 2
        inside = self._choice()
        self.at += 1  # the closing bracket
        return inside

    def _class(self) -> str:
        start = self.at - 1
        self.at += self._peek() == "^"
        self.at += self._peek() == "]"  # a bracket that stands first is a member
        while self._peek() != "]":
            self.at += 2 if self._peek() == "\\" else 1
        self.at += 1
        return self.text[start : self.at]

    def _escape(self) -> _Node:
        character = self._take()
        if character.isalnum() and character not in _CLASSES + _LITERALS:
            self._refuse(f"'\\{character}'; back-references, anchors and character codes are not supported")
        return _Atom("\\" + character)

    def _repeats(self, part: _Node) -> _Node:
        bounds = self._bounds()
        if bounds is None:
            return part
        if self._peek() == "+":
            self._refuse("a possessive quantifier")
        self.at += self._peek() == "?"  # lazy or greedy is the same for a whole match
        return _Repeat(part, *bounds)

    def _bounds(self) -> tuple[int, int | None] | None:
        simple: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        if self._peek() in simple:
            return simple[self._take()]
        counted = _COUNTED.match(self.text, self.at)
        if not counted or counted[0] == "{}":  # `re` reads this as text
            return None
        self.at = counted.end()
        least = int(counted[1] or 0)
        return least, (int(counted[3]) if counted[3] else None) if counted[2] else least

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _take(self) -> str:
        self.at += 1
        return self.text[self.at - 1]

    def _refuse(self, what: str) -> None:
        raise ValueError(f"a regex that selects tensors has no {what}: '{self.text}'")


class _Row(dict[str, "_Row | None"]):
    """A set of states, and the row after each segment (and its dot) seen so far; None when nothing can match any more.

    Segments, since the names of a model share most of theirs; `characters` serves those that are new.
    """

    def __init__(self, automaton: "_Automaton", states: frozenset[int]) -> None:
        self.automaton = automaton
        self.states = states
        self.accepts = 0 in states
        self.characters: dict[str, _Row | None] = {}
        self.ends: dict[str, bool] = {}  # whether a name may end with this segment

    def __missing__(self, segment: str) -> "_Row | None":
        row = self._read(segment + ".")
        self.automaton.make_room()
        self[segment] = row
        return row

    def ends_with(self, segment: str) -> bool:
        if segment not in self.ends:
            row = self._read(segment)
            self.automaton.make_room()
            self.ends[segment] = row is not None and row.accepts
        return self.ends[segment]

    def forget(self) -> None:
        for memory in (self, self.characters, self.ends):
            memory.clear()

    def _read(self, text: str) -> "_Row | None":
        row: _Row | None = self
        for character in text:
            if row is None:
                return None
            if character not in row.characters:
                row.characters[character] = self.automaton.step(row.states, character)
            row = row.characters[character]
        return row


class _Automaton:
    """An automaton by Thompson's construction, made deterministic step by step as names need it."""

    def __init__(self, node: _Node) -> None:
        self.tests: dict[int, Callable[[str], object]] = {}
        self.next: dict[int, tuple[int, ...]] = {0: ()}  # 0 accepts
        self.start = _Row(self, frozenset(self._closure([self._build(node, 0)])))
        self.rows: dict[frozenset[int], _Row] = {}
        self.remembered = 0

    def matches(self, name: str) -> bool:
        row = self.start
        *path, last = name.split(".")
        for segment in path:
            following = row[segment]
            if following is None:
                return False
            row = following
        return row.ends_with(last)

    def step(self, states: frozenset[int], character: str) -> _Row | None:
        """The row after one more character, or None."""
        passed = [self.next[state][0] for state in states if state in self.tests and self.tests[state](character)]
        states = frozenset(self._closure(passed))
        self.make_room()
        return self.rows.setdefault(states, _Row(self, states)) if states else None

    def make_room(self) -> None:
        """Clear the caches after MAX_REMEMBERED transitions, which bounds memory and changes no result."""
        self.remembered += 1
        if self.remembered > MAX_REMEMBERED:
            self.remembered = 0
            for row in (self.start, *self.rows.values()):
                row.forget()
            self.rows.clear()

    def _closure(self, states: list[int]) -> Iterator[int]:
        """States reached without reading a character; only those that read one, or accept, are kept."""
        seen, open_states = set(states), list(states)
        while open_states:
            state = open_states.pop()
            if state in self.tests or state == 0:
                yield state
                continue
            for following in self.next[state]:
                if following not in seen:
                    seen.add(following)
                    open_states.append(following)

    def _build(self, node: _Node, after: int) -> int:
        """The state that reads `node` and then goes on at `after`."""
        if isinstance(node, _Atom):
            state = self._new(after)
            self.tests[state] = re.compile(node.text, re.DOTALL).fullmatch
            return state
        if isinstance(node, _Sequence):
            for part in reversed(node.parts):
                after = self._build(part, after)
            return after
        if isinstance(node, _Alternation):
            return self._new(*(self._build(part, after) for part in node.parts))
        return self._build_repeat(node, after)

    def _build_repeat(self, node: _Repeat, after: int) -> int:
        entry = after
        if node.most is None:
            entry = self._new(after)
            self.next[entry] = (self._build(node.part, entry), after)
        else:
            for _ in range(node.most - node.least):
                entry = self._new(self._build(node.part, entry), after)
        for _ in range(node.least):
            entry = self._build(node.part, entry)
        return entry

    def _new(self, *following: int) -> int:
        if len(self.next) >= MAX_STATES:
            raise ValueError(f"this regex is too large: its counts write out to more than {MAX_STATES} states")
        state = len(self.next)
        self.next[state] = following
        return state
