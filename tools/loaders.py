"""`python -m tools.loaders`: writes what the verifier knows of the installed transformers' loading, by kind of model.

For each `model_type`: the base-model prefixes that loading adds or removes, the renames and conversions of stored
names, and the weights that are tied. The verifier does not import transformers, so it carries this as a data file. What
earlier versions had for a kind stays in it.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from re import _constants as sre_constants  # type: ignore[attr-defined]
from re import _parser as sre_parser  # type: ignore[attr-defined]
from typing import Any

from app.evidence.verifier.derived import made_of
from app.evidence.verifier.loaders import EVERY, FILE, KINDS, LAYERS, RULES, layer_count
from tools.deciding import add_shape, configuration, inside, kind_inside, without_tensors
from tools.making import is_of_self, made_by

PATH = Path(__file__).parents[1] / "app" / "evidence" / "verifier" / FILE
ABOUT = (
    "What transformers does with stored names while it loads a model, by model_type. Written by `python -m "
    "tools.loaders`; what older versions did stays. `conversions` index `rules`: source patterns, target patterns, and "
    "whether the sources are parts of the target. `tied` is the default of tie_word_embeddings, `layers` are numbers "
    "of layers by default and their keys, `parts` the configurations inside, `shape` keys that decide which tensors "
    "there are, with their defaults, `derived` those that the class takes from others where they are not given, "
    "`making` how it takes them, `extra` keys that the class does not have, with what is taken where they are not "
    "given, `aliases` other names of keys, `grown` what the class adds to the end of a list whenever it is made, "
    "`fixed` parts whose kind the class chooses, `inner` what else a part is by default than its class by itself, "
    "`filled` parts that get it where they are given, too, `classes` the classes of auto mappings, `choices` those "
    "between which a mapping chooses by `architectures`, the usual one first. `every` is all kinds in one."
)


def main() -> None:
    known = json.loads(PATH.read_text("utf-8")) if PATH.exists() else {"rules": [], "kinds": {}}
    PATH.write_text(rendered(merged(known, installed())), "utf-8")


def rendered(document: dict[str, Any]) -> str:
    """The document as the verifier reads it: JSON with a line for each kind and each rule."""
    rules = ",\n".join(map(_json, document["rules"]))
    kinds = ",\n".join(f"{_json(name)}:{_json(_brief(kind))}" for name, kind in sorted(document["kinds"].items()))
    every = _json(_every(document["kinds"].values()))
    return f'{{\n"about":{_json(ABOUT)},\n{EVERY}{every},\n{RULES}\n{rules}\n],\n{KINDS}\n{kinds}\n}}\n}}\n'


def _brief(kind: dict[str, Any]) -> dict[str, Any]:
    """A kind without what only few have."""
    return {key: value for key, value in kind.items() if value or key not in _RARE}


_RARE = ("derived", "grown", "aliases", "making", "extra", "fixed", "inner", "filled", "classes", "choices")


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def _every(kinds: Collection[dict[str, Any]]) -> dict[str, Any]:
    """All kinds in one, for a folder whose kind is not known."""
    tables = {tuple(table) for kind in kinds for table in kind["conversions"]}
    return {
        "prefixes": sorted({prefix for kind in kinds for prefix in kind["prefixes"]}),
        "conversions": sorted(map(list, tables)),
        "ties": [],
        "tied": None,
    }


def merged(known: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Both documents in one: no rule, prefix or tie of either is left out."""
    rules = [*known["rules"], *(rule for rule in new["rules"] if rule not in known["rules"])]
    place = {json.dumps(rule): at for at, rule in enumerate(rules)}
    kinds: dict[str, dict[str, Any]] = {}
    for document in (known, new):
        for name, kind in document["kinds"].items():
            into = kinds.setdefault(name, _nothing())
            moved = [[place[json.dumps(document["rules"][at])] for at in table] for table in kind["conversions"]]
            into["prefixes"] = sorted({*into["prefixes"], *kind["prefixes"]})
            into["conversions"] += [table for table in moved if table not in into["conversions"]]
            into["ties"] += [pair for pair in kind["ties"] if pair not in into["ties"]]
            into["tied"] = kind["tied"] if into["tied"] is None else into["tied"] or bool(kind["tied"])
            into["layers"] = kind.get("layers") or into["layers"]
            into["parts"] = kind.get("parts") or into["parts"]
            shape, derived = kind.get("shape", {}), kind.get("derived", [])
            no_tensors = without_tensors(name)
            into["derived"] = sorted({*into["derived"], *derived} - shape.keys() - no_tensors)
            both = {key: value for key, value in (into["shape"] | shape).items() if key not in no_tensors}
            into["shape"] = {key: value for key, value in both.items() if key not in derived}
            for key in ("grown", "aliases", "making", "inner", "extra"):
                into[key] |= kind.get(key, {})
            own = {*into["shape"], *into["derived"]}
            into["extra"] = {key: default for key, default in into["extra"].items() if key not in own}
            for key in ("fixed", "filled"):
                into[key] = kind.get(key) or into[key]
            into["classes"] = sorted({*into["classes"], *kind.get("classes", ())})
            into["choices"] += [names for names in kind.get("choices", ()) if names not in into["choices"]]
    return {"about": ABOUT, "rules": rules, "kinds": kinds}


