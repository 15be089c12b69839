"""Tiny vision-language models from configs, one per family, each with a processor, tokenizer and chat template."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.worker.trainer.tiny import WORDS
from worker.trainer.models import processors

#: The language models of all families.
TEXT: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": 16,
}
#: And their towers: pictures of 16 by 16 pixels, patches of 4.
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
#: What a processor is made with beside its parts.
SETTINGS = (
    "patch_size",
    "vision_feature_select_strategy",
    "num_additional_image_tokens",
    "image_seq_length",
    "image_seq_len",
    "spatial_merge_size",
)
_SIZE = {"height": 16, "width": 16}
#: A template as most families have it: `<image>` for each picture, an end mark behind each message.
TEMPLATE = (
    "{% for message in messages %}{{ message.role }} : {% for part in message.content %}"
    "{% if part.type == 'image' %}PICTURE{% else %}{{ part.text }}{% endif %}{% endfor %}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)


@dataclass(frozen=True, slots=True)
class Family:
    """A family: how its tiny model and processor are made, and the names of its parts in memory."""

    model: Callable[[Mapping[str, int]], Any]  # of the ids of its special tokens
    processor: Callable[[Any], Any]  # of the tokenizer
    special: tuple[str, ...]
    named: Mapping[str, str] = field(default_factory=dict)  # attributes of the tokenizer
    picture: str = "<image>"  # what the template writes for a picture
    template: str | None = TEMPLATE


def save(name: str, folder: Path, *, seed: int = 0) -> Path:
    """The base folder of a family, as its publisher would have saved it."""
    family = FAMILIES[name]
    words = ["<pad>", "<s>", "</s>", "<unk>", *family.special, "user", "assistant", "system", ":", "\n", *WORDS]
    raw = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens([AddedToken(word, special=True) for word in ("<pad>", "<s>", "</s>", *family.special)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=dict(family.named),
    )
    processor = family.processor(tokenizer)
    if family.template is not None:
        processor.chat_template = family.template.replace("PICTURE", family.picture)

    model = family.model({word: index for index, word in enumerate(words)})
    torch.manual_seed(seed)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    if processor.chat_template:
        (folder / "chat_template.jinja").write_text(processor.chat_template, "utf-8")
    settings = {name: getattr(processor, name) for name in SETTINGS if hasattr(processor, name)}
    (folder / "processor_config.json").write_text(
        json.dumps({"processor_class": type(processor).__name__, **settings}), "utf-8"
    )
    return folder


def picture(seed: int, *, width: int = 16, height: int = 16) -> bytes:
    """A PNG of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def shown(data: bytes) -> dict[str, Any]:
    """A picture as OpenAI writes it."""
    return {"type": "image_url", "image_url": {"url": url(data)}}


def said(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def chats(count: int = 8, *, pictures: int = 1) -> list[dict[str, Any]]:
    """Conversations of one turn about `pictures` each."""
    answers = ("the cat sat", "a dog ran under the tree", "it is red", "it is not good")
    return [
        {
            "messages": [
                {
                    "role": "user",
                    "content": [*(shown(picture(number + 100 * at)) for at in range(pictures)), said("the film is")],
                },
                {"role": "assistant", "content": answers[number % 4]},
            ]
        }
        for number in range(count)
    ]


def _pil(name: str, **options: Any) -> Any:
    return getattr(transformers, f"{name}Pil")(**options)


def _processor(kind: str, name: str, *parts: Any, **options: Any) -> Any:
    """A processor without the part for videos, which needs torchvision."""
    cls = processors._lenient(processors._class_of(name, kind))
    return cls(*parts, **options)


def _llava(ids: Mapping[str, int]) -> Any:
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=transformers.LlamaConfig(**TEXT),
        image_token_index=ids["<image>"],
        image_seq_length=16,
        vision_feature_layer=-1,
    )
    return transformers.LlavaForConditionalGeneration(config)


def _llava_processor(tokenizer: Any) -> Any:
    image = _pil("CLIPImageProcessor", size=_SIZE, crop_size=_SIZE)
    return transformers.LlavaProcessor(
        image, tokenizer, patch_size=4, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )


