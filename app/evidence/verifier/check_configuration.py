"""Checks of the configurations in a result: loading with them runs no code and changes nothing that was read.

The rules are those of transformers and peft. Each refusal names the file and the key, the rule, and what to remove.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from app.evidence.format.modules import MODULES
from app.evidence.format.quantised import is_scale
from app.evidence.format.statement import Reading
from app.evidence.format.strict import JsonError, read_json, repeated_keys
from app.evidence.verifier.context import Check, CheckContext, Holdings, Problem, result_of
from app.evidence.verifier.derived import OLD_TYPES, made_of
from app.evidence.verifier.loaders import LAYERS, Record, is_kind, is_known, layer_count, record
from app.evidence.verifier.read_files import INDEX_ENDING, is_configuration

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
_OWN_KEYS = {"type", "architecture", "kwargs", "labels"}  # of a model that no library loads by itself

# Keys that make a loader run code, open another file, store weights in another form, or read other keys for these.
_KEYS = {
    "auto_map": "code from this or another repository replaces the model's class",
    "custom_pipelines": "code from this or another repository is run",
    "trust_remote_code": "code from another repository is run",
    "transformers_weights": "transformers opens the file that it names in place of model.safetensors",
    "extra_files": "older transformers open the files that it names as well",
    "configuration_files": "transformers reads the configuration that it names in place of this one",
    "attribute_map": "transformers reads other keys in place of those that it names",
    "sub_configs": "transformers reads other configurations inside this one",
    "quantization_config": "transformers converts the weights while it loads them",
    "compression_config": "transformers converts the weights while it loads them",
    "fusion_config": "transformers fuses weights while it loads them",
    "tie_encoder_decoder": "transformers 4 replaces the decoder's weights by the encoder's",
}
# Keys whose value may be the name of a repository from which transformers downloads code.
_KERNELS = ("attn_implementation", "attn_implementation_internal", "experts_implementation")

#: Of a model whose weights are stored quantised.
QUANTISED = "quantization_config"

DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "half": "F16", "float": "F32"}

# Keys of lists with the type of each layer; Nemotron-H has no number of layers beside it.
_TYPES = ("layer_types", "layers_block_type", "block_types")
# Kinds of which ordinary models have numbers in names beyond every number of layers in their configuration: convnets
# whose layers are given by code or stage by stage, and models that count those of one part only.
_NUMBERED_OTHERWISE = frozenset(
    ("funnel", "git", "mobilenet_v1", "mobilenet_v2", "mobilevitv2", "perceiver", "swiftformer", "t5gemma2")
)
# The key of what single layers have in place of what the configuration says of all.
_LAYERS = "per_layer_config"


def parsed(held: Holdings, name: str) -> Any:
    """A configuration of the folder; the empty object if it is missing or not JSON, which `config_readable` reports."""
    try:
        return read_json(held.documents[name]) if name in held.documents else {}
    except JsonError:
        return {}


def is_own(config: object) -> bool:
    """A model of an architecture of the user's own, which no library loads."""
    return isinstance(config, dict) and config.get("type") == "torch" and set(config) <= _OWN_KEYS


def set_keys(value: Any, at: str = "") -> Iterator[tuple[str, str, Any]]:
    """Keys at any depth that have a value, their paths, and the values."""
    if isinstance(value, dict):
        for key, item in value.items():
            path = f"{at}.{key}".lstrip(".")
            if item not in (None, False, [], {}, ()):
                yield key, path, item
            yield from set_keys(item, path)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from set_keys(item, f"{at}[{index}]")


def _config_readable(context: CheckContext) -> Iterator[Problem]:
    """Rejects a configuration that is not one JSON object, or in which a key appears twice."""
    for name, raw in result_of(context).documents.items():
        if not is_configuration(name):
            continue
        try:
            document = read_json(raw)
        except JsonError as error:
            yield Problem("config_readable", str(error), name)
            continue
        if not isinstance(document, dict) and name != MODULES:
            yield Problem("config_readable", "not a JSON object", name)
        for key in repeated_keys(document):
            yield Problem("config_readable", f"key {key!r} appears twice; remove one of the two", name)


