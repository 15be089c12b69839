"""Where models are cut, on small ones made for each case."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from worker.trainer.prefix.cut import Cut, UncuttableError, find
from worker.trainer.prefix.flow import follow, memory
from worker.trainer.prefix.serving import Prefix
from worker.trainer.prefix.shapes import BatchSizes

WIDTH = 4


class Linear(nn.Linear):
    def __init__(self) -> None:
        super().__init__(WIDTH, WIDTH)


class Chain(nn.Module):
    """first, second, head; `join` is what is done between."""

    def __init__(self, join: Callable[[nn.Module, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.first, self.second, self.head = Linear(), Linear(), Linear()
        self.scale = nn.Parameter(torch.ones(()))
        self.drop = nn.Dropout(0.5)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.join(self, x) if self.join else torch.relu(x)
        return self.head(self.second(x))


def cut(model: nn.Module, frozen: Sequence[str], *, training: bool = False) -> Cut:
    """`frozen` are beginnings of names."""
    torch.manual_seed(0)
    still = {memory(t) for name, t in model.named_parameters() if name.startswith(tuple(frozen))}
    model.train(training)
    both = [torch.randn(rows, WIDTH) for rows in (2, 3)]
    flows = [follow(model, lambda x=x: [model(x)], inputs=[x]) for x in both]  # type: ignore[misc]
    return find((flows[0], flows[1]), BatchSizes((2, 3), (0, 0)), still=lambda t: memory(t) in still, model=model)


def paths(found: Cut) -> list[str]:
    return [call.path for call in found.served]


def kept(found: Cut) -> list[str]:
    return [call.path for call in found.served if any(leaf is not None and leaf.kept for leaf in call.leaves)]


def same(model: nn.Module, found: Cut, *, alone: bool = True) -> None:
    """From kept results the model gives the same bits, and afterwards it computes as before.

    `alone`: without a look at the input.
    """
    model.eval()
    x = torch.randn(5, WIDTH)
    live = model(x)
    prefix = Prefix(model, found)
    values = prefix.capture(lambda: model(x))
    with prefix.served(values, rows=5, width=0):
        assert torch.equal(model(torch.full_like(x, float("nan")) if alone else x), live)
    assert torch.equal(model(x), live)
    prefix.remove()
    assert all("forward" not in module.__dict__ for module in model.modules())
    assert torch.equal(model(x), live)


def test_frozen_modules_up_to_the_first_that_trains() -> None:
    """Both frozen layers are served, and only what the last one gives is kept."""
    model = Chain()
    found = cut(model, ["first", "second"])
    assert (paths(found), kept(found)) == (["first", "second"], ["second"])
    assert found.share == pytest.approx(2 / 3)
    same(model, found)


def test_nothing_behind_a_module_that_trains() -> None:
    """A frozen layer that computes on from a trained one is not served."""
    assert paths(cut(Chain(), ["second", "head"])) == []


def test_parameter_of_the_model_itself() -> None:
    """A trained scale between two frozen layers: the second gives something else at every step."""
    found = cut(Chain(lambda model, x: x * model.scale), ["first", "second"])
    assert paths(found) == ["first"]


@pytest.mark.parametrize("way", ["detach", "data", "no_grad", "copy"])
def test_value_that_trains_is_followed_where_gradients_are_not(way: str) -> None:
    """`requires_grad` says nothing of these ways; the bytes come from the trained scale all the same."""

    def join(model: nn.Module, x: Tensor) -> Tensor:
        scale = model.scale
        if way == "detach":
            return x * scale.detach()
        if way == "data":
            return x * scale.data
        if way == "no_grad":
            with torch.no_grad():
                return x * (scale > 0)
        target = torch.empty_like(x)
        target.copy_(scale)  # type: ignore[arg-type]
        return x + target

    assert paths(cut(Chain(join), ["first", "second"])) == ["first"]


def test_value_that_trains_and_is_read_by_python() -> None:
    """What Python does with it cannot be followed."""
    with pytest.raises(UncuttableError, match="Python read"):
        cut(Chain(lambda model, x: x * model.scale.item()), ["first", "second"])


def test_dropout_in_the_prefix() -> None:
    """In training mode its results are random from there on; in eval mode they are not."""
    model = Chain(lambda model, x: model.drop(x))
    assert paths(cut(model, ["first", "second"], training=True)) == ["first"]
    assert paths(cut(model, ["first", "second"])) == ["first", "second"]


def test_whether_inputs_are_read_behind_the_prefix() -> None:
    """Not by a chain; by one that adds its input to what the frozen module gives, also through a view."""

    class Around(Chain):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.first(x) + x[:])

    assert not cut(Chain(), ["first"]).reads_inputs
    assert cut(Around(), ["first"]).reads_inputs


def test_connection_around_the_prefix() -> None:
    """What reaches the trained part by another way is kept too."""

    class Around(Chain):
        def forward(self, x: Tensor) -> Tensor:
            first = self.first(x)
            return self.head(self.second(first) + first)

    model = Around()
    found = cut(model, ["first", "second"])
    assert kept(found) == ["first", "second"]
    same(model, found)


def test_module_called_twice() -> None:
    """Each call has its own results."""

    class Twice(Chain):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.first(torch.relu(self.first(x))) + self.second(x))

    model = Twice()
    found = cut(model, ["first", "second"])
    assert (paths(found), kept(found)) == (["first", "first", "second"], ["first", "second"])
    same(model, found)


def test_activation_that_writes_over_its_input() -> None:
    """Kept results are copies."""
    model = Chain()
    model.second = nn.Sequential(model.second, nn.ReLU(inplace=True))  # type: ignore[assignment]
    model.head = nn.Sequential(nn.ReLU(inplace=True), model.head)  # type: ignore[assignment]
    found = cut(model, ["first", "second"])
    assert kept(found) == ["second"]
    same(model, found)


def test_module_that_writes_to_what_was_given() -> None:
    """A frozen module with an effect beside its result is not served; what it calls may be."""

    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Linear()

        def forward(self, x: Tensor) -> Tensor:
            found = self.inner(x)
            x.add_(1)
            return found

    class Outer(Chain):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(x)
            return self.head(self.second(x) + x)

    model = Outer()
    model.second = Writes()  # type: ignore[assignment]
    found = cut(model, ["second"])
    assert paths(found) == ["second.inner"]
    same(model, found, alone=False)


def test_results_that_are_not_a_row_per_example() -> None:
    """A mean over the batch depends on who else is in it."""
    model = Chain()

    class Mean(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).mean(dim=0)

    model.first = Mean()
    assert paths(cut(model, ["first"])) == []


def test_structures_of_tensors() -> None:
    """A tuple with what is used, what is not and what is no tensor comes back as it was."""

    class Three(Linear):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, None, str]:  # type: ignore[override]
            found = super().forward(x)
            return found, found + 1, None, "text"

    class Model(Chain):
        def forward(self, x: Tensor) -> Tensor:
            used, unused, nothing, text = self.first(x)
            assert (nothing, text, unused.shape) == (None, "text", used.shape)
            return self.head(used)

    model = Model()
    model.first = Three()
    found = cut(model, ["first", "second"])
    assert [leaf.kept if leaf else None for leaf in found.served[0].leaves] == [True, False, None, None]
    same(model, found)


def test_forward_that_goes_another_way() -> None:
    """A model that looks at its batch to decide what to call is left alone."""

    class Fickle(Chain):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.first(x) if len(x) > 2 else self.second(x))

    with pytest.raises(UncuttableError, match="other ways"):
        cut(Fickle(), ["first", "second"])


def test_pass_that_goes_another_way_later() -> None:
    """Found while serving: an error, and no wrong result."""

    class Fickle(Chain):
        swap = False

        def forward(self, x: Tensor) -> Tensor:
            order = (self.second, self.first) if self.swap else (self.first, self.second)
            return self.head(order[1](order[0](x)))

    model = Fickle()
    prefix = Prefix(model, cut(model, ["first", "second"]))
    values = prefix.capture(lambda: model(torch.randn(2, WIDTH)))
    model.swap = True
    with prefix.served(values, rows=2, width=0), pytest.raises(RuntimeError, match="another way"):
        model(torch.randn(2, WIDTH))


def test_objective_that_calls_the_model_twice() -> None:
    """Nothing is kept for it."""
    model = Chain()
    flows = [follow(model, lambda rows=rows: [model(model(torch.zeros(rows, WIDTH)))]) for rows in (2, 3)]  # type: ignore[misc]
    with pytest.raises(UncuttableError, match="exactly once"):
        find((flows[0], flows[1]), BatchSizes((2, 3), (0, 0)), still=lambda t: True, model=model)
