"""What a recorded pass knows of its operations."""

import pytest
import torch
from torch import Tensor, nn

from worker.trainer.prefix.flow import Call, Flow, Op, follow, memory


def recorded(model: nn.Module, x: Tensor) -> Flow:
    return follow(model, lambda: [model(x)])


def test_calls_are_nested_and_end_in_order() -> None:
    """The model's own call is the root; a call ends after those inside it."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()))
    flow = recorded(model, torch.ones(1, 2))
    assert [event.path for event in flow.events if isinstance(event, Call)] == ["0", "1.0", "1", ""]
    (root,) = flow.roots
    assert [child.path for child in root.children] == ["0", "1"]
    assert root.outputs == flow.final


def test_reads_writes_and_arithmetic() -> None:
    """A matrix product reads its weight, writes new memory and counts its operations."""
    model = nn.Linear(3, 4)
    flow = recorded(model, torch.ones(2, 3))
    product = next(event for event in flow.events if isinstance(event, Op) and event.flops)
    assert memory(model.weight) in product.reads
    assert product.writes and not product.writes & product.reads
    assert product.flops == 2 * 2 * 3 * 4


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_random_in_training_only(training: bool) -> None:
    flow = recorded(nn.Dropout(0.5).train(training), torch.ones(8))
    assert any(event.random for event in flow.events if isinstance(event, Op)) is training


def test_a_value_that_python_reads_leaks() -> None:
    """An operation without a tensor as its result may decide what comes next."""

    class Asking(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum().item() > 0 else -x

    assert any(event.leaks for event in recorded(Asking(), torch.ones(2)).events if isinstance(event, Op))
