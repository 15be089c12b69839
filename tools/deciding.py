"""Which keys of a configuration decide which tensors a model has, as the source of its class says."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from textwrap import dedent
from types import NoneType
from typing import Any

from app.evidence.verifier.loaders import LAYERS
from tools.making import is_of_self, made_by, making, sets

#: Keys of which a result may have another value than its base: heads, vocabularies, and how the model is used.
_FREE = {
    *("vocab_size", "num_labels", "is_encoder", "summary_proj_to_labels"),
    *("pad_token_id", "bos_token_id", "eos_token_id", "problem_type", "use_cache", "tie_word_embeddings", "dtype"),
    *(
        "gradient_checkpointing",
        "return_dict",
        "output_attentions",
        "output_hidden_states",
        "chunk_size_feed_forward",
        "model_type",
    ),
}
_KINDS_OF_VALUES = (bool, int, float, str, list, NoneType)
#: Kinds of values by which something is there or not, and is not only of another size.
_CHOICES = (bool, str, list, NoneType)
#: Endings of the keys of numbers by which tensors have other sizes, which loaders refuse, or the forward pass differs.
_MEASURES = (
    *("_size", "_dim", "_dims", "_width", "_heads", "_channels", "_length", "_embeddings", "d_model", "d_ff", "d_kv"),
    *("_eps", "epsilon", "_std", "_range", "_theta", "_prob", "_rate", "_coef", "_value", "_weight", "_factor"),
    *("_threshold", "_loss", "_scale", "_momentum"),
)
#: Keys that a class takes from others, or that its model sets, and by which it has the same tensors in any case.
NO_TENSORS = {
    *("attention_window", "layer_rope_theta", "window_block_indexes", "do_mask_input", "sliding_window"),
    *("time_step_limit", "use_decoder_only_language_model", "use_bidirectional_attention"),
    *("attention_layers", "audio_vocab_size", "output_stride"),
    *("attention_multiplier", "num_patches", "residual_multiplier", "num_verbalizers", "image_size"),
}
#: Keys that decide tensors in these kinds alone: elsewhere they are read in the forward pass.
ALONE_IN = {
    "is_encoder_decoder": ("t5gemma", "t5_gemma_module"),
    "is_decoder": ("t5", "mt5", "umt5", "longt5", "switch_transformers", "udop"),  # their encoders by themselves
}
#: Sizes that a class takes from its parts, by kind.
OF_PARTS = {"clap": "hidden_size", "omdet-turbo": "d_model", "voxtral_realtime": "hidden_size"}


def without_tensors(kind: str) -> set[str | None]:
    """Keys that decide nothing about which tensors a class of this kind has."""
    elsewhere = {key for key, kinds in ALONE_IN.items() if kind not in kinds}
    return {*NO_TENSORS, *elsewhere, OF_PARTS.get(kind)}


def _shape(config_class: Any, path: Path) -> tuple[dict[str, Any], set[str]]:
    """Keys that decide which tensors a class has, with their defaults, and those that the class takes from others."""
    config = configuration(config_class)
    if config is None:
        return {}, set()
    defaults, fields = in_json(config), getattr(config, "__dataclass_fields__", {})
    made = _made(config_class)
    choices = {key for key in _fields(config_class, _read(path)) if _decides(key, defaults.get(key))}
    deciding = {key for key in _deciding(path) | choices if key in defaults and key not in config.sub_configs}
    sources = {source for key in deciding for source in made.get(key, ()) if source in fields}
    deciding |= {key for key in sources if not key.endswith(LAYERS)}  # layers are compared by their number
    counted = {key for key in deciding if key.endswith(LAYERS) and type(defaults[key]) is int and defaults[key]}
    keys = {
        key for key in deciding - _FREE - counted if isinstance(defaults.get(key), _KINDS_OF_VALUES) and key in defaults
    }
    keys -= {key for key in keys if key.startswith("_") or "dropout" in key or key in config.attribute_map}
    keys -= {key for key in keys if key.endswith(("token_id", "token_ids", "token_index", "_config"))}
    keys -= without_tensors(config.model_type)
    written = _written(path) - {"is_decoder"}  # of copies for the two halves of a model
    derived = {key for key in keys if key in made or key not in fields or key in written}
    if any(sets(each, {"out_features"}) for each in made_by(config_class)):
        derived |= {"out_features", "out_indices"}
    if any(sets(each, {"per_layer_config"}) for each in made_by(config_class)):
        derived |= {"per_layer_config"}
    return {key: defaults[key] for key in sorted(keys - derived)}, derived


def _fields(config_class: Any, keys: Iterable[str]) -> set[str]:
    """The keys, and those that properties of the class compute the others from, such as a number from a list."""
    found: set[str] = set()
    for key in keys:
        of = inspect.getattr_static(config_class, key, None)
        if isinstance(of, property) and of.fget and of.fget.__module__.startswith("transformers.models"):
            source = ast.parse(dedent(inspect.getsource(of.fget)))
            read = {node.attr for node in ast.walk(source) if is_of_self(node)} - {key}
            found |= _fields(config_class, read)
        else:
            found.add(key)
    return found


def _decides(key: str, default: Any) -> bool:
    """Whether a key that a class reads while it is made may leave tensors out of it, and not only size them."""
    return isinstance(default, _CHOICES) or (isinstance(default, int | float) and not key.endswith(_MEASURES))


@cache
def _made(config_class: Any) -> dict[str, set[str]]:
    """Keys that a configuration sets by itself, and the keys that it reads for it."""
    found: dict[str, set[str]] = {}
    for each in config_class.__mro__:
        maker = vars(each).get("__post_init__") if each.__module__.startswith("transformers.models") else None
        if maker is None:
            continue
        of_self = [node for node in ast.walk(ast.parse(dedent(inspect.getsource(maker)))) if is_of_self(node)]
        read = {node.attr for node in of_self if isinstance(node.ctx, ast.Load)}
        for node in of_self:
            if isinstance(node.ctx, ast.Store):
                found.setdefault(node.attr, set()).update(read - {node.attr})
    return found


def _extra(config_class: Any, path: Path) -> dict[str, Any]:
    """Keys that decide which tensors a class has where a file gives them, and what it takes where none does."""
    config = configuration(config_class)
    if config is None:
        return {}
    others = {key for _, inner in inside(config) for key in inner.to_dict()}
    known = {*config.to_dict(), *config.attribute_map, *_FREE, *NO_TENSORS, *ALONE_IN, *others, *_written(path)}
    asked = {key: default for key, default in sorted(_asked(path).items()) if key not in known}
    return {key: asked[key] for key in asked if not key.startswith(("_", "rope")) and "dropout" not in key}


def add_shape(kind: dict[str, Any], config_class: Any, path: Path) -> None:
    """Adds to a kind what is known of the keys that decide which tensors one of its classes has."""
    shape, derived = _shape(config_class, path)
    kind["derived"] = sorted({*kind["derived"], *derived})
    kind["shape"] = {key: value for key, value in (kind["shape"] | shape).items() if key not in kind["derived"]}
    known = {*kind["shape"], *kind["derived"]}
    kind["extra"] |= {key: value for key, value in _extra(config_class, path).items() if key not in known}
    kind["making"] = making(config_class, kind["derived"]) or {}
    grown, also = _grown(path), config_class.attribute_map
    for key in (*kind["shape"], *kind["derived"]):
        if key in grown:
            kind["grown"][key] = grown[key]
        if aliases := sorted(alias for alias, own in also.items() if own == key):
            kind["aliases"][key] = aliases


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
    """Keys on which a module's `__init__` decides what is in it: by conditions, biases, lists and numbers of parts."""
    keys: set[str] = set()
    for maker in _makers(path):
        copies = _copies(maker)
        for found in _decisions(maker):
            keys.update(_keys_read(found))
            keys.update(key for name in _plain_names(found) for key in copies.get(name, ()))
    return frozenset(keys)