def _config_keys(context: CheckContext) -> Iterator[Problem]:
    """Rejects a configuration with which a loader runs code, opens other files or converts weights."""
    for key, path, value in set_keys(parsed(result_of(context), CONFIG)):
        if path == QUANTISED and context.predicate.result_kind == "full":
            continue  # a form that is loaded as it is stored: `quantised` looks at it
        if key in _KEYS:
            yield Problem("config_keys", f"{path}: {_KEYS[key]}; remove the key", CONFIG)
        elif key.lstrip("_") in _KERNELS and any("/" in text for text in _texts(value)):
            yield Problem("config_keys", f"{path}: transformers downloads the code that it names; remove it", CONFIG)


def _texts(value: Any) -> list[str]:
    return [str(each) for each in (value.values() if isinstance(value, dict) else [value])]


def _config_dtype(context: CheckContext) -> Iterator[Problem]:
    """Rejects a configuration whose dtype is not that of the frozen weights: transformers converts them to it.

    Where the base has weights of several dtypes, loading converts some in any case. The dtype is the commonest then, or
    that of all that is frozen.
    """
    held = result_of(context)
    stored = {reading.dtype for reading in frozen_floats(context)}
    config = parsed(held, CONFIG)
    if not stored or is_own(config):
        return

    named = dict(named_dtypes(context))
    held_dtypes = {t.dtype for t in held.tensors().values() if _is_converted(t.name, t.dtype, config)}
    if not named and is_known(config) and len(held_dtypes) > 1:
        reason = "no dtype, so transformers converts all weights to that of the first one; add the dtype of the base"
        yield Problem("config_dtype", reason, CONFIG)
    usual = _commonest(context) | (stored if len(stored) == 1 else set())
    for dtype, file in sorted(named.items()):
        if DTYPES.get(dtype, dtype) not in usual:
            kept = " and ".join(sorted(stored & usual or stored))
            reason = f"transformers converts weights to {dtype}, and the frozen ones are stored as {kept}; correct it"
            yield Problem("config_dtype", reason, file)


def _commonest(context: CheckContext) -> set[str]:
    """The dtypes that most of the base's tensors have."""
    config = parsed(result_of(context), CONFIG)
    bases = (row.base for row in context.predicate.rows if row.base)
    counts = Counter(base.dtype for base in bases if _is_converted(base.name, base.dtype, config))
    return {dtype for dtype, count in counts.items() if count == max(counts.values())}


def named_dtypes(context: CheckContext) -> Iterator[tuple[str, str]]:
    """Names of dtypes to which transformers converts weights, and the files that have them."""
    held = result_of(context)
    for key, _, value in set_keys(parsed(held, CONFIG)):
        if key in ("dtype", "torch_dtype"):
            yield str(value).removeprefix("torch."), CONFIG
    for name in held.documents:
        index = parsed(held, name) if name.endswith(INDEX_ENDING) else None
        metadata = index.get("metadata") if isinstance(index, dict) else None
        if isinstance(metadata, dict) and metadata.get("dtype") is not None:
            yield str(metadata["dtype"]).removeprefix("torch."), name


def frozen_floats(context: CheckContext) -> list[Reading]:
    """Readings of the frozen tensors that loading may convert to another dtype."""
    config = parsed(result_of(context), CONFIG)
    rows = (row for row in context.predicate.rows if row.role in ("frozen", "split"))
    return [row.result for row in rows if row.result and _is_converted(row.result.name, row.result.dtype, config)]


def _is_converted(name: str, dtype: str, config: object) -> bool:
    """Whether loading may convert a tensor to another dtype: a float that is no scale of a quantised weight."""
    scale = isinstance(config, dict) and QUANTISED in config and is_scale(name)
    return dtype in DTYPES.values() and not scale


def _layers_loaded(context: CheckContext) -> Iterator[Problem]:
    """Rejects a configuration with fewer layers than are stored frozen, or with other numbers of them than the base."""
    config = parsed(result_of(context), CONFIG)
    if context.predicate.result_kind == "adapter" or not is_known(config):
        return
    counts = dict(_layer_counts(config, config["model_type"]))
    if context.base is not None:
        base = _counterpart(context.base, config)
        same = is_known(base) and base["model_type"] == config["model_type"]  # else `same_kind` says so
        before = dict(_layer_counts(base, base["model_type"])) if same else {}
        for path in sorted(before.keys() & counts.keys()):
            if counts[path] != before[path]:  # with more of them, what only the last one lacks is not loaded
                reason = f"{path} is {counts[path]}, the base's {before[path]}; set the base's number of layers"
                yield Problem("layers_loaded", reason, CONFIG)

    most = None if config.get("model_type") in _NUMBERED_OTHERWISE else max(counts.values(), default=None)
    for row in context.predicate.rows if most is not None else ():
        number = re.search(r"(?:^|\.)(\d+)\.", row.result.name) if row.result and row.role == "frozen" else None
        if number is not None and most is not None and row.result is not None and int(number[1]) >= most:
            reason = f"config.json has at most {most} layers, so it is not loaded; set the base's number of layers"
            yield Problem("layers_loaded", reason, row.result.name)


