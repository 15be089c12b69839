"""Checks that the files of a result leave a loader no choice which weights it opens.

The rules are those of transformers, peft and sentence-transformers. Each refusal names the file, the rule that makes it
ambiguous, and what to remove.
"""

import re
from collections.abc import Iterator

from app.evidence.verifier.check_modules import no_modules
from app.evidence.verifier.context import Check, CheckContext, Problem, result_of
from app.evidence.verifier.read_files import INDEX_ENDING

WEIGHTS = {"full": "model.safetensors", "adapter": "adapter_model.safetensors"}
INDEX = "model.safetensors.index.json"

# Weights in formats that some loader prefers to safetensors, reads beside them, or unpacks.
CONTAINERS = (
    *(".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".hdf5", ".keras", ".msgpack", ".gguf", ".ggml"),
    *(".onnx", ".onnx_data", ".npz", ".npy", ".joblib", ".ot", ".tflite", ".pb", ".xml", ".mlmodel", ".mlpackage"),
    *(".distcp", ".pdparams", ".nemo", ".mar", ".engine", ".plan", ".zip", ".tar", ".tgz", ".gz", ".7z"),
)
CODE = (".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".ipynb")

_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")


def _one_weights_file(context: CheckContext) -> Iterator[Problem]:
    """Rejects weights beside the one file that a loader opens: it would not see the others, which were proved too."""
    kind = context.predicate.result_kind
    names = {file.name for file in context.predicate.result_files}
    loader = "transformers" if kind == "full" else "peft"
    for name in sorted(names - {WEIGHTS[kind]}):
        if not name.endswith((".safetensors", INDEX_ENDING)) or "/" in name:  # those of modules are checked as such
            continue
        if WEIGHTS[kind] in names:
            reason = f"{loader} opens {WEIGHTS[kind]} alone and ignores this file; remove one of the two"
            yield Problem("one_weights_file", reason, name)
        elif kind == "adapter":
            reason = f"peft opens {WEIGHTS[kind]}, which is not there; give the weights this name"
            yield Problem("one_weights_file", reason, name)


def _index_name(context: CheckContext) -> Iterator[Problem]:
    """Rejects an index under another name than loaders read: they would not see it, or would for a variant."""
    for file in context.predicate.result_files:
        if re.search(r"\.index(\.[^.]+)*\.json$", file.name.casefold()) and file.name != INDEX:
            yield Problem("index_name", f"transformers reads {INDEX} and no other index; remove it", file.name)


def _weights_name(context: CheckContext) -> Iterator[Problem]:
    """Rejects names that other systems or loaders take for another file or another format."""
    for file in context.predicate.result_files:
        name = file.name.rpartition("/")[2]  # the folders of sentence-transformers' modules have capital letters
        folded = name.casefold()
        if folded != name and _is_read(folded):
            reason = f"some file systems take this name for {folded!r}, which loaders read; write it like that"
            yield Problem("weights_name", reason, file.name)
        elif _DISTRIBUTED.fullmatch(file.name):
            reason = "transformers takes it for a distributed checkpoint and ignores the index; rename the shards"
            yield Problem("weights_name", reason, file.name)


def _is_read(name: str) -> bool:
    """Names under which loaders look for weights, an index or a configuration."""
    return name.endswith((".safetensors", "config.json", "index.json"))


def _no_containers(context: CheckContext) -> Iterator[Problem]:
    """Rejects weights in another format than safetensors, even if signed: a loader may prefer them."""
    for file in context.predicate.result_files:
        if file.name.casefold().endswith(CONTAINERS):
            reason = "weights in another format, which a loader may open in place of the safetensors file; remove it"
            yield Problem("no_containers", reason, file.name)


def _no_code(context: CheckContext) -> Iterator[Problem]:
    """Rejects code beside the weights, even if signed: loading it may put any weights in their place."""
    for file in context.predicate.result_files:
        if file.name.casefold().endswith(CODE):
            reason = "code, which transformers runs to load the model if it is allowed to; remove it"
            yield Problem("no_code", reason, file.name)


def _metadata_format(context: CheckContext) -> Iterator[Problem]:
    """Rejects weights marked as those of another framework: transformers 4 transposes them while it loads them."""
    for name, reading in result_of(context).weights.items():
        marked = reading.metadata.get("format", "pt")
        if marked != "pt":
            reason = f"marked as weights of {marked!r}, which transformers 4 converts; the format has to be 'pt'"
            yield Problem("metadata_format", reason, name)


def _attestation_name(context: CheckContext) -> Iterator[Problem]:
    """Rejects an attestation inside the result under a name that a loader may read."""
    path, held = context.inputs.attestation, result_of(context)
    if path is None or path.resolve().parent != held.folder.resolve():
        return
    name = path.resolve().name.casefold()
    named = "attestation" in name and name.endswith(".json") and ".index." not in name
    if not named or name.startswith("adapter_"):
        reason = "a loader may read a file of this name; rename the attestation to attestation.json, or move it"
        yield Problem("attestation_name", reason, path.name)


CHECKS: dict[str, Check] = {
    "one_weights_file": _one_weights_file,
    "index_name": _index_name,
    "weights_name": _weights_name,
    "no_containers": _no_containers,
    "no_code": _no_code,
    "no_modules": no_modules,
    "metadata_format": _metadata_format,
    "attestation_name": _attestation_name,
}
