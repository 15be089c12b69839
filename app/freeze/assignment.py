"""Assigns the names of a model to the rules of a policy, whole or by rows. The first rule that matches decides."""

from bisect import bisect
from dataclasses import dataclass, field

from app.errors import PolicyError
from app.freeze.policy import WHOLE_RUN, Intervals, Policy, Rule
from app.freeze.selectors import Index, listed
from app.freeze.tensors import TensorInfo

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class NameDecision:
    action: str
    mechanism: str | None
    intervals: Intervals
    frozen_rows: Ranges = ()
    trainable_rows: Ranges = ()
    rule: str = field(default="default", compare=False)  # two rules may decide the same for two names of one tensor


class Assignment:
    """The rule that decides each name of a model."""

    def __init__(self, policy: Policy, index: Index) -> None:
        self.policy = policy
        self.index = index
        self.whole: list[int] = [-1] * len(index.names)  # rule numbers by position; -1 is the default
        self.rows: dict[int, list[tuple[int, int, int]]] = {}  # position -> (start, stop, rule number)
        self.decisions = [
            NameDecision(rule.action, rule.mechanism, rule.intervals, rule=rule.id) for rule in policy.rules
        ]
        frozen = policy.default == "freeze"
        # Last, so that number -1 finds it.
        self.decisions.append(
            NameDecision(policy.default, policy.mechanism if frozen else None, WHOLE_RUN if frozen else ())
        )

    def add(self, number: int, matched: list[int]) -> None:
        """Assign the matched names that are still free to rule `number`. Raises PolicyError if no name is free."""
        rule = self.policy.rules[number]
        decided = [position for position in matched if self.whole[position] < 0]
        if not decided:
            earlier = list(dict.fromkeys(self.policy.rules[self.whole[p]].id for p in matched))
            raise PolicyError(
                f"rule '{rule.id}' decides nothing: all {len(matched)} names that it matches are already decided by "
                f"{listed(earlier)}; the first match wins, so put '{rule.id}' above",
                param=rule.at,
            )
        for position in decided:
            if rule.select.rows:
                self._add_rows(number, rule, position)
            else:
                self.whole[position] = number
        _check_expect(rule, self.index, decided, len(matched))

    def decision(self, at: int) -> NameDecision:
        """The decision for tensor number `at`. Raises PolicyError if its names have different decisions."""
        tensor = self.index.tensors[at]
        if not self.rows and not tensor.aliases:
            return self.decisions[self.whole[self.index.position[tensor.name]]]
        decision = self._of_name(tensor.name, tensor)
        for alias in tensor.aliases:
            other = self._of_name(alias, tensor)
            if other != decision:
                raise PolicyError(
                    f"'{tensor.name}' and '{alias}' are one tensor (they share storage), and the policy decides "
                    f"twice: {_described(decision)}, and {_described(other)}; name both in one rule",
                    param=_where(self.policy, other if other.rule != "default" else decision),
                )
        return decision

    def _of_name(self, name: str, tensor: TensorInfo) -> NameDecision:
        position = self.index.position[name]
        rest = self.decisions[self.whole[position]]
        pieces = self.rows.get(position)
        return _with_rows(self.policy, rest, pieces, tensor) if pieces else rest

    def _add_rows(self, number: int, rule: Rule, position: int) -> None:
        name, tensor = self.index.names[position], self.index.tensors[self.index.owner[position]]
        where = rule.select_at("rows")
        if tensor.kind != "parameter":
            raise PolicyError(f"rule '{rule.id}': '{name}' is a buffer; only parameters can be split", param=where)
        if not tensor.shape:
            raise PolicyError(f"rule '{rule.id}': '{name}' is a scalar and has no rows", param=where)
        rows, pieces = tensor.shape[0], self.rows.setdefault(position, [])
        for start, stop in rule.select.rows:
            if stop > rows:
                raise PolicyError(
                    f"rule '{rule.id}': rows [{start}, {stop}] of '{name}', which has {rows} rows",
                    param=where,
                )
            at = bisect(pieces, start, key=lambda piece: piece[0])
            for other_start, other_stop, other in pieces[max(at - 1, 0) : at + 1]:  # sorted, so only these can overlap
                if start < other_stop and other_start < stop:
                    raise PolicyError(
                        f"rule '{rule.id}': rows [{start}, {stop}] of '{name}' overlap rows "
                        f"[{other_start}, {other_stop}] of rule '{self.policy.rules[other].id}'",
                        param=where,
                    )
        pieces.extend((start, stop, number) for start, stop in rule.select.rows)
        pieces.sort()
        if sum(stop - start for start, stop, _ in pieces) == rows:
            self.whole[position] = number  # no row is left for the rules below


