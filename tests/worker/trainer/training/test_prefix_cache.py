"""The frozen prefix kept: the same run as without, when it is, and every case in which it is not."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.worker.trainer import tiny
from tests.worker.trainer.attempts import Attempt, affine_order, attempt, attempt_json, data, work_order
from tests.worker.trainer.training.test_checkpoints import assert_same, copy_checkpoints
from worker.protocol import WorkOrder, Workspace
from worker.trainer.freeze import fixed
from worker.trainer.models import architectures
from worker.trainer.prefix import kept_results as store
from worker.trainer.training import loop, prefix_cache, prefix_filling
from worker.trainer.training.prefix_cache import PrefixCache

STILL: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
WORDS = tiny.WORDS


def tabular(root: Path, architecture: str, kwargs: dict[str, Any], policy: dict[str, Any], **wanted: Any) -> WorkOrder:
    """40 rows of ten numbers, batches of 8."""
    place = Workspace(root).create()
    model = {"type": "torch", "architecture": architecture, "kwargs": kwargs}
    if not (place.base / "model.safetensors").exists():
        assert attempt(work_order(job_id="j", stage="initialise", model=model, seed=1), root).code == 0
        place.reports.unlink()
    hyperparameters = {"n_epochs": 3, "batch_size": 8, "learning_rate": 0.05, "validation_fraction": 0.2} | wanted
    order = affine_order(root, model=model, policy=policy, hyperparameters=hyperparameters)
    return WorkOrder.from_json(order.to_json() | {"model": model})


def mlp(root: Path, **wanted: Any) -> WorkOrder:
    kwargs = {"in_features": 10, "out_features": 10, "hidden": [16, 16, 16]}
    return tabular(root, "mlp", kwargs, {"freeze": ["0.**", "3.**"]}, **wanted)


def convnet(root: Path, **wanted: Any) -> WorkOrder:
    """BatchNorm in the frozen part is pinned."""
    import base64
    import io

    from PIL import Image

    place = Workspace(root).create()
    model = {"type": "torch", "architecture": "convnet", "kwargs": {"num_classes": 3, "widths": [4, 8]}}
    if not (place.base / "model.safetensors").exists():
        assert attempt(work_order(job_id="j", stage="initialise", model=model, seed=1), root).code == 0
        place.reports.unlink()
    generator = torch.Generator().manual_seed(0)
    rows = []
    for at in range(24):
        pixels = torch.randint(0, 256, (8, 8, 3), generator=generator, dtype=torch.uint8).numpy()
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        rows.append({"image": base64.b64encode(buffer.getvalue()).decode(), "label": f"l{at % 3}"})
    return work_order(
        job_id="j",
        stage="train",
        model=model,
        task="image-classification",
        data=data(place, rows),
        hyperparameters={"n_epochs": 3, "batch_size": 8, "learning_rate": 0.05} | wanted,
        policy={"freeze": ["features.0.**"]},
        seed=5,
        device="cpu",
    )


def pretrained(
    root: Path,
    base: Callable[[Path], Path],
    task: str,
    rows: list[dict[str, Any]],
    policy: dict[str, Any],
    **wanted: Any,
) -> WorkOrder:
    place = Workspace(root).create()
    if not (place.base / "config.json").exists():
        base(place.base)
    return work_order(
        job_id="j",
        stage="train",
        model={"type": "transformers", "path": "tiny"},
        task=task,
        data=data(place, rows),
        hyperparameters={"n_epochs": 3, "batch_size": 8, "learning_rate": 1e-3} | wanted,
        policy=policy,
        seed=5,
        device="cpu",
    )


def texts(*, ragged: bool) -> list[dict[str, Any]]:
    """40 texts of three words, or of one to seven."""
    return [
        {"text": " ".join(WORDS[at * k % 20] for k in range(1, 2 + at % 7 if ragged else 4)), "label": f"l{at % 3}"}
        for at in range(40)
    ]


LOWER = {"freeze": ["bert.embeddings.**", "bert.encoder.layer.0.**"]}


def encoder(
    root: Path, *, policy: dict[str, Any] = LOWER, ragged: bool = False, dropout: bool = False, **wanted: Any
) -> WorkOrder:
    base = lambda folder: tiny.bert(folder, **({} if dropout else STILL))  # noqa: E731 - a base with options
    return pretrained(root, base, "text-classification", texts(ragged=ragged), policy, **wanted)


def head_only(root: Path, **wanted: Any) -> WorkOrder:
    return encoder(root, policy={"freeze": ["bert.**"]}, **wanted)


def tokens(root: Path, **wanted: Any) -> WorkOrder:
    rows = [{"tokens": [WORDS[at % 20], WORDS[at % 7]], "labels": [f"l{at % 3}", "l0"]} for at in range(40)]
    return pretrained(root, lambda to: tiny.bert(to, **STILL), "token-classification", rows, LOWER, **wanted)


def pairs(root: Path, **wanted: Any) -> WorkOrder:
    rows = [{"anchor": WORDS[at % 20], "positive": WORDS[(at + 1) % 20]} for at in range(40)]
    policy = {"freeze": ["embeddings.**", "encoder.layer.0.**"]}
    return pretrained(root, lambda to: tiny.bert(to, **STILL), "pairs", rows, policy, **wanted)


DECODER = {"freeze": ["model.embed_tokens.**", "model.layers.0.**"]}


def decoder(root: Path, *, ragged: bool = False, **wanted: Any) -> WorkOrder:
    base = lambda folder: tiny.llama(folder, tie_word_embeddings=False)  # noqa: E731 - a base with options
    rows = [{"text": row["text"]} for row in texts(ragged=ragged)]
    return pretrained(root, base, "causal-lm", rows, DECODER, **wanted)


def preference(root: Path, **wanted: Any) -> WorkOrder:
    rows = [{"prompt": WORDS[at % 20], "chosen": " good", "rejected": " bad"} for at in range(40)]
    base = lambda folder: tiny.llama(folder, tie_word_embeddings=False)  # noqa: E731 - a base with options
    return pretrained(root, base, "preference", rows, DECODER, **wanted)


ORDERS = [mlp, convnet, encoder, head_only, tokens, pairs, decoder, preference]


def said(done: Attempt) -> list[str]:
    return [each["message"] for each in done.of("event") if "prefix" in each["message"]]


def in_use(done: Attempt) -> bool:
    return any(message.startswith("prefix cache: ") for message in said(done))


def run(order: Callable[..., WorkOrder], root: Path, **wanted: Any) -> Attempt:
    return attempt(order(root, **wanted), root)


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.__name__)
def test_same_bits_as_computed_live(tmp_path: Path, order: Callable[..., WorkOrder]) -> None:
    """Batches of one shape: the result of every task is bit-equal with and without, and so is each loss."""
    with_it = run(order, tmp_path / "with")
    without = run(order, tmp_path / "without", prefix_cache=False)
    assert in_use(with_it)
    assert not said(without)
    assert_same(with_it, without)
    curves = [(done.place.files / "metrics.jsonl").read_text() for done in (with_it, without)]
    assert curves[0] == curves[1]
    assert any(each["stage"] == "caching" for each in with_it.of("stage"))


@pytest.mark.parametrize("mechanism", ["requires_grad", "detach", "param_group"])
def test_every_mechanism_has_it(tmp_path: Path, mechanism: str) -> None:
    """However the prefix is frozen."""
    policy = LOWER | {"mechanism": mechanism}
    with_it = run(encoder, tmp_path / "with", policy=policy)
    assert in_use(with_it)
    assert_same(with_it, run(encoder, tmp_path / "without", policy=policy, prefix_cache=False))


@pytest.mark.parametrize("order", [encoder, decoder, head_only], ids=lambda order: order.__name__)
def test_other_shapes_differ_in_last_bits_alone(tmp_path: Path, order: Callable[..., WorkOrder]) -> None:
    """Texts of several lengths are padded otherwise in the cache than in a batch: equal within 1e-5."""
    with_it = run(order, tmp_path / "with", ragged=True)
    without = run(order, tmp_path / "without", ragged=True, prefix_cache=False)
    assert in_use(with_it)
    for name, tensor in without.changed.items():
        torch.testing.assert_close(with_it.changed[name], tensor, rtol=1e-4, atol=1e-5)


def test_frozen_layers_are_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After it is filled, nothing of the prefix runs: neither in training nor in evaluation."""
    calls = {"frozen": 0}

    class Counted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            calls["frozen"] += 1
            return super().forward(x)

    monkeypatch.setitem(architectures.OURS, "counted", lambda: nn.Sequential(Counted(10, 16), nn.Linear(16, 10)))
    begun = prefix_cache.begin

    def counted_from_here(*arguments: Any) -> PrefixCache | None:
        found = begun(*arguments)
        calls["frozen"] = 0
        return found

    monkeypatch.setattr(prefix_cache, "begin", counted_from_here)
    for wanted, least in (({}, 0), ({"prefix_cache": False}, 15)):
        order = tabular(tmp_path / str(least), "counted", {}, {"freeze": ["0.**"]}, **wanted)
        done = attempt(order, tmp_path / str(least))
        assert done.code == 0
        assert (calls["frozen"] >= least) if least else (calls["frozen"] == 0)


