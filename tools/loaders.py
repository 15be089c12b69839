"""`python -m tools.loaders`: writes what the verifier knows of the installed transformers' loading, by kind of model.

For each `model_type`: the base-model prefixes that loading adds or removes, the renames and conversions of stored
names, and the weights that are tied. The verifier does not import transformers, so it carries this as a data file. What
earlier versions had for a kind stays in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from re import _constants as sre_constants  # type: ignore[attr-defined]
from re import _parser as sre_parser  # type: ignore[attr-defined]
from typing import Any

from app.evidence.verifier.loaders import FILE, parse

PATH = Path(__file__).parents[1] / "app" / "evidence" / "verifier" / FILE
ABOUT = (
    "What transformers does with stored names while it loads a model, by model_type. Written by `python -m "
    "tools.loaders`; what older versions did stays. `conversions` index `rules`: source patterns, target patterns, and "
    "whether the sources are parts of the target. `tied` is the default of tie_word_embeddings."
)


def main() -> None:
    known = json.loads(PATH.read_text("utf-8")) if PATH.exists() else {"rules": [], "kinds": {}}
    text = json.dumps(merged(known, installed()), separators=(",", ":"), sort_keys=True) + "\n"
    parse(text)
    PATH.write_text(text, "utf-8")


def merged(known: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Both documents in one: no rule, prefix or tie of either is left out."""
    rules = [*known["rules"], *(rule for rule in new["rules"] if rule not in known["rules"])]
    place = {json.dumps(rule): at for at, rule in enumerate(rules)}
    kinds: dict[str, dict[str, Any]] = {}
    for document in (known, new):
        for name, kind in document["kinds"].items():
            into = kinds.setdefault(name, {"prefixes": [], "conversions": [], "ties": [], "tied": None})
            moved = [[place[json.dumps(document["rules"][at])] for at in table] for table in kind["conversions"]]
            into["prefixes"] = sorted({*into["prefixes"], *kind["prefixes"]})
            into["conversions"] += [table for table in moved if table not in into["conversions"]]
            into["ties"] += [pair for pair in kind["ties"] if pair not in into["ties"]]
            into["tied"] = kind["tied"] if into["tied"] is None else into["tied"] or bool(kind["tied"])
    return {"about": ABOUT, "rules": rules, "kinds": kinds}


def installed() -> dict[str, Any]:
    """The document of the installed version alone."""
    rules: list[Any] = []
    kinds: dict[str, dict[str, Any]] = {}
    for name, model in _classes():
        kind = kinds.setdefault(name, {"prefixes": set(), "conversions": [], "ties": [], "tied": _tied(model)})
        if isinstance(model.base_model_prefix, str) and model.base_model_prefix:
            kind["prefixes"].add(model.base_model_prefix)
        for table in _tables(name, model):
            rules += [rule for rule in table if rule not in rules]
            at = [rules.index(rule) for rule in table]
            if at and at not in kind["conversions"]:
                kind["conversions"].append(at)
        for pair in _ties(model):
            if pair not in kind["ties"]:
                kind["ties"].append(pair)
    for kind in kinds.values():
        kind["prefixes"] = sorted(kind["prefixes"])
    return {"rules": rules, "kinds": kinds}


def _classes() -> Iterator[tuple[str, Any]]:
    """Every class of an auto mapping, with its model_type. Classes that need a missing package are left out."""
    import transformers
    from transformers.models.auto import modeling_auto

    pairs = {
        (kind, name)
        for mapping in dir(modeling_auto)
        if mapping.startswith("MODEL") and mapping.endswith("MAPPING_NAMES")
        for kind, names in getattr(modeling_auto, mapping).items()
        for name in ((names,) if isinstance(names, str) else names)
    }
    for kind, name in sorted(pairs):
        try:
            model = getattr(transformers, name)
            model.base_model_prefix  # noqa: B018 - a stand-in for a class that cannot be imported raises here
        except (ImportError, AttributeError, RuntimeError):
            continue
        yield kind, model


def _tied(model: Any) -> bool | None:
    try:
        flag = getattr(model.config_class(), "tie_word_embeddings", None)
    except Exception:  # noqa: BLE001 - some configurations cannot be made without arguments
        return None
    return flag if isinstance(flag, bool) else None


def _tables(kind: str, model: Any) -> Iterator[list[list[Any]]]:
    """Conversions registered for the class or the kind, and older versions' renames on the class."""
    try:
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    except ImportError:  # transformers 4
        renames = getattr(model, "_checkpoint_conversion_mapping", None) or {}
        yield [[[source], [target], False, [_literal(source)]] for source, target in renames.items()]
        return
    for key in (model.__name__, kind):
        yield [_rule(transform) for transform in get_checkpoint_conversion_mapping(key) or ()]


def _rule(transform: Any) -> list[Any]:
    joins = bool(getattr(transform, "operations", ()))
    sources = list(transform.source_patterns)
    return [sources, list(transform.target_patterns), joins, [_literal(source) for source in sources]]


def _literal(pattern: str) -> str:
    """The longest text without digits that every match of the pattern contains."""
    parsed = sre_parser.parse(pattern.replace("*.", r".*\."))
    runs = [""]
    for operation, value in parsed:
        if operation is sre_constants.LITERAL and not chr(value).isdigit():
            runs[-1] += chr(value)
        else:
            runs.append("")
    return max(runs, key=len)


def _ties(model: Any) -> Iterator[list[str]]:
    ties = getattr(model, "_tied_weights_keys", None)
    if isinstance(ties, dict):
        yield from ([str(target), str(source)] for target, source in ties.items())


if __name__ == "__main__":
    main()
