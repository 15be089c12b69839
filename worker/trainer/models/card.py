"""The model card of a result: what it was made from, what was held still, how it did."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def text(
    *,
    job_id: str,
    task: str,
    spec: Mapping[str, Any],
    data_sha256: str,
    policy: Mapping[str, Any],
    counts: Mapping[str, Mapping[str, int]],
    settings: Mapping[str, Any],
    metrics: Mapping[str, float],
    steps: int,
    labels: Sequence[str] | None,
) -> str:
    """Markdown. Figures are the trainer's; the attestation, not this page, is the proof."""
    frozen, trainable = counts["frozen"], counts["trainable"]
    lines = [
        f"# {job_id}",
        "",
        f"Fine-tuned for {task} by Permafrost.",
        "",
        f"- base: `{_json(spec)}`",
        f"- training data, SHA-256: `{data_sha256}`",
        f"- steps: {steps}",
        f"- frozen: {frozen['tensors']} tensors, {frozen['elements']:,} elements, {frozen['bytes']:,} bytes",
        f"- trained: {trainable['tensors']} tensors, {trainable['elements']:,} elements",
        *([f"- labels: {', '.join(labels[:50])}"] if labels else []),
        "",
        "## Freeze policy",
        "",
        *_block(policy),
        "",
        "The job's attestation says whether what was frozen is bit-identical to the base: `permafrost verify`.",
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


def _block(content: Mapping[str, Any]) -> list[str]:
    return ["```json", json.dumps(content, indent=1, ensure_ascii=False), "```"]


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False).replace("`", "'")
