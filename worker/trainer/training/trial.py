"""A pass over a few examples before the first step, so that data and model that do not fit are refused by name."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from app.errors import DataError, ModelError
from app.specs.fit import refuse_few_outputs
from worker.trainer.data.language import LanguageExamples
from worker.trainer.recurring import may_pass
from worker.trainer.training.isolation import refuse_leaks
from worker.trainer.training.memory import ran_out
from worker.trainer.training.passes import Passes


def refuse_misfits(passes: Passes) -> None:
    """DataError, ModelError or InvalidRequest where model and data do not go together.

    The model's generators may have been drawn from afterwards.
    """
    outputs = _outputs_of_two(passes)
    labels = passes.job.splits.labels
    if labels is not None:
        refuse_few_outputs(len(labels), outputs.shape[-1])
    examples = passes.job.training
    if isinstance(examples, LanguageExamples) and examples.packed:
        _refuse_unpackable(passes, examples)


def _outputs_of_two(passes: Passes) -> Tensor:
    """The outputs for two examples. ModelError where the model's own code fails on a config that lacks something."""
    try:
        return probe(passes)
    except (AttributeError, KeyError, AssertionError) as error:
        message = f"the model cannot be run: {type(error).__name__}: {error}"
        raise ModelError(message, param="model", code="model_cannot_run") from error


@torch.no_grad()
def probe(passes: Passes) -> Tensor:
    """The outputs of one forward pass over two examples. DataError if the model does not accept them."""
    examples, model = passes.job.training, passes.state.model
    batch = examples.batch(np.arange(min(2, len(examples)))).to(passes.job.device)
    model.eval()
    try:
        _, outputs = passes.compute_once(batch)
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        if ran_out(error) or may_pass(error):
            raise
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in batch.inputs.items())
        message = f"the model does not accept this data ({shapes}, targets {tuple(batch.targets.shape)}): {error}"
        raise DataError(message, param="training_file", code="data_does_not_fit_model") from error
    model.train()
    return outputs


def _refuse_unpackable(passes: Passes, examples: LanguageExamples) -> None:
    """Tried with the second example behind the first one in a row."""

    def logits(row: dict[str, Tensor]) -> Tensor:
        with passes.autocast():
            inputs = {name: tensor.to(passes.job.device) for name, tensor in row.items()}
            found: Tensor = passes.state.model(**inputs).logits
        return found

    model = passes.state.model
    refuse_leaks(model, logits, examples.sequences[0], examples.sequences[min(1, len(examples) - 1)])
