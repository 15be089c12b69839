"""Results captured once and served again, on a live model."""

import pytest
import torch
from torch import Tensor, nn

from worker.trainer.prefix.cut import find
from worker.trainer.prefix.flow import follow, memory
from worker.trainer.prefix.serving import Prefix
from worker.trainer.prefix.shapes import BatchSizes


class Counting(nn.Linear):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Counting(4, 4), nn.Linear(4, 2))


def prefix_of(model: nn.Sequential) -> Prefix:
    still = {memory(parameter) for parameter in model[0].parameters()}
    flows = [follow(model, lambda x=x: [model(x)]) for x in (torch.randn(2, 4), torch.randn(3, 4))]  # type: ignore[misc]
    cut = find((flows[0], flows[1]), BatchSizes((2, 3), (0, 0)), still=lambda t: memory(t) in still, model=model)
    return Prefix(model, cut)


def test_served_results_are_not_computed(model: nn.Sequential) -> None:
    """The same output bits without a call of the frozen module; outside, everything is computed."""
    x = torch.randn(2, 4)
    live, prefix = model(x), prefix_of(model)
    values = prefix.capture(lambda: model(x))
    calls = model[0].calls
    with prefix.served(values, rows=2, width=0):
        assert torch.equal(model(torch.full_like(x, float("nan"))), live)
    assert model[0].calls == calls
    model(x)
    assert model[0].calls == calls + 1


def test_capture_stops_at_the_last_result_and_restores_the_mode(model: nn.Sequential) -> None:
    """The head is not run, and a model in training mode stays in it."""
    prefix = prefix_of(model)
    model.train()
    head = []
    model[1].register_forward_hook(lambda *_: head.append(1))
    (value,) = prefix.capture(lambda: model(torch.ones(2, 4)))
    assert value.shape == (2, 4) and not head and model.training


def test_another_way_through_the_model_is_an_error(model: nn.Sequential) -> None:
    prefix = prefix_of(model)
    values = prefix.capture(lambda: model(torch.ones(2, 4)))
    with prefix.served(values, rows=2, width=0), pytest.raises(RuntimeError, match="another way than before"):
        model(model(torch.ones(2, 4)).repeat(1, 2))


def test_remove_gives_the_modules_their_forwards_back(model: nn.Sequential) -> None:
    prefix_of(model).remove()
    assert "forward" not in model[0].__dict__
