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
from contextlib import suppress
from functools import cache
from pathlib import Path
from re import _constants as sre_constants  # type: ignore[attr-defined]
from re import _parser as sre_parser  # type: ignore[attr-defined]
from textwrap import dedent
from types import NoneType
from typing import Any, TypeGuard

from app.evidence.verifier.loaders import EVERY, FILE, KINDS, LAYERS, RULES, layer_count

PATH = Path(__file__).parents[1] / "app" / "evidence" / "verifier" / FILE
ABOUT = (
    "What transformers does with stored names while it loads a model, by model_type. Written by `python -m "
    "tools.loaders`; what older versions did stays. `conversions` index `rules`: source patterns, target patterns, and "
    "whether the sources are parts of the target. `tied` is the default of tie_word_embeddings, `layers` are numbers "
    "of layers by default and their keys, `parts` the configurations inside, `shape` keys that decide which tensors "
    "there are, with their defaults, `derived` those that the class takes from others where they are not given, "
    "`aliases` other names of both, `grown` what the class adds to the end of a list whenever it is made. `every` is "
    "all kinds in one."
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
    return {key: value for key, value in kind.items() if value or key not in ("derived", "grown", "aliases")}


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
            into["derived"] = sorted({*into["derived"], *derived} - shape.keys())
            into["shape"] = {key: value for key, value in (into["shape"] | shape).items() if key not in derived}
            for key in ("grown", "aliases"):
                into[key] |= kind.get(key, {})
    return {"about": ABOUT, "rules": rules, "kinds": kinds}


def _nothing() -> dict[str, Any]:
    loading: dict[str, Any] = {"prefixes": [], "conversions": [], "ties": [], "tied": None}
    return loading | {"layers": [], "parts": {}, "shape": {}, "derived": [], "grown": {}, "aliases": {}}


def installed() -> dict[str, Any]:
    """The document of the installed version alone."""
    rules: list[Any] = []
    kinds: dict[str, dict[str, Any]] = {}
    configured = set()
    for name, model in _classes():
        kind = kinds.setdefault(name, _nothing())
        if name not in configured and getattr(model.config_class, "model_type", name) == name:
            configured.add(name)  # a class of a mapping may have the configuration of another kind
            config = _config(model)
            kind |= {"tied": _tied(config), "layers": _layers(config), "parts": _parts(config)}
        if name in configured:
            _add_shape(kind, model)
        if isinstance(model.base_model_prefix, str) and model.base_model_prefix:
            kind["prefixes"].append(model.base_model_prefix)
        for table in _tables(name, model):
            rules += [rule for rule in table if rule not in rules]
            at = [rules.index(rule) for rule in table]
            if at and at not in kind["conversions"]:
                kind["conversions"].append(at)
        kind["ties"] += [pair for pair in _ties(model) if pair not in kind["ties"]]
    for kind in kinds.values():
        kind["prefixes"] = sorted(set(kind["prefixes"]))
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


def _config(model: Any) -> Any:
    """The configuration by default; None where one cannot be made without arguments."""
    try:
        return model.config_class()
    except Exception:  # noqa: BLE001 - each class of transformers fails in its own way
        return None


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
    values = {key: content.get(key) for key in getattr(config, "sub_configs", None) or content}
    kinds = {key: value.get("model_type") for key, value in values.items() if isinstance(value, dict)}
    return {key: kind for key, kind in sorted(kinds.items()) if isinstance(kind, str) and kind}


#: Keys of which a result may have another value than its base: heads, vocabularies, and how the model is used.
_FREE = {
    *("vocab_size", "num_labels", "additional_vocab_size", "is_decoder", "is_encoder", "summary_proj_to_labels"),
    *("pad_token_id", "bos_token_id", "eos_token_id", "problem_type", "use_cache", "tie_word_embeddings", "dtype"),
    *("return_dict", "output_attentions", "output_hidden_states", "chunk_size_feed_forward", "model_type"),
}
_KINDS_OF_VALUES = (bool, int, str, list, NoneType)


def _shape(model: Any) -> tuple[dict[str, Any], set[str]]:
    """Keys that decide which tensors a class has, with their defaults, and those that the class takes from others."""
    config = _config(model)
    if config is None:
        return {}, set()
    defaults, fields = config.to_dict(), getattr(config, "__dataclass_fields__", {})
    made = _made(model.config_class)
    deciding = {key for key in _deciding(_module(model)) if key in defaults and key not in config.sub_configs}
    sources = {source for key in deciding for source in made.get(key, ()) if source in fields}
    deciding |= {key for key in sources if not key.endswith(LAYERS)}  # layers are compared by their number
    keys = {key for key in deciding - _FREE if isinstance(defaults.get(key), _KINDS_OF_VALUES) and key in defaults}
    keys -= {key for key in keys if key.startswith("_") or "dropout" in key or key in config.attribute_map}
    derived = {key for key in keys if key in made or key not in fields or key in _written(_module(model))}
    return {key: defaults[key] for key in sorted(keys - derived)}, derived


@cache
def _made(config_class: Any) -> dict[str, set[str]]:
    """Keys that a configuration sets by itself, and the keys that it reads for it."""
    found: dict[str, set[str]] = {}
    for each in config_class.__mro__:
        maker = vars(each).get("__post_init__") if each.__module__.startswith("transformers.models") else None
        if maker is None:
            continue
        of_self = [node for node in ast.walk(ast.parse(dedent(inspect.getsource(maker)))) if _is_of_self(node)]
        read = {node.attr for node in of_self if isinstance(node.ctx, ast.Load)}
        for node in of_self:
            if isinstance(node.ctx, ast.Store):
                found.setdefault(node.attr, set()).update(read - {node.attr})
    return found


def _is_of_self(node: ast.AST) -> TypeGuard[ast.Attribute]:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"


def _add_shape(kind: dict[str, Any], model: Any) -> None:
    """Adds to a kind what is known of the keys that decide which tensors one of its classes has."""
    shape, derived = _shape(model)
    kind["derived"] = sorted({*kind["derived"], *derived})
    kind["shape"] = {key: value for key, value in (kind["shape"] | shape).items() if key not in kind["derived"]}
    grown, also = _grown(_module(model)), model.config_class.attribute_map
    for key in (*kind["shape"], *kind["derived"]):
        if key in grown:
            kind["grown"][key] = grown[key]
        if aliases := sorted(alias for alias, own in also.items() if own == key):
            kind["aliases"][key] = aliases


def _module(model: Any) -> Path:
    """The source of the module that has the class."""
    return Path(inspect.getsourcefile(sys.modules[model.__module__]) or "")


@cache
def _grown(path: Path) -> dict[str, Any]:
    """What a module's classes add to the end of a list in their configuration, as `config.down_ops.append([""])`."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Attribute() as of, attr="append"), args=[end]):
                if ast.unparse(of.value).endswith("config"):
                    with suppress(ValueError):  # what is added is computed
                        found[of.attr] = ast.literal_eval(end)
    return found


@cache
def _written(path: Path) -> frozenset[str]:
    """Keys of the configuration that a module's classes set, as in `config.num_ln_in_parallel_attn = 2`."""
    stores = (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Attribute))
    return frozenset(
        node.attr for node in stores if isinstance(node.ctx, ast.Store) and ast.unparse(node.value).endswith("config")
    )


@cache
def _deciding(path: Path) -> frozenset[str]:
    """Keys on which a module's `__init__` decides what is in it, by conditions, biases and lists."""
    keys: set[str] = set()
    makers = (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef))
    for node in (inner for maker in makers if maker.name == "__init__" for inner in ast.walk(maker)):
        match node:
            case ast.If(test=found) | ast.IfExp(test=found) | ast.Subscript(value=found):
                keys.update(_keys_read(found))
            case ast.keyword(arg="bias" | "affine" | "elementwise_affine", value=found):
                keys.update(_keys_read(found))
            case ast.Assign(value=ast.BoolOp() | ast.Compare() | ast.UnaryOp() as found):
                keys.update(_keys_read(found))
    return frozenset(keys)


def _keys_read(expression: ast.expr) -> Iterator[str]:
    """Keys of a configuration, as in `config.attention_bias` or `getattr(config, "attention_bias", False)`."""
    for node in ast.walk(expression):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("config"):
            yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
            of, key = node.args[:2]
            if isinstance(key, ast.Constant) and ast.unparse(of).endswith("config"):
                yield str(key.value)


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