def _qwen(version: str) -> Callable[[Mapping[str, int]], Any]:
    def model(ids: Mapping[str, int]) -> Any:
        vision: dict[str, Any] = {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48}
        vision |= {"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 1, "out_hidden_size": 32}
        rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
        if version == "Qwen3VL":
            vision |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
        else:
            vision |= {"window_size": 16, "fullatt_block_indexes": [1]}
        config = getattr(transformers, f"{version}Config")(
            vision_config=vision,
            text_config=TEXT | {"rope_parameters": rope},
            image_token_id=ids["<|image_pad|>"],
            video_token_id=ids["<|video_pad|>"],
            vision_start_token_id=ids["<|vision_start|>"],
            vision_end_token_id=ids["<|vision_end|>"],
        )
        return getattr(transformers, f"{version}ForConditionalGeneration")(config)

    return model


def _qwen_processor(kind: str, version: str) -> Callable[[Any], Any]:
    def processor(tokenizer: Any) -> Any:
        image = _pil(
            "Qwen2VLImageProcessor",
            patch_size=4,
            merge_size=2,
            temporal_patch_size=1,
            size={"shortest_edge": 64, "longest_edge": 1024},
        )
        return _processor(kind, f"{version}Processor", image, tokenizer, None)

    return processor


_QWEN: tuple[str, ...] = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")


def _gemma3(ids: Mapping[str, int]) -> Any:
    config = transformers.Gemma3Config(
        vision_config=transformers.SiglipVisionConfig(**VISION, vision_use_head=False),
        text_config=transformers.Gemma3TextConfig(**TEXT, sliding_window=64, query_pre_attn_scalar=16),
        mm_tokens_per_image=4,
        boi_token_index=ids["<boi>"],
        eoi_token_index=ids["<eoi>"],
        image_token_index=ids["<image>"],
    )
    return transformers.Gemma3ForConditionalGeneration(config)


def _gemma3_processor(tokenizer: Any) -> Any:
    return transformers.Gemma3Processor(_pil("Gemma3ImageProcessor", size=_SIZE), tokenizer, image_seq_length=4)


def _idefics(name: str) -> Callable[[Mapping[str, int]], Any]:
    def model(ids: Mapping[str, int]) -> Any:
        config = getattr(transformers, f"{name}Config")(
            vision_config=VISION,
            text_config=transformers.LlamaConfig(**TEXT),
            scale_factor=2,
            image_token_id=ids["<image>"],
            pad_token_id=0,
        )
        return getattr(transformers, f"{name}ForConditionalGeneration")(config)

    return model


def _idefics_processor(name: str) -> Callable[[Any], Any]:
    def processor(tokenizer: Any) -> Any:
        image = _pil(
            f"{name}ImageProcessor",
            size={"longest_edge": 16},
            max_image_size={"longest_edge": 16},
            do_image_splitting=False,
        )
        videos = (None,) if name == "SmolVLM" else ()
        return _processor(name.lower(), f"{name}Processor", image, tokenizer, *videos, image_seq_len=4)

    return processor


_IDEFICS = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")


def _internvl(ids: Mapping[str, int]) -> Any:
    config = transformers.InternVLConfig(
        vision_config=transformers.InternVLVisionConfig(**(VISION | {"image_size": [16, 16], "patch_size": [4, 4]})),
        text_config=transformers.Qwen2Config(**TEXT),
        image_token_id=ids["<IMG_CONTEXT>"],
        image_seq_length=4,
        downsample_ratio=0.5,
    )
    return transformers.InternVLForConditionalGeneration(config)


def _internvl_processor(tokenizer: Any) -> Any:
    image = _pil("GotOcr2ImageProcessor", size=_SIZE, crop_to_patches=False)
    return _processor("internvl", "InternVLProcessor", image, tokenizer, None, image_seq_length=4)


def _paligemma(ids: Mapping[str, int]) -> Any:
    config = transformers.PaliGemmaConfig(
        vision_config=transformers.SiglipVisionConfig(**VISION, projection_dim=32, vision_use_head=False),
        text_config=transformers.GemmaConfig(**TEXT | {"vocab_size": 1280}),
        image_token_index=ids["<image>"],
        projection_dim=32,
    )
    return transformers.PaliGemmaForConditionalGeneration(config)


def _paligemma_processor(tokenizer: Any) -> Any:
    return transformers.PaliGemmaProcessor(_pil("SiglipImageProcessor", size=_SIZE, image_seq_length=16), tokenizer)


FAMILIES: dict[str, Family] = {
    "llava": Family(_llava, _llava_processor, ("<image>",), {"image_token": "<image>"}),
    "qwen2_5_vl": Family(
        _qwen("Qwen2_5_VL"),
        _qwen_processor("qwen2_5_vl", "Qwen2_5_VL"),
        _QWEN,
        picture="<|vision_start|><|image_pad|><|vision_end|>",
    ),
    "qwen3_vl": Family(
        _qwen("Qwen3VL"),
        _qwen_processor("qwen3_vl", "Qwen3VL"),
        _QWEN,
        picture="<|vision_start|><|image_pad|><|vision_end|>",
    ),
    "gemma3": Family(
        _gemma3,
        _gemma3_processor,
        ("<boi>", "<image>", "<eoi>"),
        {"boi_token": "<boi>", "image_token": "<image>", "eoi_token": "<eoi>"},
        picture="<boi>",
    ),
    "smolvlm": Family(_idefics("SmolVLM"), _idefics_processor("SmolVLM"), _IDEFICS),
    "idefics3": Family(_idefics("Idefics3"), _idefics_processor("Idefics3"), _IDEFICS),
    "internvl": Family(
        _internvl,
        _internvl_processor,
        ("<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
        {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        picture="<IMG_CONTEXT>",
    ),
    "paligemma": Family(_paligemma, _paligemma_processor, ("<image>",), {"image_token": "<image>"}, template=None),
}
