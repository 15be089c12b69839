"""A LoRA job over a base of some 195 million weights that is frozen in NF4, beside the same job over it in bfloat16.

Each job is a process of its own, by turns, and recomputes its activations. Memory is counted at its peak, mapped files
with it, above what the process holds before it loads the model. `permafrost verify` is timed over results of both.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from app.evidence.format.digest import read_file, sha256_file
from app.evidence.format.envelope import seal
from app.evidence.format.keys import generate
from app.evidence.format.quantised import is_scale, scales
from app.evidence.format.statement import FileRef, Reading, Row, build
from benchmarks.claims import claim_of
from benchmarks.figure import Figure
from benchmarks.stand_in import folder
from benchmarks.work import EVERYTHING, MINILM, WORDS, Case, passages, work_order

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
STEPS = 4
SIZES: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 15,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
LORA = {"type": "lora", "r": 8, "target_modules": ["q_proj", "v_proj"]}
CASE = Case(
    "Llama of 195 M weights, LoRA",
    "causal-lm",
    MINILM | {"adapter": LORA},
    EVERYTHING,
    partial(passages, 8),
    lambda place: llama(place),  # defined below
    batch=2,
    steps=STEPS,
    wanted={"n_epochs": 1, "max_steps": STEPS, "gradient_checkpointing": True},
)
NORMS = ["**.input_layernorm.weight", "**.post_attention_layernorm.weight", "model.norm.weight"]
#: Runs a job in this process, and prints the bytes that it held at its peak above those that it began with.
JOB = """
import json, sys
from pathlib import Path
from worker.trainer import main
def held(key):
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key))
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = held("VmRSS")
try:
    main.run(Path(sys.argv[1]))
except SystemExit as ended:
    print(json.dumps([int(ended.code or 0), held("VmHWM") - before]))
"""


def figures() -> Iterable[Figure]:
    with folder() as place:
        plain, codes = bases(place)
        peaks: dict[Path, list[int]] = {plain: [], codes: []}
        for turn in range(ROUNDS):
            for base in sorted(peaks, reverse=bool(turn % 2)):
                peaks[base].append(peak(base, place / f"job-{turn}-{base.name}"))
        whole, packed = statistics.median(peaks[plain]), statistics.median(peaks[codes])
        yield from memory(whole, packed, plain, codes)
        yield from verification(place, plain, codes)


def memory(whole: float, packed: float, plain: Path, codes: Path) -> Iterable[Figure]:
    stored = [(base / "model.safetensors").stat().st_size for base in (plain, codes)]
    yield Figure("peak of the job over NF4", packed / 1e6, "MB", f"{stored[1] / 1e6:.0f} MB of them are the base")
    yield Figure("peak of the job over bfloat16", whole / 1e6, "MB", f"{stored[0] / 1e6:.0f} MB of them are the base")
    yield Figure("peak over NF4 to that over bfloat16", packed / whole, "x", "at most 0.45")


def bases(place: Path) -> tuple[Path, Path]:
    """The base in bfloat16, and as transformers saves it in NF4 with nested scales."""
    plain, codes = place / "bfloat16", place / "nf4"
    plain.mkdir(parents=True)
    CASE.base(plain)
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(plain, quantization_config=config, device_map="cpu", dtype="auto")
    model.save_pretrained(codes)
    for path in plain.iterdir():
        if not (codes / path.name).exists():
            (codes / path.name).symlink_to(path.resolve())
    return plain, codes


def peak(base: Path, place: Path) -> int:
    """Bytes that a job over this base holds at its peak."""
    order, workspace = work_order(replace(CASE, base=partial(linked, base)), place)
    order.save(workspace.root)
    done = subprocess.run([sys.executable, "-c", JOB, str(workspace.root)], capture_output=True, text=True)
    code, held = json.loads(done.stdout.splitlines()[-1])
    if code != 0:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    return int(held)


def llama(place: Path) -> None:
    """A Llama of random weights in bfloat16, under a tokenizer of a few words, so that layers are nearly all of it."""
    words = {word: at for at, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(place)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES)).to(torch.bfloat16).save_pretrained(place)


def linked(base: Path, target: Path) -> None:
    for path in base.iterdir():
        (target / path.name).symlink_to(path.resolve())


def verification(place: Path, plain: Path, codes: Path) -> Iterable[Figure]:
    """Results of the same model whose norms trained, by turns: each holds every tensor."""
    attested = {base: signed(base, place / f"signed-{base.name}") for base in (plain, codes)}
    taken: dict[Path, list[float]] = {plain: [], codes: []}
    for turn in range(2 * ROUNDS + 1):
        for base in sorted(taken, reverse=bool(turn % 2)):
            taken[base].append(seconds(attested[base]))
    ours, theirs = (statistics.median(taken[base][1:]) for base in (codes, plain))
    yield Figure("permafrost verify of the result in NF4", ours, "s", f"{theirs:.2f} s: of that in bfloat16")
    ratios = [one / other for one, other in zip(taken[plain][1:], taken[codes][1:], strict=True)]
    yield Figure("as fast as that of the result in bfloat16", statistics.median(ratios), "x", "at least 1")


def signed(base: Path, place: Path) -> Path:
    """An attestation about the base's own files as a result in which all but the norms was frozen, and its key."""
    place.mkdir()
    files = [path for path in sorted(base.iterdir()) if path.name in ("config.json", "model.safetensors")]
    refs = tuple(FileRef(path.name, path.stat().st_size, sha256_file(path)) for path in files)
    result = place / "result"
    result.mkdir()
    for path in files:
        (result / path.name).hardlink_to(path)
    key = generate()
    claim = claim_of(rows(base), {"train": NORMS}, base_files=refs, result_files=refs)
    (place / "attestation.json").write_text(json.dumps(seal(build(claim), [key])))
    (place / "key.pub").write_text(key.public_pem)
    return place


def rows(base: Path) -> Iterable[Row]:
    tensors = read_file(base / "model.safetensors").tensors
    packed = scales(each.name for each in tensors)
    for each in tensors:
        reading = Reading(each.name, each.dtype, each.shape, each.nbytes, each.sha256)
        trains = each.name.endswith("norm.weight")
        scale, codes = is_scale(each.name), each.name.removesuffix("weight") in packed
        yield Row(
            name=each.name,
            kind="buffer" if scale else "parameter",
            role="trainable" if trains else "frozen",
            rule="rule-1" if trains else "default",
            mechanism=None if trains or scale else "requires_grad",
            module_types=("LlamaForCausalLM", "Linear4bit" if scale or codes else "Linear"),
            base=reading,
            result=reading,
            changed=False,
        )


def seconds(place: Path) -> float:
    command = [sys.executable, "-m", "app.cli.main", "verify", str(place / "attestation.json"), "--key"]
    command += [str(place / "key.pub"), "--result", str(place / "result")]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stdout + done.stderr)
    return time.perf_counter() - began
