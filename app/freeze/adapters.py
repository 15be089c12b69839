"""The tensors of a model with an adapter, as peft names and shapes them: for previews, without torch or peft.

Covers LoRA and DoRA over linear layers and embeddings, IA3 over linear layers, and prompt tuning.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from app.errors import InvalidRequest, ModelError
from app.freeze import quantised
from app.freeze.parts import part_of, sees_and_writes
from app.freeze.tensors import TensorInfo
from app.specs.adapters import AdapterSpec, Ia3Spec, LoraSpec, PromptTuningSpec

_PLAIN_LINEAR: Final = ("Linear", *quantised.LAYERS)
_PARAM: Final = "model.adapter.target_modules"
#: Rows are outputs; Conv1D of GPT-2 stores its weight the other way round.
_LINEAR: Final = ("Linear", "NonDynamicallyQuantizableLinear", "Conv1D", *quantised.LAYERS)
_LORA_RANK: Final = 8
_VIRTUAL_TOKENS: Final = 8
_HALF: Final = ("F16", "BF16")  # adapters of these are trained in fp32


@dataclass(frozen=True, slots=True)
class Targets:
    """The modules that peft adapts by default in models of one family; `feedforward` of IA3."""

    lora: tuple[str, ...] = ()
    ia3: tuple[str, ...] = ()
    feedforward: tuple[str, ...] = ()


_Q_V: Final = ("q_proj", "v_proj")
_LLAMA: Final = Targets(_Q_V, ("k_proj", "v_proj", "down_proj"), ("down_proj",))
_GEMMA: Final = Targets(_Q_V, ("q_proj", "v_proj", "down_proj"), ("down_proj",))
_BERT: Final = Targets(("query", "value"), ("key", "value", "output.dense"), ("output.dense",))
_FUSED: Final = Targets(("query_key_value",), ("query_key_value", "dense_4h_to_h"), ("dense_4h_to_h",))

#: By what the class names of a family begin with; the longest that fits. tests/worker compares them with peft's own.
DEFAULT_TARGETS: Final[Mapping[str, Targets]] = {
    "Bert": _BERT,
    "Roberta": _BERT,
    "XLMRoberta": Targets(("query", "value")),
    "Electra": Targets(("query", "value")),
    "DebertaV2": Targets(("query_proj", "value_proj"), ("key_proj", "value_proj", "output.dense"), ("output.dense",)),
    "Llama": _LLAMA,
    "Mistral": _LLAMA,
    "Gemma": _GEMMA,
    "Gemma2": _GEMMA,
    "Qwen2": _GEMMA,
    "Qwen3": _GEMMA,
    "StableLm": Targets(_Q_V),
    "Phi": Targets((*_Q_V, "fc1", "fc2"), (*_Q_V, "fc2"), ("fc2",)),
    "OPT": Targets(_Q_V, ("q_proj", "k_proj", "fc2"), ("fc2",)),
    "GPT2": Targets(("c_attn",), ("c_attn", "mlp.c_proj"), ("mlp.c_proj",)),
    "GPTNeoX": _FUSED,
    "GPTNeo": Targets(_Q_V, (*_Q_V, "c_proj"), ("c_proj",)),
    "GPTJ": Targets(_Q_V, (*_Q_V, "fc_out"), ("fc_out",)),
    "Bloom": Targets(("query_key_value",), ("query_key_value", "mlp.dense_4h_to_h"), ("mlp.dense_4h_to_h",)),
    "Falcon": _FUSED,
}


@dataclass(frozen=True, slots=True)
class AdaptedModel:
    """The tensors of a model with an adapter. `new` are those that no file holds, and that train beside the adapter;
    `merged` are the plain names of the weights that the adapter would be merged into."""

    tensors: list[TensorInfo]
    new: frozenset[str]
    merged: list[str]


def adapted(tensors: Sequence[TensorInfo], adapter: AdapterSpec, *, initialised: Collection[str] = ()) -> AdaptedModel:
    """The tensors of the plain model with this adapter. ModelError where a target is unknown or cannot be previewed."""
    if isinstance(adapter, PromptTuningSpec):
        return _with_prompt(tensors, adapter, initialised)

    heads = {name.rpartition(".")[0] for name in initialised}
    targets, feedforward = _targets(tensors, adapter)
    chosen = {path: info for path, info in _layers(tensors).items() if _fits(path, targets) and not _fits(path, heads)}
    _refuse_unknown(tensors, adapter.target_modules or (), chosen, heads)

    above = ("PeftModel", "IA3Model" if isinstance(adapter, Ia3Spec) else "LoraModel")
    wrapped = [_wrapped(info, chosen, above) for info in tensors]
    for path, weight in chosen.items():
        wrapped += _added(path, weight, adapter, above, feedforward=_fits(path, feedforward))
    kinds = ("weight", "bias") if isinstance(adapter, Ia3Spec) else ("weight",)
    merged = [info.name for info in tensors if _module(info) in chosen and info.name.rpartition(".")[2] in kinds]
    return AdaptedModel(wrapped, frozenset(f"base_model.model.{name}" for name in initialised), sorted(merged))


def _targets(tensors: Sequence[TensorInfo], adapter: LoraSpec | Ia3Spec) -> tuple[Sequence[str], Sequence[str]]:
    """The target modules and, of IA3, the feedforward modules: the request's or else peft's for the family."""
    if adapter.target_modules:
        return adapter.target_modules, (adapter.feedforward_modules or ()) if isinstance(adapter, Ia3Spec) else ()
    root = tensors[0].module_types[0] if tensors and tensors[0].module_types else ""
    if isinstance(adapter, LoraSpec) and sees_and_writes(root, (info.name for info in tensors)):
        return _of_language_model(tensors), ()
    family = max((name for name in DEFAULT_TARGETS if _is_of(root, name)), key=len, default="")
    default = DEFAULT_TARGETS.get(family, Targets())
    names = default.lora if isinstance(adapter, LoraSpec) else default.ia3
    if not names:
        message = (
            f"which modules of {root or 'this model'} get an adapter is chosen on the loaded model; to preview it, "
        )
        raise ModelError(message + "name them in target_modules", param=_PARAM, code="model_not_described")
    return names, default.feedforward


def _of_language_model(tensors: Sequence[TensorInfo]) -> list[str]:
    """Paths of the linear layers of a vision-language model's language model, without its head."""
    layers = _layers(tensors)
    return [
        path
        for path, info in layers.items()
        if part_of(info.name) == "language_model" and "." in path and info.module_types[-1] in _PLAIN_LINEAR
    ]


