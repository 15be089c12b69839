"""Watch frozen weights in the Hugging Face `Trainer` with the Witness: no service is needed.

    python examples/witness_in_trainer.py

The second run makes the mistake that the Witness exists for: weight decay on "frozen" weights whose gradient is zero.
"""

import tempfile

import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from permafrost import Witness

CONFIG = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)


class Sentences(Dataset):
    """Sixteen sentences of eight token ids, labelled by their first token."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = (torch.arange(8) * 7 + index * 3) % 50
        return {"input_ids": ids, "labels": ids[0] % 2}


class Watch(TrainerCallback):
    """Lets the Witness look after every optimizer step."""

    def __init__(self, witness: Witness) -> None:
        self.witness = witness

    def on_step_end(self, *_: object, **__: object) -> None:
        self.witness.step()


def train(*, honest: bool) -> str:
    model = BertForSequenceClassification(CONFIG)
    encoder = model.bert.encoder.requires_grad_(False)
    if not honest:
        # Gradients of zero instead of none: AdamW then moves every weight by its decay.
        encoder.requires_grad_(True)
        for parameter in encoder.parameters():
            parameter.register_hook(torch.zeros_like)

    with tempfile.TemporaryDirectory() as folder, Witness(model, freeze=["bert.encoder.**"]) as witness:
        arguments = TrainingArguments(
            folder, max_steps=4, weight_decay=0.1, report_to=[], disable_tqdm=True, save_strategy="no", use_cpu=True
        )
        Trainer(model, arguments, train_dataset=Sentences(), callbacks=[Watch(witness)]).train()
    report = witness.report()

    for violation in report.violations[:1]:
        print(f"{violation.name}: good at step {violation.last_good_step}, changed by step {violation.first_bad_step}")
    return report.verdict


if __name__ == "__main__":
    print("frozen with requires_grad=False:", train(honest=True))
    print("frozen with gradients of zero:", train(honest=False))