def _nothing() -> dict[str, Any]:
    loading: dict[str, Any] = {"prefixes": [], "conversions": [], "ties": [], "tied": None}
    shape: dict[str, Any] = {"layers": [], "parts": {}, "shape": {}, "derived": [], "grown": {}, "aliases": {}}
    return (
        loading
        | shape
        | {"making": {}, "extra": {}, "fixed": [], "inner": {}, "filled": [], "classes": [], "choices": []}
    )


def installed() -> dict[str, Any]:
    """The document of the installed version alone."""
    rules: list[Any] = []
    kinds: dict[str, dict[str, Any]] = {}
    configured = set()
    parts: dict[str, list[tuple[Any, Path]]] = {}
    for name, model in _classes():
        kind = kinds.setdefault(name, _nothing())
        config = configuration(model.config_class)
        if name not in configured and getattr(model.config_class, "model_type", name) == name:
            configured.add(name)  # a class of a mapping may have the configuration of another kind
            kind |= {"tied": _tied(config)} | _configured(config)
        for path in _modules(model) if name in configured else ():
            add_shape(kind, model.config_class, path)
        for part, inner in inside(config):
            parts.setdefault(part, []).append((inner, _module(model)))
        if isinstance(model.base_model_prefix, str) and model.base_model_prefix:
            kind["prefixes"].append(model.base_model_prefix)
        for table in _tables(name, model):
            rules += [rule for rule in table if rule not in rules]
            at = [rules.index(rule) for rule in table]
            if at and at not in kind["conversions"]:
                kind["conversions"].append(at)
        kind["ties"] += [pair for pair in _ties(model) if pair not in kind["ties"]]
    _add_parts(kinds, parts)
    _add_classes(kinds)
    for kind in kinds.values():
        kind["prefixes"] = sorted(set(kind["prefixes"]))
        kind["inner"] = dict(_other_defaults(kind, kinds))
    return {"rules": rules, "kinds": kinds}


def _add_parts(kinds: dict[str, dict[str, Any]], parts: dict[str, list[tuple[Any, Path]]]) -> None:
    """Adds kinds that are only found inside models of others."""
    for name in sorted(parts.keys() - kinds.keys()):
        kind = kinds.setdefault(name, _nothing())
        for config, path in parts[name]:
            config_class: Any = type(config)
            kind |= _configured(configuration(config_class))
            add_shape(kind, config_class, path)


def _add_classes(kinds: dict[str, dict[str, Any]]) -> None:
    """Adds the classes of auto mappings, and those between which one chooses."""
    for name, names in _mapped():
        if name in kinds:
            kinds[name]["classes"] = sorted({*kinds[name]["classes"], *names})
            kinds[name]["choices"] += [names] if len(names) > 1 else []


def _configured(config: Any) -> dict[str, Any]:
    """What a kind's configuration by default says of its layers and of the configurations inside it."""
    kinds: dict[str, Any] = dict(getattr(config, "sub_configs", None) or {})
    fixed = sorted(key for key, of in kinds.items() if getattr(of, "model_type", ""))
    filled = {} if config is None else dict.fromkeys(_filled(type(config)))
    found = {"layers": _layers(config), "parts": _parts(config), "fixed": fixed, "inner": _inner_of(config)}
    return found | {"filled": sorted(filled)}


