"""Checks of the class that loaders choose by `architectures`: it takes all that was proved.

The rules are those of transformers. Each refusal names the class, who goes by it, and what to write.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from app.evidence.verifier.check_configuration import CONFIG, parsed, short, some
from app.evidence.verifier.context import Check, CheckContext, Holdings, Problem, result_of
from app.evidence.verifier.loaders import is_class, is_known, record


def _own_class(context: CheckContext) -> Iterator[Problem]:
    """Rejects a class of another kind of model: it has other names for the tensors, and takes none of them."""
    config = _known(context, result_of(context))
    if config is None or (context.base is not None and _named(config) == _named(parsed(context.base, CONFIG))):
        return
    kind = config["model_type"]
    own = record(kind).get("classes", ())
    for name in _named(config) if own else ():
        if name not in own and is_class(name):
            reason = (
                f"architectures names {name}, which is no class of model_type {kind!r}: loaders that go by it, as "
                "transformers' server does, find other names in it and draw its tensors anew; name the model's class"
            )
            yield Problem("own_class", reason, CONFIG)


def _same_class(context: CheckContext) -> Iterator[Problem]:
    """Rejects another one of the classes between which an auto class chooses than it takes for the base."""
    config = _known(context, result_of(context))
    if config is None or context.base is None:
        return
    base = parsed(context.base, CONFIG)
    for classes in record(config["model_type"]).get("choices", ()):
        before, after = _chosen(classes, _named(base)), _chosen(classes, _named(config))
        # The usual one of two base models has all tensors of the other one, which is a part of it.
        if before == after or (after == classes[0] and "For" not in after):
            continue
        reason = (
            f"transformers chooses between {' and '.join(classes)} by architectures: {after} here, and {before} for "
            f"the base, whose tensors are not all in it; name {before}"
        )
        yield Problem("same_class", reason, CONFIG)


def _unknown_kind(context: CheckContext) -> Iterator[Problem]:
    """Rejects a configuration that says other than the base's, of a kind whose class this verifier does not know."""
    for path, (then, now) in sorted(_of_unknown_kind(context).items()):
        if then is not None and now is not None:
            reason = (
                f"{path} is {short(now[0])}, and {short(then[0])} in the base; model_type is not known to this "
                "verifier, and its class may lack tensors then; set the base's value, or use a later verifier"
            )
            yield Problem("unknown_kind", reason, CONFIG)


def class_notes(context: CheckContext) -> Iterator[str]:
    """That a class is not known, and what may decide on its tensors that only one of the configurations says."""
    config = parsed(result_of(context), CONFIG)
    kind = config.get("model_type") if isinstance(config, Mapping) else None
    if not isinstance(kind, str) or is_known(config) or context.predicate.result_kind == "adapter":
        return
    alone = [path for path, values in sorted(_of_unknown_kind(context).items()) if None in values]
    more = f"; in one of the configurations of base and result alone: {some(alone)}" if alone else ""
    yield f"model_type {kind!r} is not known to this verifier: which tensors its class has was not looked at{more}"


#: Keys that a new head, another release or another use changes.
_FREE = frozenset(
    (
        *("architectures", "num_labels", "id2label", "label2id", "problem_type", "finetuning_task", "vocab_size"),
        *("dtype", "torch_dtype", "transformers_version", "_name_or_path", "use_cache", "pad_token_id"),
        *("bos_token_id", "eos_token_id", "is_decoder", "quantization_config"),  # of which `quantised` has the last
    )
)


def _of_unknown_kind(context: CheckContext) -> dict[str, tuple[list[Any] | None, list[Any] | None]]:
    """What configurations of an unknown kind say differently, by path: the base's value, and the result's."""
    config = parsed(result_of(context), CONFIG)
    base = parsed(context.base, CONFIG) if context.base is not None else None
    if not isinstance(base, Mapping) or not isinstance(config, Mapping) or context.predicate.result_kind == "adapter":
        return {}
    if is_known(config) or not config.get("model_type") or config["model_type"] != base.get("model_type"):
        return {}  # `same_kind` says so
    before, after = dict(_leaves(base)), dict(_leaves(config))
    paths = before.keys() | after.keys()
    return {path: (before.get(path), after.get(path)) for path in paths if before.get(path) != after.get(path)}


def _leaves(config: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Paths and values of what a configuration says, at any depth, in a list of one."""
    for key, value in config.items():
        if key in _FREE:
            continue
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", [value]


def _known(context: CheckContext, held: Holdings) -> Mapping[str, Any] | None:
    """The configuration of a model that transformers loads."""
    config = parsed(held, CONFIG)
    return None if context.predicate.result_kind == "adapter" or not is_known(config) else config


def _named(config: Any) -> list[str]:
    names = config.get("architectures") if isinstance(config, Mapping) else None
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _chosen(classes: list[str], named: list[str]) -> str:
    """As transformers does: the first that is named, or the usual one."""
    return next((name for name in named if name in classes), classes[0])


CHECKS: dict[str, Check] = {"own_class": _own_class, "same_class": _same_class, "unknown_kind": _unknown_kind}
