"""Partly frozen tensors: the frozen rows keep their bits, the others train as they would in a whole tensor."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.worker.trainer.freeze.models import bert_loss, tied_bert
from tests.worker.trainer.freeze.training import plan_for, train
from worker.trainer.freeze.apply import freeze
from worker.trainer.witness.observe import digest

EMBEDDING = "bert.embeddings.word_embeddings.weight"
TIED = [EMBEDDING, "cls.predictions.decoder.weight"]
NEW_ROWS = {
    "default": "freeze",
    "rules": [{"action": "train", "select": {"name": TIED, "rows": [[3, 5], [40, 48]]}}],
}


def test_frozen_rows_keep_their_bits_under_weight_decay() -> None:
    """AdamW with decay moves the chosen rows of a tied embedding and no other element."""
    model = tied_bert()
    before = model.get_parameter(EMBEDDING).detach().clone()
    train(model, NEW_ROWS, bert_loss)
    after = dict(model.named_parameters())[EMBEDDING].detach()
    changed = (before.view(torch.int32) != after.view(torch.int32)).any(dim=1).nonzero().flatten().tolist()
    assert changed == [3, 4, *range(40, 48)]


def test_rows_train_bit_equal_to_those_of_a_whole_tensor() -> None:
    """Splitting changes which rows move, not by how much."""
    torch.manual_seed(0)
    split, whole = nn.Embedding(6, 4), nn.Embedding(6, 4)
    whole.load_state_dict(split.state_dict())
    policy = {"default": "train", "rules": [{"action": "freeze", "select": {"name": "weight", "rows": [[0, 4]]}}]}
    frozen = freeze(split, plan_for(split, policy))
    ids = torch.tensor([0, 4, 5, 5])
    for module, parameters in ((split, frozen.parameters()), (whole, list(whole.parameters()))):
        optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            F.mse_loss(module(ids), torch.ones(4, 4)).backward()
            optimizer.step()
    with frozen.removed():
        assert digest(split.weight[4:]) == digest(whole.weight[4:])


def test_the_state_dict_holds_the_whole_tensor() -> None:
    """One entry under the tensor's own name, current after each step; loading writes through to the trained rows."""
    model = tied_bert()
    frozen = train(model, NEW_ROWS, bert_loss)
    assert list(model.state_dict()) == list(tied_bert().state_dict())
    assert torch.equal(model.state_dict()[EMBEDDING][40:], frozen.parameters()[1])
    fresh = tied_bert().state_dict()
    model.load_state_dict(fresh)
    assert torch.equal(frozen.parameters()[1], fresh[EMBEDDING][40:])


def test_rows_have_names_of_their_own() -> None:
    """The optimizer's list names the rows; the model's own list has the whole tensor, which takes no gradient."""
    model = tied_bert()
    frozen = freeze(model, plan_for(model, NEW_ROWS))
    assert [name for name, _ in frozen.named_parameters()] == [f"{EMBEDDING}[3:5]", f"{EMBEDDING}[40:48]"]
    assert not dict(model.named_parameters())[EMBEDDING].requires_grad


def test_rows_follow_a_cast() -> None:
    """After .to() the whole tensor has new memory, and the optimizer's rows are still views of it."""
    model = nn.Embedding(6, 4)
    policy = {"default": "train", "rules": [{"action": "freeze", "select": {"name": "weight", "rows": [[0, 4]]}}]}
    frozen = freeze(model, plan_for(model, policy))
    model.to(torch.float64)
    (rows,) = frozen.parameters()
    assert rows.dtype == torch.float64
    rows.data.fill_(7.0)
    assert model.state_dict()["weight"][4:].eq(7.0).all()


def test_a_deep_copy_has_rows_of_its_own() -> None:
    """Training the original does not move the copy, and the copy's own rows are views of its own tensor."""
    model = nn.Embedding(6, 4)
    policy = {"default": "train", "rules": [{"action": "freeze", "select": {"name": "weight", "rows": [[0, 4]]}}]}
    frozen = freeze(model, plan_for(model, policy))
    copied = copy.deepcopy(model)
    before = copied.weight.detach().clone()
    frozen.parameters()[0].data.fill_(7.0)
    assert torch.equal(copied.weight, before)
    assert torch.equal(copied.state_dict()["weight"], before)


@pytest.mark.parametrize("backend", ["aot_eager"])
def test_compiled_rows(backend: str) -> None:
    """torch.compile traces the join and gives the same bits."""
    plain, compiled = tied_bert(), tied_bert()
    torch.compiler.reset()
    train(plain, NEW_ROWS, bert_loss)
    train(compiled, NEW_ROWS, bert_loss, run=lambda model: torch.compile(model, backend=backend))  # type: ignore[arg-type, return-value]
    assert digest(dict(plain.named_parameters())[EMBEDDING]) == digest(dict(compiled.named_parameters())[EMBEDDING])
