"""LLaVA's two stages with the tower's results kept, beside the HF Trainer on the same batches.

A model in the layout of LLaVA: a tower of 24 layers (CLIP's, 384 wide) over 64 patches of a picture, a projector, and a
language model of 2 layers, all of random weights. The first stage trains the projector, the second the language model
as well, each on captions of 128 pictures for 25 epochs. Ours is timed from encoded data to the last step: finding and
filling the prefix, and every step. The Trainer's steps are timed once they run and counted for as many.

How much is saved is the tower's part of a pass, over the epochs that it is computed once for: `BENCH_LAYERS=8` gives
the language model so many layers, `BENCH_EPOCHS=10` takes half of the epochs. `BENCH_CLOCK=cpu` and one thread measure
the process's own time, as on a busy machine.
"""

from __future__ import annotations

import base64
import io
import json
import os
import random
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from benchmarks.figure import Figure
from benchmarks.loops import CLOCK, HF, hf_trainer
from benchmarks.prefix_cache import timed
from benchmarks.work import WORDS, Case, Rows, material, prepared
from worker.trainer.training import loop

EXAMPLES = int(os.environ.get("BENCH_EXAMPLES", "128"))
LAYERS = int(os.environ.get("BENCH_LAYERS", "2"))
RUNS = int(os.environ.get("BENCH_ROUNDS", "2"))
EPOCHS = int(os.environ.get("BENCH_EPOCHS", "25"))
BATCH, PEER_STEPS = 8, 6
SIDE, PATCH = 64, 8
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
TEMPLATE = (
    "{% for message in messages %}{{ message.role }} {% for part in message.content %}"
    "{% if part.type == 'image' %}<image> {% else %}{{ part.text }}{% endif %}{% endfor %} </s>{% endfor %}"
)


def figures() -> Iterable[Figure]:
    stages = [stage(number) for number in (1, 2)]
    best = [float("inf")] * 2
    peers = [float("inf")] * 2
    for _ in range(RUNS):
        for at, work in enumerate(stages):
            best[at] = min(best[at], ours(work))
            peers[at] = min(peers[at], work.steps / peer(work))
    for work, taken, other in zip(stages, best, peers, strict=True):
        yield Figure(f"{work.name}, {work.steps} steps: kept", taken, "s", f"{other:.3g} by {HF}")
        yield Figure(f"{work.name}: speed over {HF}", other / taken, "x", "4, the aim for both")
    yield Figure(f"LLaVA, both stages: speed over {HF}", sum(peers) / sum(best), "x", "4, the aim")


def stage(number: int) -> Case:
    return Case(
        f"LLaVA, stage {number}, {LAYERS} layers of text",
        "image-text",
        {"type": "transformers", "path": "llava"},
        {"preset": f"llava-stage-{number}"},
        captions,
        base,
        BATCH,
        EPOCHS * EXAMPLES // BATCH,
        wanted={"n_epochs": EPOCHS, "prefix_cache": "auto", "frozen_dropout": False},
    )


def ours(work: Case) -> float:
    """Seconds from encoded data to the last step."""
    with tempfile.TemporaryDirectory() as folder:
        with timed() as begun:
            run, stop = prepared(work, Path(folder))
        assert run.passes.prefix is not None, "kept"
        began = CLOCK()
        with stop, run.witness.witness, run.checkpoints.writer:
            loop.train(run)
        taken = begun["begin"] + CLOCK() - began
        run.passes.prefix.close()
        return taken


def peer(work: Case) -> float:
    """Steps per second, once it runs."""
    few = replace(work, steps=PEER_STEPS)
    with tempfile.TemporaryDirectory() as folder:
        go = hf_trainer(material(few, Path(folder)), few, Path(folder))
        return max(go(), go())


def captions() -> Rows:
    """Pictures of noise, each with some 10 to 20 words."""
    chance, noise = random.Random(0), np.random.default_rng(0)
    rows = []
    for _ in range(EXAMPLES):
        buffer = io.BytesIO()
        Image.fromarray(noise.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)).save(buffer, "PNG")
        uri = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        answer = " ".join(chance.choices(WORDS, k=chance.randint(10, 20)))
        asked = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": "a file"}]
        rows.append({"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]})
    return rows


def base(folder: Path) -> None:
    """The model's folder with its processor and tokenizer."""
    words = {word: at for at, word in enumerate([*SPECIAL, "user", "assistant", *WORDS])}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens([AddedToken(word, special=True) for word in SPECIAL])
    marks = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, extra_special_tokens={"image_token": "<image>"}, **marks)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    CLIPImageProcessorPil(size=size, crop_size=size).save_pretrained(folder)
    settings = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    content = {"processor_class": "LlavaProcessor", "image_token": "<image>", **settings}
    (folder / "processor_config.json").write_text(json.dumps(content))

    torch.manual_seed(0)
    LlavaForConditionalGeneration(_config(words)).save_pretrained(folder)


def _config(words: dict[str, int]) -> LlavaConfig:
    tower: dict[str, Any] = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 24}
    tower |= {"num_attention_heads": 6, "image_size": SIDE, "patch_size": PATCH}
    text: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": LAYERS}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    text |= {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return LlavaConfig(
        vision_config=CLIPVisionConfig(**tower),
        text_config=LlamaConfig(**text),
        image_token_index=words["<image>"],
        image_seq_length=(SIDE // PATCH) ** 2,
    )
