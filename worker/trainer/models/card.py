"""The model card of a result: base, data, freeze policy, evidence and metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from app.jsontypes import JsonDict
from app.specs.models import ModelSpec, TransformersSpec
from worker.trainer.freeze.fixed import sentence
from worker.trainer.witness.report import WitnessReport

#: Task names of model hubs for our tasks.
PIPELINES: Final = {
    "causal-lm": "text-generation",
    "preference": "text-generation",
    "text-classification": "text-classification",
    "text-ranking": "text-ranking",
    "token-classification": "token-classification",
    "pairs": "sentence-similarity",
    "image-classification": "image-classification",
    "contrastive-image-text": "zero-shot-image-classification",
    "image-text": "image-text-to-text",
}
#: Names of moved tensors that a card lists; the evidence has all of them.
_LISTED: Final = 20
_MERGED: Final = (
    "- merged: the adapter was added to tensors of the base after training, so fewer are frozen in the result than were"
    " watched during training"
)


def text(
    *,
    job_id: str,
    task: str,
    spec: ModelSpec,
    data_sha256: str,
    policy: Mapping[str, Any],
    counts: Mapping[str, Mapping[str, int]],
    report: WitnessReport,
    settings: Mapping[str, Any],
    metrics: Mapping[str, float],
    steps: int,
    labels: Sequence[str] | None,
) -> str:
    """The card in Markdown. Its figures are the trainer's own; the attestation is the proof.

    `counts` are the plan's, and how many tensors a schedule freezes (`scheduled`) and loading decoded (`decoded`).
    """
    frozen, trainable = counts["frozen"], counts["trainable"]
    lines = [
        *_front(spec, task),
        f"# {job_id}",
        "",
        f"Fine-tuned for {task} by Permafrost.",
        "",
        f"- base: `{_json(spec.to_json())}`",
        f"- training data, SHA-256: `{data_sha256}`",
        f"- steps: {steps}",
        f"- frozen: {frozen['tensors']} tensors, {frozen['elements']:,} elements, {frozen['bytes']:,} bytes",
        f"- trained: {trainable['tensors']} tensors, {trainable['elements']:,} elements",
        *([_scheduled(scheduled)] if (scheduled := counts.get("scheduled", {}).get("tensors")) else []),
        *([_decoded(decoded)] if (decoded := counts.get("decoded", {}).get("tensors")) else []),
        *([_MERGED] if isinstance(spec, TransformersSpec) and spec.adapter and spec.adapter.merge else []),
        *([f"- labels: {', '.join(labels[:50])}"] if labels else []),
        "",
        "## Freeze policy",
        "",
        *_block(policy),
        "",
        *([f"{_dropout(settings)}.", ""] if frozen["tensors"] else []),
        "## Evidence",
        "",
        f"- {_watched(report)}",
        "- The job's attestation says whether what was frozen is bit-identical to the base: `permafrost verify`.",
        "",
        "## Metrics",
        "",
        *([f"- {name}: {value:.6g}" for name, value in metrics.items()] or ["No validation data was given."]),
        "",
        "## Hyperparameters",
        "",
        *_block(settings),
        "",
    ]
    return "\n".join(lines)


def _decoded(tensors: int) -> str:
    return f"- {tensors} weights of the model were decoded for the computation from codes, which the base stores"


def _scheduled(count: int) -> str:
    tensors = "1 tensor" if count == 1 else f"{count} tensors"
    return (
        f"- frozen by a schedule: {tensors}, counted as trained; the attestation has the steps in which it did not move"
    )


def _front(spec: ModelSpec, task: str) -> list[str]:
    """The YAML front matter, with values written as JSON, which is valid YAML without ambiguity."""
    front: JsonDict = {}
    if isinstance(spec, TransformersSpec):
        front |= {"base_model": spec.path, "library_name": "peft" if _is_adapter(spec) else "transformers"}
        front |= {"pipeline_tag": PIPELINES[task]} if task in PIPELINES else {}
    front["tags"] = ["permafrost", task]
    return ["---", *(f"{name}: {json.dumps(value, ensure_ascii=True)}" for name, value in front.items()), "---", ""]


def _is_adapter(spec: TransformersSpec) -> bool:
    return spec.adapter is not None and not spec.adapter.merge


def _dropout(settings: Mapping[str, Any]) -> str:
    choice = sentence(frozen_dropout=settings.get("frozen_dropout") is not False)
    return choice[0].upper() + choice[1:]


def _watched(report: WitnessReport) -> str:
    if not report.watched:
        return "Nothing was frozen, so nothing was watched."
    moved = [violation.name for violation in report.violations]
    rest = f" and {len(moved) - _LISTED} more, all of which the evidence lists" if len(moved) > _LISTED else ""
    what = f"changed: {', '.join(moved[:_LISTED])}{rest}" if moved else "no tensor had changed"
    return (
        f"{report.checks} checks of {report.watched} frozen tensors during training, from step {report.first_step} to "
        f"step {report.last_step}; {what}"
    )


def _block(content: Mapping[str, Any]) -> list[str]:
    return ["```json", json.dumps(content, indent=1, ensure_ascii=False), "```"]


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False).replace("`", "'")