@pytest.mark.parametrize("order", [head_only, tokens, convnet], ids=lambda order: order.__name__)
def test_inputs_that_nothing_reads_are_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: Callable[..., WorkOrder]
) -> None:
    """Where all that reads them is frozen; the run is the same as from whole batches, in evaluations too."""
    made = {"outline": 0, "batch": 0}

    def batch(cache: PrefixCache, positions: Any, examples: Any) -> Any:
        whole = cache.prefix.reads_inputs
        made["batch" if whole else "outline"] += 1
        return examples.batch(positions) if whole or hollow is None else examples.outline(positions)

    hollow: bool | None = True
    monkeypatch.setattr(PrefixCache, "batch", batch)
    one = run(order, tmp_path / "outlines", validation_fraction=0.2)
    outlines = made["outline"]
    hollow = None
    other = run(order, tmp_path / "batches", validation_fraction=0.2)
    assert_same(one, other)
    assert (outlines > 0) == (order is not tokens)


@pytest.mark.parametrize("kept_in", ["memory", "file"])
@pytest.mark.parametrize("order", [encoder, decoder], ids=lambda order: order.__name__)
def test_resumed_run_has_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: Callable[..., WorkOrder], kept_in: str
) -> None:
    """Killed and gone on, with texts of several lengths: what an example gives depends on the data alone."""
    if kept_in == "file":
        monkeypatch.setattr(prefix_filling, "MEMORY_BYTES", 0)
    saving = {"checkpoint_steps": 2, "keep_checkpoints": 100, "ragged": True}
    whole = run(order, tmp_path / "whole", **saving)
    work = order(tmp_path / "resumed", **saving)
    copy_checkpoints(whole, tmp_path / "resumed", drop=3 + (kept_in == "file"))
    resumed = attempt(work, tmp_path / "resumed")
    assert in_use(resumed)
    assert any(each["message"].startswith("goes on after step") for each in resumed.of("event"))
    assert_same(whole, resumed)


