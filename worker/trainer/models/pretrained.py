"""Loads transformers models from a local folder: no remote code, no network, safetensors only, dtypes as stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoImageProcessor, AutoTokenizer

from app.errors import ModelError
from app.evidence.format.quantised import Quantisation
from app.specs.models import TransformersSpec
from app.specs.rules import refuse_quantising_again, refuse_without_adapter
from worker.trainer.models import (
    completeness,
    configs,
    decoded_layout,
    embeddings,
    model_config,
    packed_layout,
    processors,
    quantised,
    quantised_layout,
    sentence,
    stored_dtypes,
    ties,
    tokenizers,
    vocabulary,
)

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()  # new and unused tensors are in our own notes

AUTO_CLASS = {
    "text-classification": "AutoModelForSequenceClassification",
    "text-regression": "AutoModelForSequenceClassification",
    "text-ranking": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "causal-lm": "AutoModelForCausalLM",
    "preference": "AutoModelForCausalLM",
    "pairs": "AutoModel",
    "image-classification": "AutoModelForImageClassification",
    "image-text": "AutoModelForImageTextToText",
    "contrastive-image-text": "AutoModelForZeroShotImageClassification",
}
DTYPES = stored_dtypes.FLOATS
NAMED_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float64": "F64"}
PREPROCESSOR = "preprocessor_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
#: Files that may describe an image processor, and the key under which they do. The second is for models of several
#: kinds, such as CLIP, and the only one that transformers 5 writes for these.
PROCESSORS = ((PREPROCESSOR, ""), ("processor_config.json", "image_processor"))
#: Name of a tokenizer's attribute that says what it was like when it was loaded.
STORED = "_permafrost_stored"
SAFE = {"local_files_only": True, "trust_remote_code": False}


@dataclass(frozen=True, slots=True)
class Pretrained:
    model: nn.Module
    tokenizer: Any
    processor: Any
    new: frozenset[str]
    notes: tuple[str, ...]
    grown: Mapping[str, int]  # live names of tensors with more rows than the base has; the rows of the base
    mixed: bool  # whether some tensors keep a stored dtype other than the model's


def load(
    spec: TransformersSpec,
    folder: Path,
    *,
    task: str,
    labels: Sequence[str] | None,
    seed: int,
    codes: Mapping[str, str],
    read: stored_dtypes.Read,
) -> Pretrained:
    """Loads the model with its tokenizer or image processor. Tensors keep the dtypes in `codes`.

    `codes` are the dtype codes of the stored tensors by name, and `read` reads one of them.
    """
    config = model_config.load(spec, folder, task=task, labels=labels)
    auto = _auto_class(task, config)
    with _explained(auto, folder, config):
        stored_quantised = quantised.prepare(config, auto, codes)
    _refuse_small_floats(codes, stored_quantised)
    if stored_quantised and stored_quantised.below_adapters:
        refuse_without_adapter(spec.adapter, stored_quantised.method)
    dtype = _dtype(spec.dtype or "auto", quantised.plain(codes).values(), _decoded_to(config, stored_quantised))
    decoded = stored_quantised is not None and stored_quantised.decoded
    options: dict[str, Any] = quantised.OPTIONS if stored_quantised and not decoded else {}
    if spec.quantize:
        if stored_quantised:
            refuse_quantising_again(spec.quantize)
        with _explained(auto, folder, config):
            made = quantised.at_load(spec, config, auto, codes, dtype)
        options = {**quantised.OPTIONS, "quantization_config": made}
    layout = decoded_layout.read(folder, codes, stored_quantised) if stored_quantised and decoded else None
    torch.manual_seed(seed)  # a head that the base does not have is drawn from the seed
    if layout is not None:
        model, info = _over_codes(layout, auto, folder, config, dtype)
    else:
        model, info = _from_files(auto, folder, config, dtype, **options)
    if options:
        quantised.settle(model, made=spec.quantize is not None)
    stored_dtypes.refuse_whole_numbers(model, codes)
    kept = stored_dtypes.restore(model, codes, read) if _keeps_dtypes(spec) else []

    words, pictures = _preprocessors(spec, folder, task=task, kind=str(config.model_type))
    grown, notes = _with_new_tokens(spec, model, words, seed=seed)
    return Pretrained(
        model=model,
        tokenizer=words,
        processor=pictures,
        new=_new(info),
        notes=(
            *_notes(info),
            *_mixed(kept, dtype),
            *(layout.notes(dtype) if layout is not None else ()),
            *_ignored_notes(folder, model),
            *notes,
            *_missing_processor(task, pictures),
        ),
        grown=grown,
        mixed=bool(kept),
    )


def _preprocessors(spec: TransformersSpec, folder: Path, *, task: str, kind: str) -> tuple[Any, Any]:
    """The tokenizer and the image processor that a task takes; None for one that it does not."""
    if task == "image-classification":
        return None, processor(folder)
    words = tokenizer(folder)
    words.name_or_path = spec.path  # as users know it, for messages
    if task == "image-text":
        return words, processors.load(folder, words, kind=kind, options=SAFE)
    if task == "contrastive-image-text":
        return words, processor(folder) or processors.refuse_missing(kind)
    return words, None


def load_skeleton(
    spec: TransformersSpec, folder: Path, *, task: str | None, codes: Mapping[str, str]
) -> tuple[nn.Module, frozenset[str], int]:
    """The model on the meta device, without reading weights; names of its new tensors; its number of labels.

    Without a task, the class is the one that config.json names.
    """
    config = model_config.load(spec, folder, task=task or "", labels=None)
    auto = _auto_class(task, config) if task else getattr(transformers, (config.architectures or [""])[0], None)
    auto = auto or transformers.AutoModel
    with _explained(auto, folder, config):
        stored_quantised = quantised.prepare(config, auto, codes)
    _refuse_small_floats(codes, stored_quantised)
    dtype = _dtype(spec.dtype or "auto", quantised.plain(codes).values(), _decoded_to(config, stored_quantised))
    layout = quantised_layout.read(folder, codes, stored_quantised) if stored_quantised else None
    if layout is not None:
        model, info = _over_codes(layout, auto, folder, config, dtype, codes=codes)
    else:
        model, info = _from_files(auto, folder, config, dtype, device_map="meta")
        ties.tie_as_loading_does(model, folder, codes)
    stored_dtypes.refuse_whole_numbers(model, codes)
    if _keeps_dtypes(spec):
        stored_dtypes.restore(model, codes, None)
    if task == "pairs":
        sentence.attach(model, folder, device="meta")
    return model, _new(info), int(config.num_labels)


def tokenizer(folder: Path) -> Any:
    """The folder's tokenizer; ModelError where there is none."""
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise ModelError(f"the model's folder has no tokenizer; looked for {', '.join(TOKENIZER_FILES)}", param="model")
    if (folder / "tokenizer_config.json").exists():
        configs.read(folder / "tokenizer_config.json")
    if (folder / "tokenizer.json").exists():
        tokenizers.check(folder / "tokenizer.json")
    try:
        loaded = AutoTokenizer.from_pretrained(folder, **SAFE)
    except MemoryError:
        raise
    except Exception as error:  # tokenizers raises nothing narrower for a file that it cannot read
        tokenizers.refuse_unreadable(folder)
        raise ModelError(
            f"transformers could not load the tokenizer: {model_config.said(error)}", param="model"
        ) from error
    tokenizers.refuse_empty(loaded, folder)
    tokenizers.refuse_odd_length(loaded)
    loaded.__dict__[STORED] = _form(loaded)
    return loaded


