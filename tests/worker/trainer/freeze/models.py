"""Small real models for the mechanism tests: each with its batches and the policy rules that suit it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM


@dataclass(frozen=True)
class Case:
    """`frozen` is a list of globs that leaves layers before and after it to train."""

    build: Callable[[], nn.Module]
    loss: Callable[[nn.Module, int], Tensor]
    frozen: tuple[str, ...]


def tied_bert() -> nn.Module:
    torch.manual_seed(0)
    return BertForMaskedLM(
        BertConfig(
            vocab_size=48,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=16,
            hidden_dropout_prob=0.1,
        )
    )


def bert_loss(model: nn.Module, step: int) -> Tensor:
    torch.manual_seed(1000 + step)
    ids = torch.randint(0, 48, (4, 8))
    loss: Tensor = model(input_ids=ids, labels=ids).loss
    return loss


def encoder() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.1, batch_first=True)
    return nn.Sequential(
        nn.Linear(4, 16), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 3)
    )


def encoder_loss(model: nn.Module, step: int) -> Tensor:
    torch.manual_seed(1000 + step)
    return F.mse_loss(model(torch.randn(4, 5, 4)), torch.randn(4, 5, 3))


def convnet() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


def convnet_loss(model: nn.Module, step: int) -> Tensor:
    torch.manual_seed(1000 + step)
    return F.cross_entropy(model(torch.randn(4, 3, 8, 8)), torch.randint(0, 3, (4,)))


def recurrent() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"first": nn.Linear(4, 6), "lstm": nn.LSTM(6, 5, batch_first=True), "head": nn.Linear(5, 2)})


def recurrent_loss(model: Any, step: int) -> Tensor:
    torch.manual_seed(1000 + step)
    states, _ = model["lstm"](model["first"](torch.randn(3, 4, 4)))
    return F.mse_loss(model["head"](states), torch.randn(3, 4, 2))


CASES = {
    "bert": Case(
        tied_bert, bert_loss, ("bert.embeddings.**", "cls.predictions.decoder.weight", "bert.encoder.layer.0.**")
    ),
    "encoder": Case(encoder, encoder_loss, ("1.layers.0.**",)),
    "convnet": Case(convnet, convnet_loss, ("1.**", "3.**")),
    "lstm": Case(recurrent, recurrent_loss, ("lstm.**",)),
}
