"""Loops that this project did not write: HF Trainer, Lightning, fused AdamW, peft. Frozen right, and frozen wrong."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from worker.trainer.witness import Witness

FROZEN = ["bert.embeddings.**", "bert.encoder.**"]


def tiny() -> BertForSequenceClassification:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return BertForSequenceClassification(BertConfig(vocab_size=16, max_position_embeddings=8, **sizes))


def examples() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {"input_ids": torch.randint(0, 16, (6,), generator=generator), "labels": torch.tensor(number % 2)}
        for number in range(16)
    ]


def trainer(model: nn.Module, folder: Path, **options: Any) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=5,
        per_device_train_batch_size=4,
        learning_rate=0.01,
        weight_decay=0.1,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **options,
    )
    return Trainer(model=model, args=arguments, train_dataset=examples())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_trainer_with_a_frozen_encoder(tmp_path: Path, accumulate: int) -> None:
    """Its default optimizer is a fused AdamW, whose writes no counter shows; a correct freeze is verified."""
    model = tiny()
    for parameter in model.bert.parameters():
        parameter.requires_grad_(False)
    with Witness(model, freeze=FROZEN).follow() as w:
        trainer(model, tmp_path, gradient_accumulation_steps=accumulate).train()
    report = w.report()
    assert (report.verdict, report.steps) == ("verified", 5)
    assert report.first_changed["classifier.weight"] == 1


def test_the_trainer_with_a_freeze_that_came_too_late(tmp_path: Path) -> None:
    """Frozen by a callback after two steps, with the encoder declared frozen from the start: dated to step 1."""

    class Late(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 2:
                kwargs["model"].bert.requires_grad_(False)

    model = tiny()
    loop = trainer(model, tmp_path)
    loop.add_callback(Late())
    with Witness(model, freeze=FROZEN).follow() as w:
        loop.train()
    report = w.report()
    assert report.verdict == "violated"
    assert {(v.last_good_step, v.first_bad_step) for v in report.violations} == {(0, 1)}
    assert "bert.encoder.layer.0.output.dense.weight" in {v.name for v in report.violations}


def test_the_trainers_steps_by_a_callback(tmp_path: Path) -> None:
    """The other way to count: its own callback."""
    model = tiny()
    model.bert.requires_grad_(False)
    with Witness(model, freeze=FROZEN) as w:

        class Step(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                w.step()

        loop = trainer(model, tmp_path)
        loop.add_callback(Step())
        loop.train()
    assert (w.report().verdict, w.report().steps) == ("verified", 5)


@pytest.mark.parametrize("leaking", [False, True])
def test_a_plain_loop_with_fused_adamw(leaking: bool) -> None:
    """All parameters in the optimizer; gradients at None keep the body still, zeroed ones let decay move it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    if leaking:
        for parameter in model[0].parameters():
            parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1, fused=True)
    with Witness(model, freeze=["0.**"], guard=True) as w:
        for _ in range(5):
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
            w.step()
    report = w.report()
    assert report.verdict == ("violated" if leaking else "verified")
    assert all(str(v.operation).startswith("aten::_fused_adamw_") for v in report.violations)
    assert all(v.first_bad_step == 1 for v in report.violations)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("thawing", [False, True])
def test_lightning_and_its_finetuning_callback(tmp_path: Path, thawing: bool) -> None:
    """BackboneFinetuning keeps the linear part of a backbone still until its epoch; a witness dates the thaw."""
    import pytorch_lightning as lightning
    from pytorch_lightning.callbacks import BackboneFinetuning

    class Net(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
            self.head = nn.Linear(4, 2)

        def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self.head(self.backbone(batch[0])), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=0.01)

    torch.manual_seed(0)
    net = Net()
    data = torch.utils.data.TensorDataset(torch.randn(8, 4), torch.randint(0, 2, (8,)))
    loop = lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[BackboneFinetuning(unfreeze_backbone_at_epoch=1 if thawing else 99)],
    )
    with Witness(net, freeze=["backbone.**"]).follow() as w:
        loop.fit(net, torch.utils.data.DataLoader(data, batch_size=4))
    report = w.report()
    assert report.steps == 6
    assert report.verdict == ("violated" if thawing else "verified")
    # Two steps an epoch: the first update after the thaw is the third.
    assert {(v.last_good_step, v.first_bad_step) for v in report.violations} == ({(2, 3)} if thawing else set())


# peft asks transformers by a name that transformers is about to drop.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("merging", [False, True])
def test_peft_in_the_trainer(tmp_path: Path, merging: bool) -> None:
    """A LoRA over a frozen base is verified; merging and unmerging in the middle moves the base by rounding."""
    from peft import LoraConfig, get_peft_model

    class Merge(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if merging and state.global_step == 3:
                kwargs["model"].merge_adapter()
                kwargs["model"].unmerge_adapter()

    adapter = LoraConfig(r=2, target_modules=["query", "value"], task_type="SEQ_CLS", init_lora_weights=False)
    model = get_peft_model(tiny(), adapter)
    loop = trainer(model, tmp_path)
    loop.add_callback(Merge())
    with Witness(model, freeze=["**.base_layer.**", "**.embeddings.**"]).follow() as w:
        loop.train()
    report = w.report()
    assert report.steps == 5
    assert report.verdict == ("violated" if merging else "verified")
    assert all(".base_layer." in v.name and v.last_good_step < 4 for v in report.violations)
