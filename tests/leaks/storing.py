"""Leaks through casts, checkpoints, loading and rebuilding. Rows D1 to D16, P1 to P4 and X5."""

import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, prune, vector_to_parameters
from transformers import BertForMaskedLM, BertModel

from tests.leaks.gauntlet import BODY, Net, Watch, at, leak, net, sgd, tiny_config, train
from worker.trainer.witness import Violation

Found = Iterable[Violation]
FREEZE = ["body.**"]
TABLE = "bert.embeddings.word_embeddings.weight"
DECODER = "cls.predictions.decoder.weight"


def done_in_step_two(watch: Watch, do: Callable[[Net], Any], *, freeze: list[str] = FREEZE) -> Found:
    """Ordinary steps of a frozen body, with `do` to the model after the second update."""
    model = net(frozen=True)
    with watch(model, freeze=freeze) as w:
        return train(model, sgd(model.head.parameters()), w, after_step=at(2, lambda: do(model)))


@leak("D1", moved=BODY, step=2)
def half_and_back(watch: Watch) -> Found:
    """The model is cast to half precision for an evaluation, and back."""
    return done_in_step_two(watch, lambda model: model.half().float())


@leak("D14", moved=BODY, step=2)
def checkpoint_in_half(watch: Watch) -> Found:
    """A checkpoint is kept in bfloat16 and loaded again."""

    def reload(model: Net) -> None:
        model.load_state_dict({name: value.bfloat16() for name, value in model.state_dict().items()})

    return done_in_step_two(watch, reload)


@leak("D15", moved=BODY, step=2)
def eight_bits_and_back(watch: Watch) -> Found:
    """The weights go through eight bits, as a cache or a transfer may do it."""

    def squeeze(model: Net) -> None:
        for parameter in model.body.parameters():
            parameter.data = parameter.data.to(torch.float8_e4m3fn).float()

    return done_in_step_two(watch, squeeze)


@leak("D2", moved=["embeddings.word_embeddings.weight", "pooler.dense.weight"], step=None)
def prepared_for_kbit(watch: Watch) -> Found:
    """peft's preparation casts what is not quantised to fp32."""
    torch.manual_seed(0)
    model = BertModel(tiny_config()).bfloat16()
    with watch(model, freeze=["embeddings.word_embeddings.weight", "pooler.dense.weight"]) as w:
        prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        return w.check()


@leak("D3", moved=["pooler.dense.weight"], step=None)
def missing_pooler(watch: Watch) -> Found:
    """A pooler that the files do not hold is drawn at random on each load."""
    torch.manual_seed(0)
    model = BertModel(tiny_config())
    with tempfile.TemporaryDirectory() as folder, watch(model, freeze=["pooler.dense.weight", "encoder.**"]) as w:
        model.save_pretrained(folder)
        file = Path(folder, "model.safetensors")
        save_file({n: t for n, t in load_file(file).items() if "pooler" not in n}, file, {"format": "pt"})
        torch.manual_seed(1)
        return w.compare(BertModel.from_pretrained(folder).state_dict())


@leak("D4", moved=[DECODER], step=None)
def tied_name_dropped(watch: Watch) -> Found:
    """A saved file holds a tied weight under one of its names only."""
    torch.manual_seed(0)
    model = BertForMaskedLM(tiny_config())
    with tempfile.TemporaryDirectory() as folder, watch(model, freeze=[TABLE, DECODER]) as w:
        model.save_pretrained(folder)
        return w.compare(load_file(Path(folder, "model.safetensors")))


@leak("D6", moved=[TABLE], step=2)
def vocabulary_resized(watch: Watch) -> Found:
    """New tokens: the old rows are kept in a new, larger tensor."""
    torch.manual_seed(0)
    model = BertForMaskedLM(tiny_config())
    with watch(model, freeze=[TABLE, DECODER]) as w:
        w.step()
        model.resize_token_embeddings(20, mean_resizing=False)
        w.step()
        return w.report().violations


@leak("D7", moved=BODY, step=2)
def other_weights_loaded(watch: Watch) -> Found:
    """load_state_dict with another model's weights, copied in."""
    torch.manual_seed(5)
    other = Net().state_dict()
    return done_in_step_two(watch, lambda model: model.load_state_dict(other))


@leak("D7 assign", moved=BODY, step=2)
def other_weights_assigned(watch: Watch) -> Found:
    """The same with assign=True, which puts new objects in place."""
    torch.manual_seed(5)
    other = Net().state_dict()
    return done_in_step_two(watch, lambda model: model.load_state_dict(other, assign=True))


@leak("D8", moved=BODY, step=3)
def resumed_unfrozen(watch: Watch) -> Found:
    """A state_dict carries no requires_grad: after a resume everything trains. The witness resumes too, and sees it."""
    model = net(frozen=True)
    with watch(model, freeze=FREEZE) as w:
        train(model, sgd(model.head.parameters()), w, steps=2)
        saved, seen = model.state_dict(), w.state_dict()
    resumed = Net()
    resumed.load_state_dict(saved)
    again = watch(resumed, freeze=FREEZE)
    again.load_state_dict(seen)
    with again as w:
        return train(resumed, sgd(resumed.parameters()), w, first=3, steps=2)


