"""Checks that the files of a result leave a loader no choice: which weights it opens, and what it does to their bytes.

The rules are those of transformers, peft and sentence-transformers. Each refusal names the file, the rule that makes it
ambiguous, and what to remove.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from app.evidence.format.statement import Reading
from app.evidence.format.strict import JsonError, read_json, repeated_keys
from app.evidence.verifier.context import Check, CheckContext, Holdings, Problem
from app.evidence.verifier.loaders import is_known
from app.evidence.verifier.read_files import INDEX_ENDING, is_configuration

WEIGHTS = {"full": "model.safetensors", "adapter": "adapter_model.safetensors"}
INDEX = "model.safetensors.index.json"
CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"

# Weights in formats that some loader prefers to safetensors, reads beside them, or unpacks.
CONTAINERS = (
    *(".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".hdf5", ".keras", ".msgpack", ".gguf", ".ggml"),
    *(".onnx", ".onnx_data", ".npz", ".npy", ".joblib", ".ot", ".tflite", ".pb", ".xml", ".mlmodel", ".mlpackage"),
    *(".distcp", ".pdparams", ".nemo", ".mar", ".engine", ".plan", ".zip", ".tar", ".tgz", ".gz", ".7z"),
)
CODE = (".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".ipynb")

# Keys of a configuration that make a loader run code, open another file, or store weights in another form.
CONFIG_KEYS = {
    "auto_map": "code from this or another repository replaces the model's class",
    "custom_pipelines": "code from this or another repository is run",
    "trust_remote_code": "code from another repository is run",
    "transformers_weights": "transformers opens the file that it names in place of model.safetensors",
    "extra_files": "older transformers open the files that it names as well",
    "quantization_config": "transformers converts the weights while it loads them",
    "compression_config": "transformers converts the weights while it loads them",
    "fusion_config": "transformers fuses weights while it loads them",
    "tie_encoder_decoder": "transformers 4 replaces the decoder's weights by the encoder's",
}
# Initialisations of peft that leave the base's weights alone; the others subtract the adapter from them on loading.
ADAPTER_INITIALISATIONS = (None, True, False, "gaussian", "orthogonal")
ADAPTER_TYPES = ("LORA", "IA3", "PROMPT_TUNING")
ADAPTER_KEYS = {
    "layer_replication": "peft repeats layers of the base model",
    "megatron_config": "peft imports a module for it",
    "loftq_config": "peft replaces the base's weights by quantised ones",
    "corda_config": "peft rewrites the base's weights",
    "eva_config": "peft initialises the adapter anew",
    "lora_ga_config": "peft rewrites the base's weights",
}
DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "half": "F16", "float": "F32"}

_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")


def parsed(held: Holdings, name: str) -> Any:
    """A configuration of the folder; the empty object if it is missing or not JSON, which `config_readable` reports."""
    try:
        return read_json(held.documents[name]) if name in held.documents else {}
    except JsonError:
        return {}


def _one_weights_file(context: CheckContext) -> Iterator[Problem]:
    """Rejects weights beside the one file that a loader opens: it would not see the others, which were proved too."""
    kind = context.predicate.result_kind
    names = {file.name for file in context.predicate.result_files}
    if WEIGHTS[kind] not in names:
        return
    for name in sorted(names - {WEIGHTS[kind]}):
        if name.endswith((".safetensors", INDEX_ENDING)):
            loader = "transformers" if kind == "full" else "peft"
            reason = f"{loader} opens {WEIGHTS[kind]} alone and ignores this file; remove one of the two"
            yield Problem("one_weights_file", reason, name)


def _index_name(context: CheckContext) -> Iterator[Problem]:
    """Rejects an index under another name than loaders read: they would not see it, or would for a variant."""
    for file in context.predicate.result_files:
        if re.search(r"\.index(\.[^.]+)*\.json$", file.name.lower()) and file.name != INDEX:
            yield Problem("index_name", f"transformers reads {INDEX} and no other index; remove it", file.name)


def _weights_name(context: CheckContext) -> Iterator[Problem]:
    """Rejects names of weight files that other systems or loaders take for another file or another format."""
    for file in context.predicate.result_files:
        if file.name.lower().endswith(".safetensors") and not file.name.endswith(".safetensors"):
            reason = "some file systems take this name for that of a weight file; write .safetensors in lower case"
            yield Problem("weights_name", reason, file.name)
        elif _DISTRIBUTED.fullmatch(file.name):
            reason = "transformers takes it for a distributed checkpoint and ignores the index; rename the shards"
            yield Problem("weights_name", reason, file.name)


def _no_containers(context: CheckContext) -> Iterator[Problem]:
    """Rejects weights in another format than safetensors, even if signed: a loader may prefer them."""
    for file in context.predicate.result_files:
        if file.name.lower().endswith(CONTAINERS):
            reason = "weights in another format, which a loader may open in place of the safetensors file; remove it"
            yield Problem("no_containers", reason, file.name)


def _no_code(context: CheckContext) -> Iterator[Problem]:
    """Rejects code beside the weights, even if signed: loading it may put any weights in their place."""
    for file in context.predicate.result_files:
        if file.name.lower().endswith(CODE):
            reason = "code, which transformers runs to load the model if it is allowed to; remove it"
            yield Problem("no_code", reason, file.name)


def _no_modules(context: CheckContext) -> Iterator[Problem]:
    """Rejects modules.json: sentence-transformers loads the folders and classes that it names."""
    for file in context.predicate.result_files:
        if file.name.lower() == "modules.json":
            reason = "sentence-transformers loads the modules that it names in place of the model; remove it"
            yield Problem("no_modules", reason, file.name)


def _metadata_format(context: CheckContext) -> Iterator[Problem]:
    """Rejects weights marked as those of another framework: transformers 4 transposes them while it loads them."""
    for name, reading in _result(context).weights.items():
        marked = reading.metadata.get("format", "pt")
        if marked != "pt":
            reason = f"marked as weights of {marked!r}, which transformers 4 converts; the format has to be 'pt'"
            yield Problem("metadata_format", reason, name)


def _config_readable(context: CheckContext) -> Iterator[Problem]:
    """Rejects a configuration that is not one JSON object, or in which a key appears twice."""
    for name, raw in _result(context).documents.items():
        if not is_configuration(name):
            continue
        try:
            document = read_json(raw)
        except JsonError as error:
            yield Problem("config_readable", str(error), name)
            continue
        if not isinstance(document, dict):
            yield Problem("config_readable", "not a JSON object", name)
        for key in repeated_keys(document):
            yield Problem("config_readable", f"key {key!r} appears twice; remove one of the two", name)


def _config_keys(context: CheckContext) -> Iterator[Problem]:
    """Rejects a configuration with which a loader runs code, opens other files or converts weights."""
    for key, path in set_keys(parsed(_result(context), CONFIG)):
        if key in CONFIG_KEYS:
            yield Problem("config_keys", f"{path}: {CONFIG_KEYS[key]}; remove the key", CONFIG)


def set_keys(value: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """Keys at any depth that have a value, and their paths."""
    if isinstance(value, dict):
        for key, item in value.items():
            path = f"{at}.{key}".lstrip(".")
            if item not in (None, False, [], {}, ()):
                yield key, path
            yield from set_keys(item, path)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from set_keys(item, f"{at}[{index}]")


def _config_dtype(context: CheckContext) -> Iterator[Problem]:
    """Rejects a configuration whose dtype is not that of the frozen weights: transformers converts them to it."""
    held = _result(context)
    config = parsed(held, CONFIG)
    if not is_known(config):
        return
    stored = {reading.dtype for reading in frozen_floats(context)}
    if not stored:
        return

    named = {str(config[key]) for key in ("dtype", "torch_dtype") if config.get(key) is not None}
    if not named and len({t.dtype for t in held.tensors().values() if t.dtype in DTYPES.values()}) > 1:
        reason = "no dtype, so transformers converts all weights to that of the first one; add the dtype of the base"
        yield Problem("config_dtype", reason, CONFIG)
    for dtype in sorted(named):
        if DTYPES.get(dtype.removeprefix("torch."), dtype) not in stored:
            kept = " and ".join(sorted(stored))
            reason = f"transformers converts weights to {dtype}, and the frozen ones are stored as {kept}; correct it"
            yield Problem("config_dtype", reason, CONFIG)


def frozen_floats(context: CheckContext) -> list[Reading]:
    """Readings of the frozen tensors that loading may convert to another dtype."""
    rows = (row for row in context.predicate.rows if row.role in ("frozen", "split"))
    return [row.result for row in rows if row.result and row.result.dtype in DTYPES.values()]


def loading_notes(context: CheckContext) -> Iterator[str]:
    """What loading does that is not wrong, and that a reader should know."""
    held = _result(context)
    config = parsed(held, CONFIG)
    for name in sorted(held.documents):
        if name != CONFIG and is_configuration(name) and "auto_map" in dict(set_keys(parsed(held, name))):
            yield f"{name} names code (auto_map), which transformers runs if it is allowed to"
    named = {str(config[key]) for key in ("dtype", "torch_dtype") if config.get(key)} if is_known(config) else set()
    for dtype in sorted(named):
        other = [r.name for r in frozen_floats(context) if r.dtype != DTYPES.get(dtype.removeprefix("torch."), dtype)]
        if other:
            yield f"frozen in another dtype than config.json's {dtype}, to which loading may convert: {some(other)}"


def some(names: list[str]) -> str:
    """The first five names, and how many more there are."""
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def _layers_loaded(context: CheckContext) -> Iterator[Problem]:
    """Rejects frozen tensors of layers beyond those that the configuration has: they are not loaded."""
    config = parsed(_result(context), CONFIG)
    counts = list(_layer_counts(config)) if is_known(config) and context.predicate.result_kind == "full" else []
    for row in context.predicate.rows if counts else ():
        number = re.search(r"(?:^|\.)(\d+)\.", row.result.name) if row.result and row.role == "frozen" else None
        if number is not None and row.result is not None and int(number[1]) >= max(counts):
            reason = (
                f"config.json has at most {max(counts)} layers, so it is not loaded; set the base's number of layers"
            )
            yield Problem("layers_loaded", reason, row.result.name)


def _layer_counts(value: Any) -> Iterator[int]:
    """Numbers of layers and stages in a configuration, at any depth."""
    for key, item in value.items() if isinstance(value, dict) else ():
        if isinstance(item, dict):
            yield from _layer_counts(item)
        elif key.endswith(("layers", "layer", "depth", "depths", "blocks", "stages", "hidden_sizes", "groups")):
            numbers = [item] if isinstance(item, int) else item if isinstance(item, list) else []
            yield from (number for number in (*numbers, len(numbers)) if isinstance(number, int))


def _same_kind(context: CheckContext) -> Iterator[Problem]:
    """Rejects a result of another kind than the base at hand: its class would not load the frozen tensors at all."""
    if context.base is None or context.predicate.result_kind == "adapter":
        return
    base, result = (parsed(held, CONFIG) for held in (context.base, _result(context)))
    before, after = (config.get("model_type") if isinstance(config, dict) else None for config in (base, result))
    if before is not None and before != after:
        reason = f"model_type is {after!r}, the base's {before!r}: another class is loaded, with other names"
        yield Problem("same_kind", reason, CONFIG)


def _adapter_config(context: CheckContext) -> Iterator[Problem]:
    """Rejects adapters with which peft rewrites weights of the base while it loads them."""
    config = parsed(_result(context), ADAPTER_CONFIG)
    if not isinstance(config, Mapping):
        return
    how = config.get("init_lora_weights")
    if not isinstance(how, str | bool | None) or how not in ADAPTER_INITIALISATIONS:
        reason = f"init_lora_weights: with {how!r} peft rewrites the base's weights on loading; set it to true"
        yield Problem("adapter_config", reason, ADAPTER_CONFIG)
    if config.get("bias", "none") != "none":
        yield Problem("adapter_config", "bias: peft loads biases over those of the base; set 'none'", ADAPTER_CONFIG)
    if config.get("peft_type", "LORA") not in ADAPTER_TYPES:
        reason = f"peft_type {config['peft_type']!r} is not known to leave the base's weights alone"
        yield Problem("adapter_config", f"{reason}; the known ones are {', '.join(ADAPTER_TYPES)}", ADAPTER_CONFIG)
    for key, rule in ADAPTER_KEYS.items():
        if config.get(key):
            yield Problem("adapter_config", f"{key}: {rule}; remove the key", ADAPTER_CONFIG)


def _attestation_name(context: CheckContext) -> Iterator[Problem]:
    """Rejects an attestation inside the result under a name that a loader may read."""
    path, held = context.inputs.attestation, _result(context)
    if path is None or path.resolve().parent != held.folder.resolve():
        return
    name = path.resolve().name.lower()
    named = "attestation" in name and name.endswith(".json") and ".index." not in name
    if not named or name.startswith("adapter_"):
        reason = "a loader may read a file of this name; rename the attestation to attestation.json, or move it"
        yield Problem("attestation_name", reason, path.name)


def _result(context: CheckContext) -> Holdings:
    if context.result is None:
        raise AssertionError("a check of the result ran before it was read")
    return context.result


CHECKS: dict[str, Check] = {
    "one_weights_file": _one_weights_file,
    "index_name": _index_name,
    "weights_name": _weights_name,
    "no_containers": _no_containers,
    "no_code": _no_code,
    "no_modules": _no_modules,
    "metadata_format": _metadata_format,
    "config_readable": _config_readable,
    "config_keys": _config_keys,
    "config_dtype": _config_dtype,
    "layers_loaded": _layers_loaded,
    "same_kind": _same_kind,
    "adapter_config": _adapter_config,
    "attestation_name": _attestation_name,
}
