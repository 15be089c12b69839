"""Checks that the modules of a sentence-transformers result are exactly those that this product writes.

sentence-transformers loads the classes, folders and arguments that `modules.json` and its other configurations name.
"""

import re
from collections.abc import Iterator
from typing import Any

from app.evidence.format.modules import CONFIG, FILES, MODULES, ModulesError, SentenceModule, files_of, parse
from app.evidence.format.strict import JsonError, read_json
from app.evidence.format.templates import is_template_file
from app.evidence.verifier.context import CheckContext, Holdings, Problem
from app.evidence.verifier.read_files import SENTENCE_CONFIG

POOLINGS = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
#: The keys of each configuration: others choose classes, their arguments, or what of the features a module reads.
KEYS = {
    "sentence_bert_config.json": {"max_seq_length", "do_lower_case"},
    SENTENCE_CONFIG: {"prompts", "default_prompt_name", "similarity_fn_name"},
    "Pooling": {"word_embedding_dimension", "include_prompt", *(f"pooling_mode_{mode}" for mode in POOLINGS)},
    "Dense": {"in_features", "out_features", "bias", "activation_function"},
}
#: The configuration of the transformer has one of seven names: `sentence_roberta_config.json` is read where the first
#: is empty or missing.
_TRANSFORMER_CONFIG = re.compile(r"sentence_.*_config\.json")
ACTIVATIONS = "torch.nn.modules."


def no_modules(context: CheckContext) -> Iterator[Problem]:
    """Rejects files in folders and a `modules.json`, apart from chat templates and sentence-transformers' modules."""
    names = {file.name for file in context.predicate.result_files}
    inside = {name for name in names if "/" in name and not is_template_file(name)}
    for name in sorted(names):
        if name.casefold() == MODULES and (name != MODULES or context.predicate.result_kind != "full"):
            reason = "sentence-transformers loads the modules that it names in place of the model; remove it"
            yield Problem("no_modules", reason, name)
            return

    if MODULES not in names:
        for name in sorted(inside):
            yield Problem("no_modules", f"in a folder, and there is no {MODULES} that says what it is", name)
        return
    if context.result is not None:
        yield from _modules(context.result, inside)


def _modules(held: Holdings, inside: set[str]) -> Iterator[Problem]:
    document = _document(held, MODULES)
    try:
        modules = parse(document)
    except ModulesError as error:
        yield Problem("no_modules", f"sentence-transformers loads the modules that it names: {error}", MODULES)
        return

    if document != [module.to_json(at) for at, module in enumerate(modules)]:
        reason = "not as this product writes it: sentence-transformers may load other classes"
        yield Problem("no_modules", reason, MODULES)
    for name in sorted(inside ^ set(files_of(modules))):
        what = "not a file of the modules that are listed" if name in inside else f"missing, and {MODULES} names it"
        yield Problem("no_modules", what, name)
    for name in sorted(held.documents):
        if name == SENTENCE_CONFIG or _TRANSFORMER_CONFIG.fullmatch(name):
            yield from _other_keys(held, name, KEYS[name if name in KEYS else "sentence_bert_config.json"])
    for module in modules:
        if CONFIG in FILES[module.kind]:
            yield from _configuration(held, module)


def _configuration(held: Holdings, module: SentenceModule) -> Iterator[Problem]:
    name = f"{module.path}/{CONFIG}"
    yield from _other_keys(held, name, KEYS[module.kind])
    document = _document(held, name)
    activation = document.get("activation_function") if isinstance(document, dict) else None
    if module.kind == "Dense" and not str(activation).startswith(ACTIVATIONS):
        yield Problem("no_modules", f"activation_function: {activation!r} is not one of torch.nn", name)


def _other_keys(held: Holdings, name: str, keys: set[str]) -> Iterator[Problem]:
    document = _document(held, name)
    if not isinstance(document, dict):
        yield Problem("no_modules", "not a JSON object", name)
        return
    for key in sorted(document.keys() - keys):
        reason = f"{key}: sentence-transformers takes it as an argument of a class; remove the key"
        yield Problem("no_modules", reason, name)


def _document(held: Holdings, name: str) -> Any:
    try:
        return read_json(held.documents[name]) if name in held.documents else None
    except JsonError:
        return None
