"""Writes a finished run's out/ folder: changed tensors, the list of the result, observations, and files for loading."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors.torch import save_file

from app.evidence.format.templates import templates_in
from app.freeze.implied import is_of_adapter
from app.freeze.plan import Decision, FreezePlan
from app.specs.models import ModelSpec, TorchSpec, TransformersSpec
from worker.protocol import Workspace, write_json
from worker.trainer import curves
from worker.trainer.checkpoint import flush
from worker.trainer.freeze.inventory import dtype_code
from worker.trainer.models import adapters, configs, pretrained, processors
from worker.trainer.models.names import StoredTensor
from worker.trainer.models.sentence import SentenceHead
from worker.trainer.models.tracked import Readings, TrackedModel
from worker.trainer.witness.report import WitnessReport

# Files of a base folder that are copied to the result; config and tokenizer are written anew.
CONFIGURATIONS = (*processors.COMPANIONS, "tokenizer_config.json")
#: What of the configurations of sentence-transformers is kept; other keys choose classes and their arguments.
SENTENCE_KEYS = {
    "sentence_bert_config.json": ("max_seq_length", "do_lower_case"),
    "config_sentence_transformers.json": ("prompts", "default_prompt_name", "similarity_fn_name"),
}
COMPANIONS = ("generation_config.json", *processors.COMPANIONS)
TOKENIZER_FILES = (
    *pretrained.TOKENIZER_FILES,
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer_config.json",
)


def write_initial(workspace: Workspace, tracked: TrackedModel) -> None:
    """Writes `model.initial.safetensors`: tensors that the base lacks, as they were before the first step."""
    new = {each.name: each for each in tracked.stored() if each.name not in tracked.pairs}
    if tracked.loaded.adapter and tracked.loaded.adapter.merge:  # the adapter itself is not in the result
        new = {adapters.plain_name(tracked.model, name): each for name, each in new.items()}
        new = {name: each for name, each in new.items() if not is_of_adapter(each.live)}
    if new:
        tensors = {name: each.tensor.detach().to("cpu", copy=True).contiguous() for name, each in new.items()}
        _write_tensors(workspace.initial, tensors)


def write_form(
    workspace: Workspace, tracked: TrackedModel, spec: ModelSpec, *, task: str, labels: Sequence[str] | None
) -> None:
    """Writes how to make a model from a checkpoint: where each stored tensor's bytes are. Call before the first one.

    A `part` is in the checkpoint under its stored name; any other tensor under its live name, or it never changes.
    """
    saved = sorted((each for each in tracked.stored() if each.saved), key=lambda one: one.name.encode())
    tensors = [
        {"name": each.name, "live": each.live, "part": each.part, "base_name": tracked.pairs.get(each.name)}
        for each in saved
    ]
    manifest = [each.to_json() for each in tracked.inventory]
    _write_use(workspace, workspace.form_files, tracked, spec, task=task, labels=labels)
    write_json(workspace.form, {"tensors": tensors, "kind": kind_of(tracked), "manifest": manifest}, indent=None)


def write_result(workspace: Workspace, tracked: TrackedModel, trained: Readings) -> int:
    """Writes `model.changed.safetensors` and `result.json`. Returns the number of changed tensors.

    A tensor is listed as "from base" only where bytes, dtype and shape are those of its base tensor.
    """
    changed, entries = {}, []
    saved = [each for each in tracked.stored() if each.saved]
    for each in sorted(saved, key=lambda one: one.name.encode()):
        base_name = tracked.pairs.get(each.name)
        dtype, shape = dtype_code(each.tensor, each.name), tuple(each.tensor.shape)
        base = tracked.base[base_name] if base_name is not None else None
        same = base is not None and (base.sha256, base.dtype, base.shape) == (trained.stored[each.name], dtype, shape)
        if not same:
            changed[each.name] = each.tensor.detach().to("cpu", copy=True).contiguous()
        source = "base" if same else "changed"
        entries.append(
            {"name": each.name, "dtype": dtype, "shape": list(shape), "from": source, "base_name": base_name}
        )
    _write_tensors(workspace.changed, changed)
    write_json(
        workspace.result, {"tensors": entries, "metadata": {"format": "pt"}, "kind": kind_of(tracked)}, indent=None
    )
    return len(changed)


def write_observations(
    workspace: Workspace,
    tracked: TrackedModel,
    plan: FreezePlan,
    loaded: Readings,
    trained: Readings,
    report: WitnessReport,
    *,
    steps: int,
) -> None:
    """Writes observations.json: the trainer's readings, which the supervisor compares with its own."""
    rows = observed(tracked, plan, loaded, trained)
    for row in rows:
        row["intervals"] = [each.to_json() for each in report.intervals.get(row["name"], ())]
        row["first_changed_step"] = report.first_changed.get(row["name"])
    content = {"schema": 1, "steps": steps, "plan": plan.to_json(), "tensors": rows, **report.to_json()}
    content["merged"] = list(tracked.loaded.merged)
    write_json(workspace.observations, content, indent=None)


