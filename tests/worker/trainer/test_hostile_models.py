"""Models as attacks: tokenizers, chat templates and configs that would compute for ever, pickles in every disguise."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.worker.trainer import tiny
from tests.worker.trainer.attempts import Attempt, affine_order, attempt, data, work_order
from worker.protocol import WorkOrder, Workspace
from worker.trainer.data.images import decode
from worker.trainer.models import tokenizers

PATTERNS_IN_USE = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t)?|\p{N}{1,3}|\s+",
    r"\d|\p{Han}+|[^\n]+",
]
EXPLOSIVE = [r"(a+)+$", r"(\p{L}+\s?)*!", r"(?:(?:x*)y?)*z", r"(a|aa)+$", r"((ab){2,})*c", r"(?=(a+)+b)a", "a" * 20_000]


def chat_order(root: Path, template: str | None = None) -> WorkOrder:
    """A chat job on a tiny decoder with this template."""
    place = Workspace(root).create()
    tiny.llama(place.base, template=template)
    rows = [{"messages": [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]}] * 8
    return work_order(
        job_id="ftjob-hostile",
        stage="train",
        model={"type": "transformers", "path": "tiny"},
        task="causal-lm",
        data=data(place, rows),
        hyperparameters={"n_epochs": 1, "batch_size": 8},
        policy={"train": ["model.layers.1.**"]},
        seed=1,
        device="cpu",
    )


@pytest.mark.parametrize("pattern", PATTERNS_IN_USE)
def test_patterns_of_real_tokenizers_pass(pattern: str) -> None:
    """Of GPT-2, Llama 3, GPT-4o, and another: no repeat holds a repeat."""
    assert not tokenizers.explosive(pattern)


@pytest.mark.parametrize("pattern", EXPLOSIVE)
def test_explosive_patterns_are_seen(pattern: str) -> None:
    """A repeat of a repeat, of a choice, in a lookahead; and one too long to judge."""
    assert tokenizers.explosive(pattern)


def test_a_tokenizer_with_an_explosive_pattern_is_refused(tmp_path: Path) -> None:
    """Before a single text is matched with it, wherever in the file it stands."""
    order = chat_order(tmp_path)
    path = Workspace(tmp_path).base / "tokenizer.json"
    content = json.loads(path.read_text())
    split = {"type": "Split", "pattern": {"Regex": r"(\w+\s?)+$"}, "behavior": "Isolated", "invert": False}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, {"type": "Whitespace"}]}
    path.write_text(json.dumps(content))
    failure = attempt(order, tmp_path).failure
    assert (failure["code"], failure["param"]) == ("explosive_pattern", "model")
    assert r"(\w+\s?)+$" in failure["message"]


@pytest.mark.parametrize(
    ("content", "says"), [(b"{" * 100_000, "not JSON"), (b"\xff\xfe", "not JSON"), (None, "larger than")]
)
def test_a_broken_or_huge_tokenizer_is_refused(tmp_path: Path, content: bytes | None, says: str) -> None:
    """By size before it is read: a sparse file costs nothing to send."""
    order = chat_order(tmp_path)
    path = Workspace(tmp_path).base / "tokenizer.json"
    if content is None:
        with path.open("r+b") as file:
            file.truncate(tokenizers.MAX_BYTES + 1)
    else:
        path.write_bytes(content)
    failure = attempt(order, tmp_path).failure
    assert failure["code"] == "invalid_model" and says in failure["message"]


ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
TEMPLATES = {
    "endless": (ENDLESS, "template_too_costly"),
    "memory": ("{{ 'x' * 8000000000 }}", "template_too_costly"),
    "doubling": (
        "{% set s = namespace(t='x' * 1000000) %}{% for i in range(40) %}{% set s.t = s.t + s.t %}{% endfor %}",
        "template_too_costly",
    ),
    "long": ("{{ 'x' * 5000000 }}", "template_refused"),
    "huge range": ("{% for i in range(10**9) %}x{% endfor %}", "template_refused"),
    "escape": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "template_refused"),
    "escape by format": ("{{ '{0.__class__.__init__.__globals__}'.format(messages) }}", "template_refused"),
    "import": ("{% include '/etc/passwd' %}", "template_refused"),
    "change": ("{% set _ = messages.append(messages[0]) %}x", "template_refused"),
}


@pytest.mark.parametrize("attack", TEMPLATES)
def test_a_hostile_chat_template_is_refused(tmp_path: Path, attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time, memory and length are bounded, and the sandbox holds: the job fails with the template as the reason."""
    monkeypatch.setattr("worker.trainer.data.chat_template.TEMPLATE_SECONDS", 0.5)
    template, code = TEMPLATES[attack]
    done = attempt(chat_order(tmp_path, template), tmp_path)
    assert done.code == 1
    (error, *_) = done.failure["errors"]
    assert (error["code"], error["field"]) == (code, "messages"), error
    assert "chat template" in error["message"]


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 10**9},
        {"vocab_size": 10**12},
        {"hidden_size": 2**40},
        {"max_position_embeddings": 10**15},
        {"text_config": {"num_hidden_layers": 10**6}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_config_of_a_giant_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    """Before anything is built from it: its numbers would take for ever, or all memory, before a weight is compared."""
    order = chat_order(tmp_path)
    path = Workspace(tmp_path).base / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    failure = attempt(order, tmp_path).failure
    assert failure["code"] == "invalid_model" and "is the most that is built" in failure["message"]


class Boom:
    """Makes a file when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return Path.touch, (self.place,)


def pickles(mine: Path) -> dict[str, bytes]:
    """The same attack in each wrapping that some loader would open."""
    raw = pickle.dumps(Boom(mine))
    saved, archive, array = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save({"weight": torch.ones(2), "x": Boom(mine)}, saved)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", raw)
    np.save(array, np.array([Boom(mine)], dtype=object), allow_pickle=True)
    return {"pickle": raw, "torch.save": saved.getvalue(), "zip": archive.getvalue(), "npy": array.getvalue()}


@pytest.mark.parametrize("kind", ["pickle", "torch.save", "zip", "npy"])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.pt", "model.ckpt"])
def test_no_pickle_is_ever_opened(tmp_path: Path, kind: str, name: str) -> None:
    """As the only weights of a base, under any name: refused, and the code in it has not run."""
    mine = tmp_path / "boom"
    order = affine_order(tmp_path / "job")
    base = Workspace(tmp_path / "job").base
    (base / "model.safetensors").unlink()
    (base / name).write_bytes(pickles(mine)[kind])
    done = attempt(order, tmp_path / "job")
    assert done.code == 1 and done.failure["code"] == "invalid_model"
    assert not mine.exists()


@pytest.mark.parametrize("kind", ["pickle", "torch.save", "zip", "npy"])
def test_a_pickle_beside_sound_weights_is_left_alone(tmp_path: Path, kind: str) -> None:
    """transformers would prefer some of these names, if it were let."""
    mine = tmp_path / "boom"
    order = chat_order(tmp_path / "job")
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt"):
        (Workspace(tmp_path / "job").base / name).write_bytes(pickles(mine)[kind])
    assert attempt(order, tmp_path / "job").code == 0
    assert not mine.exists()


@pytest.mark.parametrize("kind", ["pickle", "torch.save", "zip", "npy"])
def test_a_pickle_as_data_is_refused(tmp_path: Path, kind: str) -> None:
    """Whatever the file is called: its bytes are no examples."""
    mine = tmp_path / "boom"
    for suffix in ("jsonl", "csv", "parquet", "pkl"):
        folder = tmp_path / suffix
        order = affine_order(folder)
        (Workspace(folder).data / f"train.{suffix}").write_bytes(pickles(mine)[kind])
        fields = order.to_json() | {"data": {"training": f"data/train.{suffix}"}}
        assert attempt(WorkOrder.from_json(fields), folder).code == 1
    assert not mine.exists()


def test_a_safetensors_index_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    """A sharded model's index names files: one that names another's is no model."""
    order = chat_order(tmp_path / "job")
    base = Workspace(tmp_path / "job").base
    shutil.move(base / "model.safetensors", tmp_path / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "../../outside.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    done: Attempt = attempt(order, tmp_path / "job")
    assert done.code == 1 and done.failure["code"] == "invalid_model"


@pytest.mark.parametrize(
    "content",
    [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"GIF89a"],
    ids=["EPS", "SVG", "torn GIF"],
)
def test_pictures_that_are_programs_are_not_opened(content: bytes) -> None:
    """PIL would hand EPS to a PostScript interpreter; only formats that hold pixels are known here."""
    with pytest.raises((OSError, ValueError)):
        decode(content)
