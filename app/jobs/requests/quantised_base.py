"""Refuses a quantised base that no worker can train on, as far as its config.json says so."""

from app.errors import ModelError, PermafrostError
from app.evidence.format.quantised import QuantisationError, quantisation_of
from app.jobs.requests.base_head import read_config
from app.jobs.requests.context import SubmissionContext
from app.models.catalog import ChosenModel
from app.specs.models import TransformersSpec
from app.specs.rules import refuse_merge_into_quantised, refuse_quantising_again, refuse_without_adapter


def refuse_quantised(context: SubmissionContext, model: ChosenModel) -> None:
    """ModelError for a quantised form that is not read; InvalidRequest for an adapter to merge into quantised weights.

    A base whose configuration is not here is left to a worker.
    """
    if not isinstance(model.spec, TransformersSpec):
        return
    if model.spec.quantize is not None:
        refuse_merge_into_quantised(model.spec.adapter)
    try:
        config = read_config(context, model.spec, model.base_id)
    except (PermafrostError, OSError, ValueError):
        return
    if not isinstance(config, dict):
        return
    try:
        quantisation = quantisation_of(config)
    except QuantisationError as error:
        raise ModelError(f"config.json has {error}", param="model", code="quantised_model") from None
    if quantisation is not None:
        refuse_quantising_again(model.spec.quantize)
        if quantisation.below_adapters:
            refuse_without_adapter(model.spec.adapter, quantisation.method)
        refuse_merge_into_quantised(model.spec.adapter)