def _is_of(root: str, family: str) -> bool:
    """Whether a class is of this family: `Gemma2Model` is no `Gemma`, and `Qwen2MoeModel` is no `Qwen2`."""
    return root.startswith(family) and root.removeprefix(family).startswith(("Model", "LMHead", "For"))


def _layers(tensors: Iterable[TensorInfo]) -> dict[str, TensorInfo]:
    """The weight of every module that has one, by the module's path."""
    ends = (".weight", ".weight_packed")
    return {_module(info): info for info in tensors if info.name.endswith(ends) and info.kind == "parameter"}


def _module(info: TensorInfo) -> str:
    name = quantised.weight_beside(info.name) if _is_scale(info) else info.name
    return name.rpartition(".")[0]


def _is_scale(info: TensorInfo) -> bool:
    return info.kind == "buffer" and quantised.is_quantised(info)


def _fits(path: str, names: Iterable[str]) -> bool:
    """As peft compares: a module's whole path, or the end of it."""
    return any(path == name or path.endswith(f".{name}") for name in names)


def _refuse_unknown(
    tensors: Sequence[TensorInfo], names: Iterable[str], chosen: Mapping[str, TensorInfo], heads: Collection[str]
) -> None:
    paths = {path for info in tensors for path in _above(info.name)}
    for name in names:
        if not _fits_any(name, paths):
            leaves = sorted({path.rpartition(".")[2] for path in chosen} or {"q_proj"})
            message = f"the model has no module called {name!r}; give the last part of a module's name"
            raise ModelError(f"{message}, such as {leaves[0]!r}", param=_PARAM)
    if not chosen:
        raise ModelError("no module of the model is left for the adapter", param=_PARAM)


def _fits_any(name: str, paths: Iterable[str]) -> bool:
    return any(_fits(path, (name,)) for path in paths)


def _above(name: str) -> Iterator[str]:
    parts = name.split(".")[:-1]
    return (".".join(parts[: depth + 1]) for depth in range(len(parts)))