def _counterpart(base: Holdings, config: Mapping[str, Any]) -> Any:
    """The base's configuration, or that of the language model inside it where the result is that one alone."""
    whole = parsed(base, CONFIG)
    inner = whole.get("text_config") if isinstance(whole, dict) else None
    if isinstance(inner, dict) and inner.get("model_type") == config.get("model_type") != whole.get("model_type"):
        return inner
    return whole


def _layer_counts(config: Mapping[str, Any], kind: str, at: str = "") -> Iterator[tuple[str, int]]:
    """Paths of the numbers of layers in a configuration and in those inside it, by default where it gives none."""
    if not is_kind(kind):
        return
    known = record(kind)
    made = {key: value for key, value in _made(config, known).items() if key in known.get("derived", ())}
    for default, keys in known["layers"]:
        given = [count for key in keys if (count := layer_count(made.get(key, config.get(key)))) is not None]
        yield f"{at}{keys[0]}", min(given, default=default)
    if not known["layers"]:
        for key, value in config.items():
            if key.endswith(LAYERS) and (count := layer_count(value)) is not None:
                yield f"{at}{key}", count
    for key in _TYPES:
        if isinstance(types := config.get(key), list):
            yield f"{at}{key}", len(types)
    for key, part, inner in _parts(config, known, kind):
        yield from _layer_counts(inner, part, f"{at}{key}.")


def _same_tensors(context: CheckContext) -> Iterator[Problem]:
    """Rejects a configuration by which the class lacks tensors that it has by the base's: they are not loaded."""
    config = parsed(result_of(context), CONFIG)
    if context.base is None or context.predicate.result_kind == "adapter" or not is_known(config):
        return
    base = _counterpart(context.base, config)
    if not is_known(base):
        return
    before, after = shape_of(base), shape_of(config)
    for path in sorted(before.keys() | after.keys()):
        if path not in before or path not in after or before[path] != after[path]:
            then, now = (short(each[path]) if path in each else "not given" for each in (before, after))
            reason = (
                f"{path} is {now}, and {then} in the base: the class has other tensors then, and what it lacks is not "
                f"loaded; {'set the base' + chr(39) + 's value' if path in before else 'remove it'}"
            )
            yield Problem("same_tensors", reason, CONFIG)


def shape_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides which tensors a class has, by paths of keys in a configuration of a known kind."""
    return dict(_shape(config, config["model_type"]))


def _shape(config: Mapping[str, Any], kind: str, at: str = "") -> Iterator[tuple[str, Any]]:
    """Paths and values of the keys that decide which tensors a class has, in a configuration and in those inside it."""
    if not is_kind(kind):
        return
    known = record(kind)
    made = _made(config, known)
    for key, default in known["shape"].items():
        given = _given(config, known, key)
        yield f"{at}{key}", given[0] if given else default
    for key in known.get("derived", ()):
        given = [made[key]] if key in made else _given(config, known, key)
        if key != _LAYERS and given and given[0] is not None:
            yield f"{at}{key}", _plain(given[0], known.get("grown", {}).get(key))
    for key, default in known.get("extra", {}).items():
        yield f"{at}{key}", config.get(key, default)
    yield from _layers_apart({**config, **made}, known, at)
    for key, part, inner in _parts(config, known, kind):
        if key not in known.get("fixed", ()):
            yield f"{at}{key}.model_type", part
        yield from _shape(inner, part, f"{at}{key}.")


def _made(config: Mapping[str, Any], known: Record) -> dict[str, Any]:
    return made_of(config, known["making"]) if "making" in known else {}


def _layers_apart(config: Mapping[str, Any], known: Record, at: str) -> Iterator[tuple[str, Any]]:
    """What single layers have in place of what the configuration says of all."""
    layers = config.get(_LAYERS)
    for layer, content in layers.items() if isinstance(layers, Mapping) else ():
        for key, value in content.items() if isinstance(content, Mapping) else ():
            if value != config.get(key, known["shape"].get(key)):
                yield f"{at}{_LAYERS}.{int(layer) if str(layer).isdecimal() else layer}.{key}", value


def _parts(config: Mapping[str, Any], known: Record, kind: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Keys, kinds and contents of the configurations inside a configuration, by default where it has none."""
    parts = known["parts"]
    for key in sorted({*parts, *(key for key, value in config.items() if _has_kind(value))}):
        given, part = config.get(key), parts.get(key, "")
        inner = known.get("inner", {}).get(key, {})
        if isinstance(given, Mapping):
            inner = {**(inner if key in known.get("filled", ()) else {}), **given}
        if key not in known.get("fixed", ()):
            part = str(inner.get("model_type") or part)
        if part == kind and not isinstance(given, Mapping):
            continue  # by its own defaults, transformers' Qwen3_5TextConfig would be inside itself
        yield key, part, inner