def as_stored(tokenizer: Any) -> bool:
    """Whether a loaded tokenizer still is what its folder holds: no token or chat template was added."""
    return bool(tokenizer.__dict__.get(STORED) == _form(tokenizer))


def _form(tokenizer: Any) -> tuple[object, ...]:
    return tokenizer.pad_token, str(tokenizer.chat_template), len(tokenizer)


def processor(folder: Path) -> Any:
    """The folder's image processor, on PIL; None where the folder has none, also not as a part of another processor."""
    if not any(_describes_pictures(folder / name, key) for name, key in PROCESSORS):
        return None
    try:
        return AutoImageProcessor.from_pretrained(folder, use_fast=False, **SAFE)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise ModelError(
            f"transformers could not load the image processor: {model_config.said(error)}", param="model"
        ) from error


def _describes_pictures(path: Path, key: str) -> bool:
    return path.exists() and key in ("", *configs.read(path))


def _refuse_small_floats(codes: Mapping[str, str], known: Quantisation | None) -> None:
    """Raises ModelError for tensors in floats of 8 bits or less, of which the configuration says nothing."""
    if known is not None and known.decoded:
        return
    for name, code in codes.items():
        if code.startswith(("F8", "F4", "F6")) and code not in DTYPES:  # F64 is a plain one
            message = (
                f"tensor {name!r} is stored as {code}, a quantised form, which cannot be trained or compared byte by "
                "byte; take the model's plain weights (bfloat16 or float32), or save a dequantised copy"
            )
            raise ModelError(message, param="model", code="quantised_model")


