"""Checks of a result whose weights are stored quantised: its loader takes codes and scales as they were proved.

The rules are those of transformers and bitsandbytes. Each refusal names the tensor or the key, and what would work.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from app.evidence.format.quantised import (
    Quantisation,
    QuantisationError,
    hole,
    is_scale,
    left_out,
    listed_plain,
    quantisation_of,
    quantised_weights,
)
from app.evidence.verifier.check_configuration import CONFIG, QUANTISED, parsed
from app.evidence.verifier.context import Check, CheckContext, Problem, result_of

_SKIPPED = "llm_int8_skip_modules"


def _quantised(context: CheckContext) -> Iterator[Problem]:
    """Rejects a result with quantised weights that are not complete, not frozen, or not read as they are stored.

    With the base at hand, also an adapter over weights that were decoded, where loaders do not decode them.
    """
    yield from _decoded_by_loaders(context)
    config = parsed(result_of(context), CONFIG)
    if not isinstance(config, dict) or config.get(QUANTISED) is None or context.predicate.result_kind != "full":
        return
    try:
        quantisation = quantisation_of(config)
    except QuantisationError as error:
        yield Problem("quantised", str(error), CONFIG)
        return
    if quantisation is not None and quantisation.below_adapters:
        reason = f"loaders make floats of the codes of {quantisation.method}: only the base of an adapter has them"
        yield Problem("quantised", reason, CONFIG)
    elif quantisation is not None:
        yield from _parts(context, quantisation)
        yield from _same_as_base(context, config[QUANTISED])


def _decoded_by_loaders(context: CheckContext) -> Iterator[Problem]:
    decoded = next((row.name for row in context.predicate.rows if row.decoded), None)
    config = parsed(context.base, CONFIG) if context.base is not None else {}
    if decoded is None or not config:  # a base without a config.json is no model that a library loads
        return
    try:
        quantisation = quantisation_of(config) if isinstance(config, dict) else None
    except QuantisationError as error:
        yield Problem("quantised", f"was decoded for training, and the base's config.json has {error}", decoded)
        return
    if quantisation is None or not quantisation.decoded:
        reason = f"was decoded for training, and the base's config.json has no {QUANTISED} by which loaders decode it"
        yield Problem("quantised", reason, decoded)
        return
    problem = hole({row.base.name: row.base.dtype for row in context.predicate.rows if row.base}, quantisation)
    if problem is not None:
        yield Problem("quantised", f"was decoded for training, and of the base {problem}", decoded)
    is_plain = listed_plain(quantisation)
    for row in context.predicate.rows:
        if row.decoded and row.base and is_plain(row.base.name.rpartition(".")[0]):
            reason = "was decoded for training, and the base's config.json lists it as plain: loaders do not decode it"
            yield Problem("quantised", reason, row.name)


def _parts(context: CheckContext, quantisation: Quantisation) -> Iterator[Problem]:
    rows = [row for row in context.predicate.rows if row.result is not None]
    dtypes = {row.result.name: row.result.dtype for row in rows if row.result}
    problem = hole(dtypes, quantisation)
    if problem is not None:
        yield Problem("quantised", problem, CONFIG)
        return
    weights, is_left_out = quantised_weights(dtypes), left_out(quantisation.skipped or ())
    for row in rows:
        name = row.result.name if row.result else ""
        if (name in weights or is_scale(name)) and row.role != "frozen":
            reason = f"a part of a quantised weight, whose role is '{row.role}': it can only be frozen"
            yield Problem("quantised", reason, row.name)
        paths = [each.removesuffix(".weight") for each in (name, row.name)]
        if name in weights and any(map(is_left_out, paths)):
            reason = f"stored quantised, and {_SKIPPED} leaves it out: transformers would not load it; correct the list"
            yield Problem("quantised", reason, row.name)


def _same_as_base(context: CheckContext, value: Mapping[str, Any]) -> Iterator[Problem]:
    """Problems of keys whose value is not the base's. A new head is one more module that is left out."""
    base = _stored(context)
    if not isinstance(base, Mapping):
        return
    for key in sorted(base.keys() & value.keys() - {_SKIPPED}):
        if base[key] != value[key]:
            reason = f"{QUANTISED}.{key} is {value[key]!r}, and {base[key]!r} in the base; set the base's value"
            yield Problem("quantised", reason, CONFIG)
    lost = sorted({*(base.get(_SKIPPED) or ())} - {*(value.get(_SKIPPED) or ())})
    if lost:
        reason = (
            f"{QUANTISED}.{_SKIPPED} lacks {lost[0]!r}, which the base leaves out: loaders make a quantised layer of"
            " it, which rounds its weights on a GPU; add it"
        )
        yield Problem("quantised", reason, CONFIG)


def _stored(context: CheckContext) -> Any:
    """The quantization_config of the base; None where it is not at hand, or has none."""
    config = parsed(context.base, CONFIG) if context.base is not None else {}
    return config.get(QUANTISED) if isinstance(config, dict) else None


CHECKS: dict[str, Check] = {"quantised": _quantised}