def _has_kind(value: object) -> bool:
    return isinstance(value, Mapping) and is_kind(value.get("model_type"))


def _given(config: Mapping[str, Any], known: Record, key: str) -> list[Any]:
    """The values of a key under its names, without repetitions; all of them if they differ."""
    names = (key, *known.get("aliases", {}).get(key, ()))
    end = known.get("grown", {}).get(key)
    values = [_plain(config[name], end) for name in names if name in config]
    return values if len(values) < 2 or all(value == values[0] for value in values) else [values]


def _plain(value: Any, end: object) -> Any:
    """A value as it is compared: without what the class added to a list, and with today's names of layers' types."""
    if not isinstance(value, list):
        return value
    return [OLD_TYPES.get(each, each) if isinstance(each, str) else each for each in _without(value, end)]


def _without(value: list[Any], end: object) -> list[Any]:
    """A list without the ends that the class added to it: one more for each time that it was loaded and saved."""
    count = len(value)
    while count and end is not None and value[count - 1] == end:
        count -= 1
    return value[:count]


def short(value: object) -> str:
    """The value as JSON, of 60 characters at most."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _same_kind(context: CheckContext) -> Iterator[Problem]:
    """Rejects a result of another kind than the base at hand: its class would not load the frozen tensors at all.

    The language model inside a model of several kinds may be the result, if nothing frozen was outside of it.
    """
    if context.base is None or context.predicate.result_kind == "adapter":
        return
    base, result = (parsed(held, CONFIG) for held in (context.base, result_of(context)))
    before, after = (config.get("model_type") if isinstance(config, dict) else None for config in (base, result))
    if before is None or before == after:
        return
    inner = base.get("text_config")
    if isinstance(inner, dict) and inner.get("model_type") == after and is_known(result):
        for row in context.predicate.rows:
            if row.role in ("frozen", "split") and row.base and not _of_language_model(row.base.name):
                reason = f"frozen, and a tensor of the base's {before!r} outside of its language model {after!r}"
                yield Problem("same_kind", f"{reason}: it is not loaded", row.name)
    else:
        reason = f"model_type is {after!r}, the base's {before!r}: another class is loaded, with other names"
        yield Problem("same_kind", reason, CONFIG)


def _of_language_model(name: str) -> bool:
    """Whether a model of several kinds has the tensor in its language model, or in the head of it."""
    return "language_model" in name.split(".") or name.startswith("lm_head.")


def loading_notes(context: CheckContext) -> Iterator[str]:
    """What loading does that is not wrong, and that a reader should know."""
    held = result_of(context)
    for name in sorted(held.documents):
        keys = {key for key, _, _ in set_keys(parsed(held, name))} if is_configuration(name) else ()
        if name != CONFIG and "auto_map" in keys:
            yield f"{name} names code (auto_map), which transformers runs if it is allowed to"
    for dtype, file in sorted(set(named_dtypes(context))):
        other = [reading.name for reading in frozen_floats(context) if reading.dtype != DTYPES.get(dtype, dtype)]
        if other and not is_own(parsed(held, CONFIG)):
            yield f"frozen in another dtype than {file}'s {dtype}, to which loading may convert: {some(other)}"
    adapter = parsed(held, ADAPTER_CONFIG)
    if isinstance(adapter, dict) and (base := adapter.get("base_model_name_or_path")):
        yield f"an adapter has no base weights: what peft finds under the name {str(base)!r} was not looked at"


def some(names: list[str]) -> str:
    """The first five names, and how many more there are."""
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


CHECKS: dict[str, Check] = {
    "config_readable": _config_readable,
    "config_keys": _config_keys,
    "config_dtype": _config_dtype,
    "layers_loaded": _layers_loaded,
    "same_tensors": _same_tensors,
    "same_kind": _same_kind,
}