def _wrapped(info: TensorInfo, chosen: Mapping[str, TensorInfo], above: tuple[str, ...]) -> TensorInfo:
    """The tensor under its name in the wrapped model: below `base_layer` where an adapter is beside it."""
    types = (*above, *info.module_types)
    module = _module(info)
    if module in chosen:
        types = (*types[:-1], _layer_type(types[-1]), types[-1])
    aliases = tuple(_live_name(name, chosen) for name in info.aliases)
    name = _live_name(info.name, chosen)
    if _is_scale(info) and module in chosen:
        name = f"base_model.model.{module}.base_layer{info.name.removeprefix(module)}"
    return replace(info, name=name, aliases=aliases, module_types=types)


def _live_name(name: str, chosen: Collection[str]) -> str:
    module, _, leaf = name.rpartition(".")
    return f"base_model.model.{module}.base_layer.{leaf}" if module in chosen else f"base_model.model.{name}"


def _layer_type(kind: str) -> str:
    """The class with which peft wraps a layer."""
    if kind in ("Embedding", "DecodedEmbedding"):
        return "Embedding"
    return kind if kind in ("Linear4bit", "Linear8bitLt") else "Linear"


def _added(
    path: str, weight: TensorInfo, adapter: LoraSpec | Ia3Spec, above: tuple[str, ...], *, feedforward: bool
) -> Iterator[TensorInfo]:
    """The adapter's own tensors beside one layer."""
    kind = weight.module_types[-1] if weight.module_types else "Linear"
    where = f"base_model.model.{path}"
    types = (*above, *weight.module_types[:-1], _layer_type(kind))
    whole = weight.unpacked or weight.shape
    dtype = "F32" if weight.dtype in _HALF or quantised.is_quantised(weight) else weight.dtype
    if kind == "Embedding" and isinstance(adapter, LoraSpec) and not adapter.use_dora:
        rank, (rows, width) = adapter.r or _LORA_RANK, weight.shape
        inside = (*types, "ParameterDict")
        yield TensorInfo(f"{where}.lora_embedding_A.default", (rank, rows), dtype, module_types=inside)
        yield TensorInfo(f"{where}.lora_embedding_B.default", (width, rank), dtype, module_types=inside)
        return
    if kind not in _LINEAR or len(whole) != 2:
        message = f"{path!r} is a {kind}, and what its adapter looks like is seen on the loaded model"
        raise ModelError(message, param=_PARAM, code="model_not_described")

    outputs, inputs = whole if kind != "Conv1D" else whole[::-1]
    if isinstance(adapter, Ia3Spec):
        shape = (1, inputs) if feedforward else (outputs, 1)
        yield TensorInfo(f"{where}.ia3_l.default", shape, dtype, module_types=(*types, "ParameterDict"))
        return
    rank = adapter.r or _LORA_RANK
    inside = (*types, "ModuleDict", "Linear")
    yield TensorInfo(f"{where}.lora_A.default.weight", (rank, inputs), dtype, module_types=inside)
    yield TensorInfo(f"{where}.lora_B.default.weight", (outputs, rank), dtype, module_types=inside)
    if adapter.use_dora:
        inside = (*types, "ModuleDict", "DoraLinearLayer")
        name = f"{where}.lora_magnitude_vector.default.weight"
        yield TensorInfo(name, (outputs,), dtype, module_types=inside)


def _with_prompt(
    tensors: Sequence[TensorInfo], adapter: PromptTuningSpec, initialised: Collection[str]
) -> AdaptedModel:
    """The base under `base_model`, and virtual tokens as wide as its embedding."""
    embedding = next((info for info in tensors if info.module_types[-1:] == ("Embedding",)), None)
    if embedding is None:
        raise InvalidRequest("prompt tuning needs a model with an embedding of its tokens", param="model.adapter.type")
    wrapped = [
        replace(
            info,
            name=f"base_model.{info.name}",
            # peft keeps the embedding of the tokens under a second name.
            aliases=(
                *(f"base_model.{name}" for name in info.aliases),
                *(("word_embeddings.weight",) if info is embedding else ()),
            ),
            module_types=("PeftModelForCausalLM", *info.module_types),
        )
        for info in tensors
    ]
    shape = (adapter.num_virtual_tokens or _VIRTUAL_TOKENS, embedding.shape[1])
    name = "prompt_encoder.default.embedding.weight"
    types = ("PeftModelForCausalLM", "ModuleDict", "PromptEmbedding", "Embedding")
    prompt = TensorInfo(name, shape, "F32", module_types=types)
    return AdaptedModel([*wrapped, prompt], frozenset(f"base_model.{name}" for name in initialised), [])