def _check_expect(rule: Rule, index: Index, decided: list[int], matched: int) -> None:
    """Raises PolicyError if `expect` is wrong. Tensors that no file holds do not count; a tied tensor counts once."""
    if rule.expect is None:
        return
    owners = {index.owner[p] for p in decided}
    tensors = [index.tensors[owner] for owner in owners if index.tensors[owner].persistent]
    rows = sum(stop - start for start, stop in rule.select.rows)
    elements = (t.elements // t.shape[0] * rows if rows else t.elements for t in tensors)
    counts = {"tensors": len(tensors), "elements": sum(elements)}
    for key, expected in rule.expect.to_json().items():
        if counts[key] != expected:
            shadowed = f" ({matched - len(decided)} of its {matched} names went to rules above)"
            raise PolicyError(
                f"rule '{rule.id}' expects {expected} {key} and decides {counts[key]}"
                + (shadowed if matched > len(decided) else "")
                + (f"; among them {listed(sorted(t.name for t in tensors)[:3])}" if tensors else ""),
                param=f"{rule.at}.expect.{key}",
            )


def _with_rows(
    policy: Policy, rest: NameDecision, pieces: list[tuple[int, int, int]], tensor: TensorInfo
) -> NameDecision:
    """The decision for a tensor of which `rows` rules decide some rows and `rest` the others."""
    pieces = sorted(pieces)
    frozen = [(a, b) for a, b, number in pieces if policy.rules[number].action == "freeze"]
    train = [(a, b) for a, b, number in pieces if policy.rules[number].action == "train"]
    holes = _holes(pieces, tensor.shape[0])
    (frozen if rest.action == "freeze" else train).extend(holes)
    first = policy.rules[pieces[0][2]]
    if holes and rest.action == "freeze" and rest.intervals != WHOLE_RUN:
        raise PolicyError(
            f"rule '{first.id}' takes rows of '{tensor.name}', and rule '{rest.rule}' schedules the rest: "
            "only a whole tensor can be frozen for some steps",
            param=first.select_at("rows"),
        )
    ways = {policy.rules[number].mechanism for _, _, number in pieces} | ({rest.mechanism} if holes else set())
    ways.discard(None)
    if len(ways) > 1:
        raise PolicyError(
            f"the frozen rows of '{tensor.name}' have two mechanisms, {listed(sorted(filter(None, ways)))}: use one",
            param=f"{first.at}.mechanism",
        )
    mechanism = ways.pop() if ways else None
    if not train:
        return NameDecision("freeze", mechanism, WHOLE_RUN, rule=first.id)
    if not frozen:
        return NameDecision("train", None, (), rule=first.id)
    return NameDecision("split", mechanism, WHOLE_RUN, _joined(frozen), _joined(train), rule=first.id)


def _holes(pieces: list[tuple[int, int, int]], rows: int) -> list[tuple[int, int]]:
    holes, at = [], 0
    for start, stop, _ in [*pieces, (rows, rows, -1)]:
        if at < start:
            holes.append((at, start))
        at = stop
    return holes


def _joined(ranges: list[tuple[int, int]]) -> Ranges:
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return tuple(joined)


def _where(policy: Policy, decision: NameDecision) -> str:
    return next((rule.at for rule in policy.rules if rule.id == decision.rule), "freeze_policy")


def _described(decision: NameDecision) -> str:
    by = "the default" if decision.rule == "default" else f"rule '{decision.rule}'"
    if decision.action == "train":
        return f"{by} trains it"
    if decision.action == "split":
        return f"{by} splits its rows"
    steps = ", ".join(f"{a} to {'the end' if b is None else b}" for a, b in decision.intervals)
    return f"{by} freezes it by {decision.mechanism}" + (
        "" if decision.intervals == WHOLE_RUN else f" in steps {steps}"
    )