@leak("D9", moved=BODY, step=2)
def emptied(watch: Watch) -> Found:
    """to_empty leaves whatever the memory holds (here NaN, so that the case does not depend on chance)."""

    def empty(model: Net) -> None:
        deterministic: Any = torch.utils.deterministic
        filled = deterministic.fill_uninitialized_memory  # a trainer in this process may have cleared it
        deterministic.fill_uninitialized_memory = True
        torch.use_deterministic_algorithms(True)
        try:
            model.body.to_empty(device="cpu")
        finally:
            torch.use_deterministic_algorithms(False)
            deterministic.fill_uninitialized_memory = filled

    return done_in_step_two(watch, empty)


@leak("D10", moved=["body.weight"], step=2)
def swapped(watch: Watch) -> Found:
    """swap_tensors exchanges the contents of two objects."""
    return done_in_step_two(
        watch, lambda model: torch.utils.swap_tensors(model.body.weight, nn.Parameter(torch.ones(8, 8)))
    )


@leak("D11", moved=BODY, step=2)
def from_a_vector(watch: Watch) -> Found:
    """vector_to_parameters writes all weights at once, through `.data`."""
    return done_in_step_two(
        watch, lambda model: vector_to_parameters(0.5 * parameters_to_vector(model.parameters()), model.parameters())
    )


@leak("D12", moved=["body.weight"], step=2)
def pruned(watch: Watch) -> Found:
    """Pruning replaces the tensor by an original and a mask: the name is gone."""
    return done_in_step_two(watch, lambda model: prune.l1_unstructured(model.body, "weight", 0.5))


@leak("D13", moved=["pooler.dense.weight", "pooler.dense.bias"], step=None)
def loaded_in_another_dtype(watch: Watch) -> Found:
    """from_pretrained with another dtype: the values may fit, the bytes do not."""
    torch.manual_seed(0)
    model = BertModel(tiny_config())
    with tempfile.TemporaryDirectory() as folder, watch(model, freeze=["pooler.**"]) as w:
        model.save_pretrained(folder)
        return w.compare(BertModel.from_pretrained(folder, dtype=torch.bfloat16).state_dict())


@leak("D16", moved=["body.weight"], step=2)
def averaged_in_place(watch: Watch) -> Found:
    """state_dict() holds the live weights; averaging into it averages into the model."""
    return done_in_step_two(watch, lambda model: model.state_dict()["body.weight"].mul_(0.9))


def lora(model: nn.Module, **options: Any) -> Any:
    torch.manual_seed(1)
    return get_peft_model(model, LoraConfig(r=4, target_modules=["body"], **options))


@leak("P1", moved=["base_model.model.body.base_layer.weight"], step=2)
def merged_and_unmerged(watch: Watch) -> Found:
    """Adding the adapter into the base and taking it out again rounds twice."""
    model = lora(net(64), init_lora_weights=False)
    head = model.base_model.model.head

    def merge() -> None:
        model.merge_adapter()
        model.unmerge_adapter()

    with watch(model, freeze=["**.base_layer.**"]) as w:
        for step in range(1, 4):
            model(torch.full((2, 64), float(step))).square().sum().backward()
            sgd(head.parameters()).step()
            if step == 2:
                merge()
            w.step()
        return w.report().violations


@leak("P2", moved=["body.weight"], step=None)
def base_rewritten_by_initialisation(watch: Watch) -> Found:
    """PiSSA takes the principal part out of the base weight, for the adapter to add it again."""
    model = net(frozen=True)
    with watch(model, freeze=FREEZE) as w:
        w.check()
        adapted = lora(model, init_lora_weights="pissa").base_model.model.body.base_layer
        return w.compare({"body.weight": adapted.weight, "body.bias": adapted.bias})


def adapter_steps(model: Any, watch: Watch, freeze: list[str]) -> Found:
    optimizer = sgd([parameter for parameter in model.parameters() if parameter.requires_grad])
    with watch(model, freeze=freeze) as w:
        for step in range(1, 3):
            model(torch.full((2, 8), float(step))).square().sum().backward()
            optimizer.step()
            w.step()
        return w.report().violations


@leak("P3", moved=["base_model.model.body.base_layer.bias", "base_model.model.head.bias"])
def adapter_trains_biases(watch: Watch) -> Found:
    """bias='all' trains the biases of the base."""
    freeze = ["base_model.model.body.base_layer.**", "base_model.model.head.**"]
    return adapter_steps(lora(net(), bias="all"), watch, freeze)


COPY = "base_model.model.head.modules_to_save.default"


@leak("P4", moved=[f"{COPY}.weight", f"{COPY}.bias"])
def trained_copy(watch: Watch) -> Found:
    """modules_to_save trains a copy under the module's own path; the original stays."""
    return adapter_steps(lora(net(), modules_to_save=["head"]), watch, ["base_model.model.head.**"])


@leak("X5", moved=["body.weight"], step=None)
def empty_in_the_checkpoint(watch: Watch) -> Found:
    """A partitioned optimizer saves frozen weights as empty tensors."""
    model = net(frozen=True)
    with watch(model, freeze=FREEZE) as w:
        saved: Mapping[str, Tensor] = {**model.state_dict(), "body.weight": torch.empty(0)}
        return w.compare(saved)