@cache
def _makers(path: Path) -> tuple[ast.FunctionDef, ...]:
    """The `__init__` of a module's classes, and the methods that it calls."""
    found: list[ast.FunctionDef] = []
    for each in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(each, ast.ClassDef):
            methods = {node.name: node for node in each.body if isinstance(node, ast.FunctionDef)}
            maker = methods.pop("__init__", None)
            if maker is not None:
                called = [ast.unparse(node.func) for node in ast.walk(maker) if isinstance(node, ast.Call)]
                found += [maker, *(methods[name] for name in methods if f"self.{name}" in called)]
    return tuple(found)


def _decisions(maker: ast.FunctionDef) -> Iterator[ast.expr]:
    """The expressions by which a function decides what is made."""
    for node in ast.walk(maker):
        match node:
            case ast.If(test=found) | ast.IfExp(test=found) | ast.Subscript(value=found):
                yield found
            case ast.keyword(arg="bias" | "affine" | "elementwise_affine", value=found):
                yield found
            case ast.Assign(value=ast.BoolOp() | ast.Compare() | ast.UnaryOp() as found):
                yield found
            case ast.Call(func=ast.Name(id="range"), args=bounds):
                yield from bounds


def _copies(maker: ast.FunctionDef) -> dict[str, set[str]]:
    """Names and attributes that a function sets from keys of the configuration, and those keys."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(maker):
        if isinstance(node, ast.Assign):
            keys = set(_keys_read(node.value))
            for target in node.targets:
                for name in _plain_names(target) if keys else ():
                    found.setdefault(name, set()).update(keys)
    return found


def _plain_names(expression: ast.AST) -> Iterator[str]:
    """Names and attributes of `self` in an expression."""
    for node in ast.walk(expression):
        match node:
            case ast.Attribute(value=ast.Name(id="self"), attr=name) | ast.Name(id=name) if name != "self":
                yield name


@cache
def _read(path: Path) -> frozenset[str]:
    """Keys that a module reads where its classes are made."""
    functions = [each for each in ast.parse(path.read_text("utf-8")).body if isinstance(each, ast.FunctionDef)]
    return frozenset(key for each in (*functions, *_makers(path)) for key in _keys_read(each))


def _keys_read(expression: ast.AST) -> Iterator[str]:
    """Keys of a configuration, as in `config.attention_bias` or `getattr(config, "attention_bias", False)`."""
    for node in ast.walk(expression):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("config"):
            yield node.attr
        else:
            yield from _asked_for(node)


def _asked_for(node: ast.AST) -> dict[str, Any]:
    """The key that `getattr(config, "key", …)` asks for, and its default."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and len(node.args) > 1:
        of, key, *default = node.args
        if isinstance(key, ast.Constant) and ast.unparse(of).endswith("config"):
            value = default[0].value if default and isinstance(default[0], ast.Constant) else None
            return {str(key.value): value}
    return {}