def test_file_serves_the_next_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results that lie in a file are not computed by the attempt after; another prefix's are removed."""
    monkeypatch.setattr(prefix_filling, "MEMORY_BYTES", 0)
    first = run(encoder, tmp_path, ragged=True)
    other = first.place.checkpoints / "prefix-0123456789abcdef"
    other.mkdir()
    second = run(encoder, tmp_path, ragged=True)
    told = [each["data"]["reused"] for each in second.of("event") if each["message"].startswith("prefix cache: ")]
    assert told == [0, 40]
    assert not other.exists()


def test_dropout_turns_auto_off(tmp_path: Path) -> None:
    """`auto` never changes what is trained: with dropout in the frozen layers it is the run without, and says why."""
    auto = run(encoder, tmp_path / "auto", dropout=True)
    off = run(encoder, tmp_path / "off", dropout=True, prefix_cache=False)
    assert not in_use(auto)
    assert "dropout acts in the frozen layers" in said(auto)[0]
    assert_same(auto, off)


def test_true_turns_dropout_in_the_prefix_off(tmp_path: Path) -> None:
    """Asked for by name it is another run, with dropout where it trains still on."""
    asked = run(encoder, tmp_path / "asked", dropout=True, prefix_cache=True)
    again = run(encoder, tmp_path / "again", dropout=True, prefix_cache=True)
    off = run(encoder, tmp_path / "off", dropout=True, prefix_cache=False)
    assert "dropout in it is off" in said(asked)[0]
    assert_same(asked, again)
    still = run(encoder, tmp_path / "still", prefix_cache=True)
    for other in (off, still):
        assert any(not torch.equal(asked.changed[name], other.changed[name]) for name in asked.changed)