def observed(tracked: TrackedModel, plan: FreezePlan, loaded: Readings, trained: Readings) -> list[dict[str, Any]]:
    """The tensors of observations.json, without what the witness saw of them."""
    parts: dict[str, list[StoredTensor]] = {}
    for each in tracked.stored():
        parts.setdefault(each.live, []).append(each)

    rows = []
    for info in sorted(tracked.inventory, key=lambda one: one.name.encode()):
        stored = parts.get(info.name, [])
        row = {
            **info.to_json(),
            "loaded": loaded.whole[info.name],
            "trained": trained.whole[info.name],
            **_stored_as(stored, tracked),
            "slices": [
                *_slices(plan.decision(info.name), loaded, trained, grown=tracked.grown.get(info.name)),
                *_part_slices(stored, loaded, trained),
            ],
            "base_rows": tracked.grown.get(info.name),
            "intervals": [],
            "first_changed_step": None,
        }
        rows.append(row)
    return rows


def write_files(
    workspace: Workspace,
    tracked: TrackedModel,
    spec: ModelSpec,
    *,
    task: str,
    labels: Sequence[str] | None,
    history: Sequence[Mapping[str, Any]],
    card: str,
    tensorboard: bool = False,
) -> None:
    """Writes config.json, tokenizer, metrics, the model card, and the base folder's companion files."""
    _write_use(workspace, workspace.files, tracked, spec, task=task, labels=labels)
    curves.write(workspace.files, history, tensorboard=tensorboard)
    (workspace.files / "README.md").write_text(card, "utf-8")
    for path in (*workspace.files.rglob("*"), workspace.files):
        flush(path)


def _write_use(
    workspace: Workspace,
    folder: Path,
    tracked: TrackedModel,
    spec: ModelSpec,
    *,
    task: str,
    labels: Sequence[str] | None,
) -> None:
    """Writes what a loader needs beside the weights: configuration and tokenizer."""
    config = copy.deepcopy(getattr(tracked.model, "config", None))
    if isinstance(tracked.model, PeftModel):
        base = spec.path if isinstance(spec, TransformersSpec) else ""
        adapters.save_config(tracked.model, folder, task=task, base=base, new=tracked.loaded.new)
    elif config is not None and hasattr(config, "save_pretrained"):
        config.architectures = [type(tracked.model).__name__]
        if hasattr(config, "use_cache"):  # off while training
            config.use_cache = configs.read(workspace.base / "config.json").get("use_cache", True)
        config.save_pretrained(folder)
        _copy(workspace.base, folder, COMPANIONS)
        if tracked.loaded.processor is not None and not (folder / pretrained.PREPROCESSOR).exists():
            tracked.loaded.processor.save_pretrained(folder)  # in the base it is a part of another one
        _write_modules(workspace.base, folder, tracked.loaded.sentence)
    elif isinstance(spec, TorchSpec):
        use = {"type": "torch", "architecture": spec.architecture, "kwargs": dict(spec.kwargs or {})}
        write_json(folder / "config.json", use | ({"labels": list(labels)} if labels else {}))
    if tracked.loaded.tokenizer is not None:
        _write_tokenizer(workspace.base, folder, tracked.loaded.tokenizer)