def _keeps_dtypes(spec: TransformersSpec) -> bool:
    return (spec.dtype or "auto") == "auto"


def _mixed(kept: Sequence[str], dtype: torch.dtype) -> tuple[str, ...]:
    if not kept:
        return ()
    names = ", ".join(sorted(kept)[:3]) + (f" and {len(kept) - 3} more" if len(kept) > 3 else "")
    main = str(dtype).removeprefix("torch.")
    return (f"the base is stored in {main}, apart from {names}; each tensor keeps its own dtype",)


def _missing_processor(task: str, processor: Any) -> tuple[str, ...]:
    if task != "image-classification" or processor is not None:
        return ()
    return ("the model's folder has no preprocessor_config.json: pictures are scaled to 0..1, and not resized",)


def _with_new_tokens(
    spec: TransformersSpec, model: nn.Module, tokenizer: Any, *, seed: int
) -> tuple[dict[str, int], tuple[str, ...]]:
    if not spec.new_tokens:
        return {}, ()
    if tokenizer is None:
        raise ModelError("new_tokens need a model with a tokenizer", param="model.new_tokens")
    grown, note = vocabulary.extend(model, tokenizer, spec.new_tokens, seed=seed)
    return grown, (note,)


def _ignored_notes(folder: Path, model: nn.Module) -> tuple[str, ...]:
    """One note per configuration file with keys that are ignored."""
    notes = []
    for name in ("config.json", "tokenizer_config.json", *processors.COMPANIONS):
        keys = configs.ignored_keys(folder / name) if (folder / name).is_file() else []
        if keys:
            what = (
                f"{type(model).__name__} of transformers is used"
                if name == "config.json"
                else "built-in classes are used"
            )
            notes.append(f"{name}: {', '.join(keys)} ignored; {what}, and no code of the model's folder is run")
    return tuple(notes)


def _auto_class(task: str, config: Any) -> Any:
    if task not in AUTO_CLASS:
        known = ", ".join(sorted(AUTO_CLASS))
        raise ModelError(f"a transformers model has no task {task!r}; it has {known}", param="model.task")
    encoder = transformers.MODEL_FOR_TEXT_ENCODING_MAPPING.get(type(config), None) if task == "pairs" else None
    if encoder is not None and encoder.__name__.endswith("EncoderModel"):
        return transformers.AutoModelForTextEncoding  # T5 as a whole needs texts to decode as well
    return getattr(transformers, AUTO_CLASS[task])


def _from_files(
    auto: Any,
    folder: Path,
    config: Any,
    dtype: torch.dtype,
    *,
    stand_ins: Mapping[str, torch.Tensor] | None = None,
    **options: Any,
) -> tuple[nn.Module, Any]:
    """The model, and transformers' loading info: names that files and model do not share.

    `stand_ins` are tensors to load in place of those of the files.
    """
    completeness.check_files(folder)
    with _explained(auto, folder, config):
        model, info = auto.from_pretrained(
            folder if stand_ins is None else None,
            state_dict=stand_ins,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
            **SAFE,
        )
    body = "" if model is model.base_model else f"{model.base_model_prefix}."
    completeness.refuse_holes(
        info["missing_keys"],
        info["unexpected_keys"],
        model.state_dict(),
        body=body,
        embeddings=embeddings.input_names(model),
    )
    _refuse_other_shapes(model, info["mismatched_keys"])
    return model, info