@cache
def _asked(path: Path) -> dict[str, Any]:
    """Keys that a module's `__init__` asks the configuration for, which need not have them, and the defaults."""
    asked = (_asked_for(node) for maker in _makers(path) for node in ast.walk(maker))
    return {key: value for each in asked for key, value in each.items()}


def in_json(config: Any) -> dict[str, Any]:
    """The configuration as its file would have it: a tuple is a list there."""
    content: dict[str, Any] = json.loads(json.dumps(config.to_dict(), default=str))
    return content


@cache
def configuration(config_class: Any) -> Any:
    """The configuration by default; None where one cannot be made without arguments."""
    try:
        return config_class()
    except Exception:  # noqa: BLE001 - each class of transformers fails in its own way
        return None


def inside(config: Any) -> Iterator[tuple[str, Any]]:
    """The configurations inside a configuration, at any depth, and their kinds."""
    keys: list[str] = list(getattr(config, "sub_configs", None) or ())
    for key in keys:
        inner = getattr(config, key, None)
        if kind := kind_inside(inner):
            yield kind, inner
            yield from inside(inner)


def kind_inside(inner: Any) -> str:
    """The kind of a configuration inside another one: its class's name where it has no `model_type`."""
    if not hasattr(inner, "sub_configs"):
        return ""
    return inner.model_type or type(inner).__name__
