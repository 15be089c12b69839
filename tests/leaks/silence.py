"""What must not alarm: ordinary training, wrappers and round trips that keep every frozen byte."""

import io
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import BertForSequenceClassification

from tests.leaks.gauntlet import Net, TableNet, Watch, at, control, net, sgd, tiny_config, train
from worker.trainer.witness import Violation

Found = Iterable[Violation]
FREEZE = ["body.**"]


class Dropping(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(x, 0.5, self.training))


@control("dropout")
def dropout(watch: Watch) -> Found:
    """Dropout draws, and writes nothing."""
    torch.manual_seed(0)
    model = Dropping()
    model.body.requires_grad_(False)
    with watch(model, freeze=FREEZE) as w:
        return train(model, sgd(model.head.parameters()), w)


class Autocast(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x).float()


@control("autocast and its cache")
def autocast(watch: Watch) -> Found:
    """Autocast keeps bfloat16 copies of the weights beside them."""
    torch.manual_seed(0)
    model = Autocast()
    with watch(model, freeze=FREEZE) as w:
        return train(model, sgd(model.head.parameters()), w)


class Recomputing(Net):
    def forward(self, x: Tensor) -> Tensor:
        hidden = checkpoint(lambda y: torch.tanh(self.body(y)), x.requires_grad_(), use_reentrant=False)
        out: Tensor = self.head(hidden)
        return out


@control("non-reentrant checkpointing")
def recomputing(watch: Watch) -> Found:
    """The frozen layer runs twice."""
    torch.manual_seed(0)
    model = Recomputing()
    model.body.requires_grad_(False)
    with watch(model, freeze=FREEZE) as w:
        return train(model, sgd(model.head.parameters()), w)


@control("plain LoRA")
def plain_lora(watch: Watch) -> Found:
    """An adapter beside the base: the base under its new names, and compared with what it was before."""
    model = net()
    torch.manual_seed(1)
    with watch(model, freeze=FREEZE) as before:
        before.check()
        adapted = get_peft_model(net(), LoraConfig(r=2, target_modules=["body"]))
        base = adapted.base_model.model.body.base_layer
        found = before.compare({"body.weight": base.weight, "body.bias": base.bias})
    optimizer = sgd([parameter for parameter in adapted.parameters() if parameter.requires_grad])
    with watch(adapted, freeze=["**.base_layer.**", "**.head.**"]) as w:
        for step in range(1, 4):
            adapted(torch.full((2, 8), float(step))).square().sum().backward()
            optimizer.step()
            w.step()
        return [*found, *w.report().violations]


@control("trainable_token_indices")
def token_rows(watch: Watch) -> Found:
    """peft trains some rows of an embedding in a tensor of their own."""
    torch.manual_seed(0)
    adapter = LoraConfig(
        r=2, target_modules=["query"], task_type=TaskType.SEQ_CLS, trainable_token_indices={"word_embeddings": [3, 4]}
    )
    model = get_peft_model(BertForSequenceClassification(tiny_config()), adapter)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05, weight_decay=0.1)
    ids = torch.tensor([[1, 3, 4, 5]])
    with watch(model, freeze=["**.encoder.**.base_layer.**", "**.token_adapter.base_layer.weight"]) as w:
        for _ in range(3):
            model(input_ids=ids, labels=torch.tensor([1])).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            w.step()
        return w.report().violations


def with_odd_values() -> Net:
    """Negative zeros and NaNs with payloads among the frozen weights."""
    model = net(frozen=True)
    model.body.weight.data[0] = -0.0
    model.body.weight.data.view(torch.int32)[1] = 0x7FC12345
    model.body.weight.data.view(torch.int32)[2] = -0x003EDCBB  # a negative NaN
    return model


@control("safetensors round trip")
def safetensors(watch: Watch) -> Found:
    """Saved and loaded again between steps, -0.0 and NaN payloads included."""
    model = with_odd_values()
    with tempfile.TemporaryDirectory() as folder, watch(model, freeze=FREEZE) as w:
        file = Path(folder, "model.safetensors")
        w.step()
        save_file(model.state_dict(), file)
        found = w.compare(load_file(file))
        model.load_state_dict(load_file(file), assign=True)
        w.step()
        return [*found, *w.report().violations]


@control("torch.save round trip")
def torch_save(watch: Watch) -> Found:
    """The same with torch.save."""
    model = with_odd_values()
    with watch(model, freeze=FREEZE) as w:
        w.step()
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        file.seek(0)
        model.load_state_dict(torch.load(file))
        w.step()
        return w.report().violations


@control("set_to_none")
def set_to_none(watch: Watch) -> Found:
    """Frozen by attribute, in the optimizer, with decay and momentum, gradients at None."""
    model = net(frozen=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    with watch(model, freeze=FREEZE) as w:
        return train(model, optimizer, w, set_to_none=True)


@control("fused AdamW over other tensors")
def fused(watch: Watch) -> Found:
    """A fused optimizer steps the head only."""
    model = net(frozen=True)
    with watch(model, freeze=FREEZE) as w:
        return train(model, torch.optim.AdamW(model.head.parameters(), lr=0.05, fused=True), w)


@control("channels_last")
def channels_last(watch: Watch) -> Found:
    """Another order in memory, the same tensor."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3))
    optimizer = sgd(model[1].parameters())
    with watch(model, freeze=["0.**"]) as w:
        for step in range(1, 4):
            if step == 2:
                model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            model(torch.full((1, 3, 6, 6), float(step))).square().sum().backward()
            optimizer.step()
            w.step()
        return w.report().violations


@control("a copy of itself")
def copied_onto_itself(watch: Watch) -> Found:
    """Writes that leave the bytes as they were: the version counter moves at every step, for long."""
    model = net(frozen=True)

    def copy(step: int) -> None:
        with torch.no_grad():
            model.body.weight.copy_(model.body.weight.clone())

    with watch(model, freeze=FREEZE) as w:
        return train(model, sgd(model.head.parameters()), w, steps=20, after_step=copy)


@control("requires_grad switched on and off")
def attribute_switched(watch: Watch) -> Found:
    """The attribute is a hint and no change."""
    model = net(frozen=True)
    with watch(model, freeze=FREEZE) as w:
        switch = at(2, lambda: model.body.requires_grad_(True))
        return train(model, sgd(model.head.parameters()), w, after_step=switch)


@control("frozen rows beside trained ones")
def other_rows_train(watch: Watch) -> Found:
    """A slice of its own trains the last rows; the first keep their bytes though the whole tensor's change."""
    from tests.leaks.gauntlet import rows_plan

    torch.manual_seed(0)
    model = TableNet()
    rows = nn.Parameter(model.table.weight.data[6:])
    optimizer = torch.optim.AdamW([rows], lr=0.05, weight_decay=0.1)
    with watch(model, plan=rows_plan(model, "table.weight", [[0, 6]])) as w:
        for _ in range(3):
            rows.grad = torch.ones_like(rows)
            optimizer.step()
            w.step()
        assert w.report().first_changed == {"table.weight": 1}
        return w.report().violations