FIXED: dict[str, Any] = {"dropout": True, "frozen_dropout": False}


@pytest.mark.parametrize("order", [encoder, head_only], ids=lambda order: order.__name__)
def test_kept_by_default_in_a_model_with_dropout(tmp_path: Path, order: Callable[..., WorkOrder]) -> None:
    """What is frozen acts as a fixed function, so `auto` keeps its results, with the bits of the run without."""
    auto = run(order, tmp_path / "auto", **FIXED)
    off = run(order, tmp_path / "off", prefix_cache=False, **FIXED)
    assert in_use(auto)
    assert "dropout in it is off" not in said(auto)[0]
    assert_same(auto, off)
    with_dropout = run(order, tmp_path / "on", dropout=True, frozen_dropout=True)
    assert any(not torch.equal(auto.changed[name], with_dropout.changed[name]) for name in auto.changed)


def test_the_choice_is_on_record(tmp_path: Path) -> None:
    """In an event, in determinism.json and in the model card, each with the reason."""
    for wish, text in ((False, fixed.OFF), (True, fixed.ON)):
        done = run(encoder, tmp_path / str(wish), dropout=True, frozen_dropout=wish)
        assert text in [event["message"] for event in done.of("event")]
        choice = json.loads((done.place.files / "determinism.json").read_text())["frozen_dropout"]
        assert choice == {"value": wish, "reason": text}
        assert f"{text[0].upper()}{text[1:]}." in (done.place.files / "README.md").read_text()


def test_a_job_from_before_the_choice_trains_as_then(tmp_path: Path) -> None:
    """Without the field dropout is on, nothing is said, and its checkpoints are those of a job that asks for it."""
    before = run(encoder, tmp_path / "before", dropout=True, checkpoint_steps=2, keep_checkpoints=100)
    on = run(encoder, tmp_path / "on", dropout=True, frozen_dropout=True)
    assert_same(before, on)
    assert fixed.ON not in [event["message"] for event in before.of("event")]
    work = encoder(tmp_path / "resumed", dropout=True, frozen_dropout=True)
    copy_checkpoints(before, tmp_path / "resumed", drop=3)
    resumed = attempt(work, tmp_path / "resumed")
    assert any(event["message"].startswith("goes on after step") for event in resumed.of("event"))
    assert_same(before, resumed)


def test_the_gain_is_in_words(tmp_path: Path) -> None:
    """Which modules, how much of a pass, and how much faster; in `progress`, too."""
    done = run(encoder, tmp_path, n_epochs=20, **FIXED)
    first = said(done)[0]
    assert first.startswith("prefix cache: kept: bert.embeddings, bert.encoder.layer.0, ")
    assert "% of a forward pass; " in first and (" times as fast; " in first or "no faster" in first)
    (report,) = done.of("prefix_cache")
    assert report["gain"] > 0 and report["reused"] == 0