def _write_modules(base: Path, folder: Path, head: SentenceHead | None) -> None:
    """Writes what sentence-transformers reads beside the weights of a folder with modules."""
    if head is None:
        return
    for name, content in head.files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_json(folder / name, content)
    for name, keys in SENTENCE_KEYS.items():
        stored = configs.read(base / name) if (base / name).is_file() else {}
        kept = {key: stored[key] for key in keys if key in stored}
        if kept:
            write_json(folder / name, kept)


def kind_of(tracked: TrackedModel) -> str:
    return "adapter" if tracked.loaded.adapter else "full"


def _stored_as(stored: Sequence[StoredTensor], tracked: TrackedModel) -> dict[str, Any]:
    """Where a live tensor is in the base and in the result: a name, or pieces by rows where transformers fused them.

    Pieces that are not ranges of rows cannot be compared by a verifier, so they are left out.
    """
    whole = [each for each in stored if not each.part]
    if whole:
        pieces = [{"name": tracked.pairs[each.name], "rows": None} for each in whole if each.name in tracked.pairs]
        return {"base": pieces, "result": [{"name": each.name, "rows": None} for each in whole if each.saved]}
    if not stored or any(each.rows is None for each in stored):
        return {"base": [], "result": None}
    stored = sorted(stored, key=lambda each: each.rows or (0, 0))
    return {
        "base": [
            {"name": tracked.pairs[each.name], "rows": each.rows} for each in stored if each.name in tracked.pairs
        ],
        "result": [{"name": each.name, "rows": each.rows} for each in stored],
    }


def _part_slices(stored: Sequence[StoredTensor], loaded: Readings, trained: Readings) -> list[dict[str, Any]]:
    return [
        {"rows": list(each.rows), "loaded": loaded.stored[each.name], "trained": trained.stored[each.name]}
        for each in stored
        if each.part and each.rows is not None
    ]


def _slices(decision: Decision, loaded: Readings, trained: Readings, *, grown: int | None) -> list[dict[str, Any]]:
    spans = [
        *((span, "freeze") for span in decision.frozen_rows),
        *((span, "train") for span in decision.trainable_rows),
    ]
    if grown is not None and not spans:
        spans = [((0, grown), "train"), ((grown, decision.shape[0]), "train")]
    before, after = loaded.rows.get(decision.name, {}), trained.rows.get(decision.name, {})
    return [
        {"rows": list(span), "action": action, "loaded": before[span], "trained": after[span]}
        for span, action in sorted(spans)
    ]


def _write_tensors(path: Path, tensors: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file(dict(tensors), temporary, metadata={"format": "pt"})
    temporary.chmod(0o644)  # safetensors writes 0600
    flush(temporary)
    temporary.replace(path)
    flush(path.parent)


def _write_tokenizer(base: Path, folder: Path, tokenizer: Any) -> None:
    """Copies the base's tokenizer files, or saves the tokenizer where a token or a chat template was added."""
    if pretrained.as_stored(tokenizer):
        _copy(base, folder, (*TOKENIZER_FILES, *templates_in(base)))
        return
    if tokenizer.is_fast:  # options of the last call are not part of the tokenizer
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    # Several templates stay where the base has them: in tokenizer_config.json, or in a folder of their own.
    as_files = not isinstance(tokenizer.chat_template, dict) or bool(templates_in(base))
    tokenizer.save_pretrained(folder, save_jinja_files=as_files)
    _without_ignored_keys(folder / "tokenizer_config.json")


def _without_ignored_keys(path: Path) -> None:
    """Removes keys that name code, which is not in the result."""
    if configs.ignored_keys(path):
        write_json(path, configs.read(path))


def _copy(base: Path, folder: Path, names: Sequence[str]) -> None:
    for name in names:
        source, target = base / name, folder / name
        if not source.is_file() or target.exists():
            continue
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, target)
        if name in CONFIGURATIONS:
            _without_ignored_keys(target)
