"""Manifests of models as a worker describes them: names, shapes, ties, buffers and module types."""

import pytest

from app.freeze.plan import TensorInfo


def parameter(name: str, *shape: int, types: str = "", **rest: object) -> TensorInfo:
    """A float tensor; `types` are the class names of its modules, separated by spaces."""
    return TensorInfo(name, shape, "F32", module_types=tuple(types.split()), **rest)  # type: ignore[arg-type]


@pytest.fixture
def bert() -> list[TensorInfo]:
    """A text classifier over an encoder of twelve layers, 16 tensors each, with a buffer that is not saved."""
    root = "BertForSequenceClassification"
    embeddings = f"{root} BertModel BertEmbeddings"
    tensors = [
        parameter("bert.embeddings.word_embeddings.weight", 30530, 8, types=f"{embeddings} Embedding"),
        parameter("bert.embeddings.position_embeddings.weight", 512, 8, types=f"{embeddings} Embedding"),
        parameter("bert.embeddings.LayerNorm.weight", 8, types=f"{embeddings} LayerNorm"),
        parameter("bert.embeddings.LayerNorm.bias", 8, types=f"{embeddings} LayerNorm"),
        TensorInfo("bert.embeddings.position_ids", (1, 512), "I64", "buffer", (), tuple(embeddings.split()), False),
        parameter("classifier.weight", 4, 8, types=f"{root} Linear"),
        parameter("classifier.bias", 4, types=f"{root} Linear"),
    ]
    for layer in range(12):
        path, types = f"bert.encoder.layer.{layer}", f"{root} BertModel BertEncoder ModuleList BertLayer"
        for part in ("query", "key", "value"):
            inner = f"{types} BertAttention BertSelfAttention Linear"
            tensors.append(parameter(f"{path}.attention.self.{part}.weight", 8, 8, types=inner))
            tensors.append(parameter(f"{path}.attention.self.{part}.bias", 8, types=inner))
        for part, shape in (("attention.output", (8, 8)), ("intermediate", (16, 8)), ("output", (8, 16))):
            inner = f"{types} " + " ".join("X" for _ in part.split("."))
            tensors.append(parameter(f"{path}.{part}.dense.weight", *shape, types=f"{inner} Linear"))
            tensors.append(parameter(f"{path}.{part}.dense.bias", shape[0], types=f"{inner} Linear"))
        for part in ("attention.output", "output"):
            inner = f"{types} " + " ".join("X" for _ in part.split("."))
            tensors.append(parameter(f"{path}.{part}.LayerNorm.weight", 8, types=f"{inner} LayerNorm"))
            tensors.append(parameter(f"{path}.{part}.LayerNorm.bias", 8, types=f"{inner} LayerNorm"))
    return tensors


@pytest.fixture
def convnet() -> list[TensorInfo]:
    """Two blocks of convolution and BatchNorm, and a head."""
    tensors = [
        parameter("head.weight", 3, 8, types="ConvNet Linear"),
        parameter("head.bias", 3, types="ConvNet Linear"),
    ]
    for block in range(2):
        path = f"backbone.{block}"
        norm = "ConvNet Sequential Block BatchNorm2d"
        tensors += [
            parameter(f"{path}.conv.weight", 8, 3, 3, 3, types="ConvNet Sequential Block Conv2d"),
            parameter(f"{path}.norm.weight", 8, types=norm),
            parameter(f"{path}.norm.bias", 8, types=norm),
            parameter(f"{path}.norm.running_mean", 8, types=norm, kind="buffer"),
            parameter(f"{path}.norm.running_var", 8, types=norm, kind="buffer"),
            TensorInfo(f"{path}.norm.num_batches_tracked", (), "I64", "buffer", (), tuple(norm.split())),
        ]
    return tensors


@pytest.fixture
def gpt() -> list[TensorInfo]:
    """A language model whose output layer is its embedding."""
    return [
        parameter("transformer.wte.weight", 100, 8, types="GPT Model Embedding", aliases=("lm_head.weight",)),
        parameter("transformer.h.0.mlp.weight", 8, 8, types="GPT Model ModuleList Block Linear"),
        parameter("transformer.h.1.mlp.weight", 8, 8, types="GPT Model ModuleList Block Linear"),
        parameter("transformer.h.10.mlp.weight", 8, 8, types="GPT Model ModuleList Block Linear"),
    ]


@pytest.fixture
def lora(gpt: list[TensorInfo]) -> list[TensorInfo]:
    """The language model with adapters, under the names that peft gives."""
    tensors = []
    for tensor in gpt:
        name = f"base_model.model.{tensor.name}"
        aliases = tuple(f"base_model.model.{alias}" for alias in tensor.aliases)
        if ".mlp." in name:
            path = name.removesuffix(".weight")
            tensors += [parameter(f"{path}.lora_{side}.default.weight", 4, 8) for side in "AB"]
            name = f"{path}.base_layer.weight"
        tensors.append(TensorInfo(name, tensor.shape, tensor.dtype, aliases=aliases))
    return tensors