def test_one_epoch_of_little_is_kept_for_the_next_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs this run nothing; what would need a file is not kept."""
    done = run(encoder, tmp_path / "little", n_epochs=1, **FIXED)
    assert in_use(done)
    monkeypatch.setattr(prefix_filling, "MEMORY_BYTES", 1000)
    much = run(encoder, tmp_path / "much", n_epochs=1, **FIXED)
    assert not in_use(much)
    assert "every example is seen once, and they would take" in said(much)[0]
    assert [event["level"] for event in much.of("event") if "seen once" in event["message"]] == ["info"]


def test_fixed_embeddings_alone_save_nothing(tmp_path: Path) -> None:
    """A look-up costs what fetching its kept result costs."""
    done = run(encoder, tmp_path, policy={"freeze": ["bert.embeddings.**"]}, **FIXED)
    assert not in_use(done)
    assert "by counted cost" in said(done)[0]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an audit": ({"policy": LOWER | {"enforce": False}}, "in an audit"),
    "violations let pass": ({"policy": LOWER | {"on_violation": "continue"}}, "on_violation"),
    "one epoch": ({"n_epochs": 1}, "seen once"),
    "embeddings alone": ({"policy": {"freeze": ["bert.embeddings.**"]}}, "of a forward pass"),
    "frozen behind what trains": ({"policy": {"freeze": ["bert.encoder.layer.1.**"]}}, "no module that is frozen"),
    "a tensor within": (
        {"policy": {"freeze": ["bert.encoder.**", "bert.embeddings.LayerNorm.**"]}},
        "no module that is frozen",
    ),
    "rows of the embeddings": (
        {
            "policy": {
                "default": "train",
                "rules": [
                    {
                        "id": "new",
                        "action": "train",
                        "select": {"name": "bert.embeddings.word_embeddings.weight", "rows": [[5, 9]]},
                    },
                    {"id": "rest", "action": "freeze", "select": {"name": "bert.**"}},
                ],
            }
        },
        "saves nothing",
    ),
    "a freeze that ends": (
        {
            "policy": {
                "default": "train",
                "rules": [
                    {
                        "id": "for-a-while",
                        "action": "freeze",
                        "select": {"name": "bert.embeddings.**"},
                        "when": [{"from_step": 0, "to_step": 8}],
                    },
                    {"id": "rest", "action": "freeze", "select": {"name": "bert.encoder.**"}},
                ],
            }
        },
        "no module that is frozen",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_reason(tmp_path: Path, case: str) -> None:
    """Each condition: the job runs as without, and an event says why."""
    wanted, reason = REFUSED[case]
    done = run(encoder, tmp_path / "auto", **wanted)
    assert done.code == 0
    assert not in_use(done)
    assert reason in said(done)[0]
    if case != "an audit":
        assert_same(done, run(encoder, tmp_path / "off", prefix_cache=False, **wanted))


def test_refusal_is_a_warning_where_it_was_asked_for(tmp_path: Path) -> None:
    """`true` that cannot be is told as a warning, and the job goes on; without anything frozen `auto` says nothing."""
    asked = run(encoder, tmp_path / "asked", policy={"default": "train", "rules": []}, prefix_cache=True)
    levels = [each["level"] for each in asked.of("event") if "prefix" in each["message"]]
    assert levels == ["warn"]
    assert "no parameter is frozen" in said(asked)[0]
    assert not said(run(encoder, tmp_path / "auto", policy={"default": "train", "rules": []}))


def test_schedule_elsewhere_does_not_matter(tmp_path: Path) -> None:
    """A tensor that is frozen for a while trains; what is frozen before it for the whole run is kept."""
    rules = [
        {"id": "whole", "action": "freeze", "select": {"name": "bert.embeddings.**"}},
        {"id": "too", "action": "freeze", "select": {"name": "bert.encoder.layer.0.**"}},
        {
            "id": "for-a-while",
            "action": "freeze",
            "select": {"name": "bert.encoder.layer.1.**"},
            "when": [{"from_step": 0, "to_step": 8}],
        },
    ]
    policy = {"default": "train", "rules": rules}
    done = run(encoder, tmp_path / "with", policy=policy)
    event = next(each for each in done.of("event") if each["message"].startswith("prefix cache: "))
    assert event["data"]["modules"] == ["bert.embeddings", "bert.encoder.layer.0"]
    assert_same(done, run(encoder, tmp_path / "without", policy=policy, prefix_cache=False))


def test_tie_into_what_trains(tmp_path: Path) -> None:
    """Embeddings that are the output layer's weights as well train with it, so nothing before the layers is kept."""
    base = lambda folder: tiny.llama(folder)  # noqa: E731 - tied by default
    rows = [{"text": row["text"]} for row in texts(ragged=False)]
    policy = {"freeze": ["model.layers.0.**"]}
    done = attempt(pretrained(tmp_path / "a", base, "causal-lm", rows, policy), tmp_path / "a")
    assert "no module that is frozen" in said(done)[0]
    frozen = {"train": ["model.layers.1.**"]}
    both = attempt(pretrained(tmp_path / "b", base, "causal-lm", rows, frozen), tmp_path / "b")
    assert in_use(both)