def _over_codes(
    layout: decoded_layout.DecodedLayout | packed_layout.PackedLayout | quantised_layout.QuantisedLayout,
    auto: Any,
    folder: Path,
    config: Any,
    dtype: torch.dtype,
    *,
    codes: Mapping[str, str] | None = None,
) -> tuple[nn.Module, Any]:
    """The same over a base of codes, from the plain tensors of their layout: decoded ones, with their scales.

    With `codes`, the dtypes of the stored tensors, the model is laid out on the meta device.
    """
    with _explained(auto, folder, config):
        auto = quantised.plain_class(auto, config)
    options = {} if codes is None else {"device_map": "meta"}
    model, info = _from_files(auto, folder, config, dtype, stand_ins=layout.plain_tensors(dtype), **options)
    if codes is not None:
        ties.tie_as_loading_does(model, folder, codes)
    if isinstance(layout, decoded_layout.DecodedLayout):
        quantised.refuse_new_layers(model, _new(info), layout.form.method)
    layout.apply(model)
    return model, info


@contextmanager
def _explained(auto: Any, folder: Path, config: Any) -> Iterator[None]:
    """Turns what transformers raises about a model into a ModelError."""
    try:
        yield
    except (*model_config.ERRORS, RuntimeError) as error:
        if "Unrecognized configuration class" in str(error):
            kind = getattr(auto, "__name__", str(auto)).removeprefix("AutoModelFor")
            raise ModelError(f"transformers has no {kind} over a {config.model_type!r} model", param="task") from error
        said = model_config.said(error, folder).replace(str(folder), "the model's folder")
        raise ModelError(f"transformers could not load the model: {said}", param="model") from error


def _new(info: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(info["missing_keys"]) | {each[0] for each in info["mismatched_keys"]}


def _decoded_to(config: Any, known: Quantisation | None) -> torch.dtype | None:
    """What loaders decode codes to, by config.json. Of a base without codes, the stored tensors say it."""
    return getattr(config, "dtype", None) if known is not None and known.decoded else None


def _dtype(wanted: str, stored: Iterable[str], decoded_to: torch.dtype | None) -> torch.dtype:
    """The dtype to load in. `auto` is the one that most stored tensors have, whatever config.json says.

    Of codes it is the one that they are decoded to, where any tensor is stored so: most may be norms in float32.
    """
    if wanted != "auto":
        if wanted not in NAMED_DTYPES:
            raise ModelError(f"dtype {wanted!r} is not one of auto, {', '.join(NAMED_DTYPES)}", param="model.dtype")
        return DTYPES[NAMED_DTYPES[wanted]]
    floats = Counter(code for code in stored if code in DTYPES)
    if decoded_to is not None and decoded_to in {DTYPES[code] for code in floats}:
        return decoded_to
    return DTYPES[floats.most_common(1)[0][0]] if floats else torch.float32


def _refuse_other_shapes(model: nn.Module, mismatched: Sequence[Any]) -> None:
    """Raises ModelError for a tensor of the body in another shape; a head for other labels may be new."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    for name, *shapes in mismatched:
        if name.startswith(prefix) or model is getattr(model, "base_model", None):
            raise ModelError(
                f"tensor {name!r} does not have the shape that config.json gives it: {shapes}", param="model"
            )


def _notes(info: Mapping[str, Any]) -> tuple[str, ...]:
    notes = []
    if info["missing_keys"]:
        notes.append(f"newly initialised from the seed: {', '.join(sorted(info['missing_keys']))}")
    if info["mismatched_keys"]:
        names = ", ".join(sorted(each[0] for each in info["mismatched_keys"]))
        notes.append(f"newly initialised, since the base has them in another shape: {names}")
    return tuple(notes)