def _filled(config_class: Any) -> Iterator[str]:
    """Parts that get the class's defaults for them also where they are given."""
    for statement in made_by(config_class):
        for node in ast.walk(statement):
            if isinstance(node, ast.Assign) and ".init_kwargs" in ast.unparse(node.value):
                yield from (target.attr for target in node.targets if is_of_self(target))


def _inner_of(config: Any) -> dict[str, Any]:
    content = config.to_dict() if config is not None else {}
    return {key: content[key] for key in _parts(config)}


def _other_defaults(kind: dict[str, Any], kinds: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What decides on tensors in parts by default, where a class gives them other defaults than they have alone."""
    for key, content in kind["inner"].items():
        part = kinds.get(kind["parts"][key])
        if part is None:
            continue
        content = json.loads(json.dumps(content, default=str))
        usual = part["shape"] | {keys[0]: default for default, keys in part["layers"]}
        other: dict[str, Any] = {}
        for _ in range(2):  # what the part's class takes from them follows them
            alone = usual | (made_of(other, part["making"]) if part["making"] else {}) | other
            known = {*part["shape"], *part["derived"], *alone} & content.keys()
            other |= {name: content[name] for name in sorted(known) if content[name] != alone.get(name)}
        if other:
            yield key, other


def installed_kinds() -> set[str]:
    """Kinds whose configuration the installed version can make without arguments."""
    classes = {model.config_class for _, model in _classes()}
    return {each.model_type for each in classes if configuration(each) is not None}


def _classes() -> Iterator[tuple[str, Any]]:
    """Every class of an auto mapping, with its model_type. Classes that need a missing package are left out."""
    import transformers

    for kind, name in sorted({(kind, name) for kind, names in _mapped() for name in names}):
        try:
            model = getattr(transformers, name)
            model.base_model_prefix  # noqa: B018 - a stand-in for a class that cannot be imported raises here
        except (ImportError, AttributeError, RuntimeError):
            continue
        yield kind, model


def _mapped() -> Iterator[tuple[str, list[str]]]:
    """Every entry of an auto mapping: a model_type and the names of its classes, of which the first is the usual."""
    from transformers.models.auto import modeling_auto

    for mapping in dir(modeling_auto):
        if mapping.startswith("MODEL") and mapping.endswith("MAPPING_NAMES"):
            for kind, names in getattr(modeling_auto, mapping).items():
                yield kind, [names] if isinstance(names, str) else list(names)


def _tied(config: Any) -> bool | None:
    flag = getattr(config, "tie_word_embeddings", None)
    return flag if isinstance(flag, bool) else None


#: Keys that end like a number of layers, and name one of them, or where sliding windows end.
_NO_COUNTS = ("_feature_layer", "max_window_layers")


def _layers(config: Any) -> list[tuple[int, list[str]]]:
    """Each number of layers that the configuration has: its default, and the keys under which a file may give it."""
    if config is None:
        return []
    also = dict(getattr(config, "attribute_map", None) or {})
    found = []
    for key, value in sorted(config.to_dict().items()):
        count = layer_count(value) or 0
        if key.endswith(LAYERS) and not key.endswith(_NO_COUNTS) and key not in also and count > 0:
            found.append((count, [key, *sorted(alias for alias, own in also.items() if own == key)]))
    return found


def _parts(config: Any) -> dict[str, str]:
    """The configurations inside a configuration: their keys and kinds."""
    if config is None:
        return {}
    content = config.to_dict()
    keys = [key for key in getattr(config, "sub_configs", None) or content if isinstance(content.get(key), dict)]
    kinds = {key: content[key].get("model_type") or kind_inside(getattr(config, key, None)) for key in keys}
    return {key: kind for key, kind in sorted(kinds.items()) if isinstance(kind, str) and kind}


def _module(model: Any) -> Path:
    """The source of the module that has the class."""
    return Path(inspect.getsourcefile(sys.modules[model.__module__]) or "")


def _modules(model: Any) -> Iterator[Path]:
    """The sources of the modules that have the class and those it is made from, but what all models have."""
    for name in dict.fromkeys(each.__module__ for each in model.__mro__):
        if ".modeling_" in name and name != "transformers.modeling_utils":
            yield Path(inspect.getsourcefile(sys.modules[name]) or "")


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