class Moody(nn.Module):
    """Computes something else in training, and draws nothing for it."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.head = Doubling(10, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.frozen(x))
        return found


class Doubling(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2 if self.training else 1)


class Hidden(Moody):
    """Its frozen layer puts something aside, which the head then uses."""

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        middle = self.frozen(x)
        kept.append(self.frozen.weight.sum() * x.sum(dim=0, keepdim=True).sum())
        found: Tensor = self.head(middle) + kept[0]
        return found


class Asking(Moody):
    """Python decides by a value that trains."""

    def forward(self, x: Tensor) -> Tensor:
        scale = 1.0 if self.head.bias.detach()[0].item() < 1e9 else 2.0
        found: Tensor = self.head(self.frozen(x * scale))
        return found


@pytest.mark.parametrize(
    ("kind", "reason"), [(Moody, "in training than in eval mode"), (Asking, "lets Python read a value that trains")]
)
def test_structures_that_are_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[nn.Module], reason: str
) -> None:
    """Models whose frozen part cannot be taken for a function of the input: told, and trained as without."""
    monkeypatch.setitem(architectures.OURS, "strange", kind)
    done = attempt(tabular(tmp_path, "strange", {}, {"freeze": ["frozen.**"]}), tmp_path)
    assert done.code == 0
    assert reason in said(done)[0]


def test_use_beside_the_prefix_stays_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen weight that is used outside of its module is read there as ever."""
    monkeypatch.setitem(architectures.OURS, "hidden", Hidden)
    monkeypatch.setattr(Doubling, "forward", nn.Linear.forward)
    found = [
        attempt(
            tabular(tmp_path / str(wish), "hidden", {}, {"freeze": ["frozen.**"]}, prefix_cache=wish),
            tmp_path / str(wish),
        )
        for wish in (True, False)
    ]
    assert in_use(found[0])
    assert_same(*found)


def test_drift_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write to the prefix in mid-run: the witness finds it as without, though no step reads the weight."""
    update = loop.update

    def writing(run: loop.Run, step: int) -> Any:
        found = update(run, step)
        if step == 6:
            run.state.model.get_parameter("bert.encoder.layer.0.output.dense.bias").data[0] += 1
        return found

    monkeypatch.setattr(loop, "update", writing)
    done = run(encoder, tmp_path)
    assert in_use(done)
    assert (done.code, done.failure["code"]) == (1, "frozen_tensor_changed")
    assert done.of("violation")[0]["name"] == "bert.encoder.layer.0.output.dense.bias"


def test_prefix_is_looked_at_once_more_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its digests are compared when training is over; what differs is named."""
    close = PrefixCache.close

    def after_a_write(self: PrefixCache) -> None:
        self.request.model.get_parameter("bert.embeddings.LayerNorm.bias").data[0] += 1
        close(self)

    honest = run(encoder, tmp_path / "honest")
    assert "is unchanged" in said(honest)[-1]
    monkeypatch.setattr(PrefixCache, "close", after_a_write)
    done = run(encoder, tmp_path / "written")
    assert "the frozen prefix changed" in said(done)[-1]
    assert "bert.embeddings.LayerNorm.bias" in said(done)[-1]


def test_packed_rows(tmp_path: Path) -> None:
    """Examples that share rows meet others in each epoch."""
    done = run(decoder, tmp_path, ragged=True, packing=True)
    assert done.code == 0
    assert "share rows" in said(done)[0]


@pytest.mark.parametrize("wish", ["auto", True])
def test_disk_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: bool | str) -> None:
    """No room for the file: `auto` computes live, `true` goes on without dropout in the prefix; a warning says so."""

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    whole = run(encoder, tmp_path / "whole", prefix_cache=wish, dropout=wish is True)
    monkeypatch.setattr(prefix_filling, "MEMORY_BYTES", 0)
    monkeypatch.setattr(os, "posix_fallocate", full)
    done = run(encoder, tmp_path / "full", prefix_cache=wish, dropout=wish is True)
    assert not in_use(done)
    assert "are not kept: [Errno 28]" in said(done)[0]
    assert_same(whole, done)


def test_too_much_to_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a size it is not begun."""
    monkeypatch.setattr(prefix_filling, "MOST_BYTES", 1000)
    done = run(encoder, tmp_path)
    assert done.code == 0
    assert "1,000 is the most" in said(done)[0]


def test_stop_while_it_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM then: exit 75, and the next attempt ends with the same bits."""
    whole = run(encoder, tmp_path / "whole")
    put = store.KeptResults.put

    def stopping(self: store.KeptResults, *arguments: Any) -> None:
        put(self, *arguments)
        if self.count == 40:
            os.kill(os.getpid(), 15)

    with monkeypatch.context() as patch:
        patch.setattr(store.KeptResults, "put", stopping)
        stopped = run(encoder, tmp_path / "stopped")
    assert stopped.code == 75
    assert_same(whole, run(encoder, tmp_path / "stopped"))


def test_another_value_is_refused_by_name(tmp_path: Path) -> None:
    """Neither true, false nor auto."""
    order = encoder(tmp_path).to_json()
    done = attempt_json(order | {"hyperparameters": order["hyperparameters"] | {"prefix_cache": "yes"}}, tmp_path)
    assert done.failure["param"] == "hyperparameters.prefix_cache"


def test_use_is_reported(tmp_path: Path) -> None:
    """Whether results are kept, of what and where; or why they are not."""
    (kept,) = attempt(mlp(tmp_path / "kept"), tmp_path / "kept").of("prefix_cache")
    assert (kept["in_use"], kept["stored"], kept["share"] > 0.1) == (True, "memory", True)
    assert kept["modules"]
    (off,) = attempt(mlp(tmp_path / "off", prefix_cache=False), tmp_path / "off").of("prefix_cache")
    assert (off["in_use"], off["reason"]) == (False, "prefix_cache is false")


def test_several_devices_say_why_not(tmp_path: Path) -> None:
    """Left to itself it is not kept there, which the job says; asked for, the job is refused."""
    order = mlp(tmp_path / "auto")
    done = attempt(WorkOrder.from_json(order.to_json() | {"devices": 2}), tmp_path / "auto")
    assert done.code == 0, done.reports
    (off,) = done.of("prefix_cache")
    assert (off["in_use"], off["reason"]) == (False, "the run is on several devices")
    asked = mlp(tmp_path / "asked", prefix_cache=True)
    refused = attempt(WorkOrder.from_json(asked.to_json() | {"devices": 2}), tmp_path / "asked")
    assert refused.failure["param"] == "hyperparameters.prefix_cache"
